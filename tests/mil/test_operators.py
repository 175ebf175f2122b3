"""The corner cases of operators, on random shapes and attributes, against numpy loops."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, mutually_broadcastable_shapes

from edgevit.mil import operators as _registered  # noqa: F401
from edgevit.mil.dtypes import DTYPES, DType, unpack
from edgevit.mil.evaluate import Arithmetic, settle
from edgevit.mil.registry import OPERATORS

settings.register_profile("operators", max_examples=60, deadline=None, derandomize=True)
settings.load_profile("operators")

SMALL = st.floats(-4, 4, width=32)
BY_NAME = {one.name: one for one in DTYPES.values()}


def call(name: str, **arguments: Any) -> np.ndarray:
    """An operator on numpy arrays."""
    lifted = {
        key: torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value
        for key, value in arguments.items()
    }
    return OPERATORS[name].compute(**lifted).numpy()


def close(found: np.ndarray, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def values(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def windows(size: int, kernel: int, stride: int, dilation: int, before: int, after: int) -> list[list[int]]:
    """The input places, some outside, that each output place of one axis sees."""
    reach = (kernel - 1) * dilation + 1
    count = (size + before + after - reach) // stride + 1
    return [[start * stride - before + k * dilation for k in range(kernel)] for start in range(count)]


def edges(size: int, kernel: int, stride: int, dilation: int, pad_type: str, given: tuple[int, int]) -> tuple[int, int]:
    if pad_type == "valid":
        return 0, 0
    if pad_type == "custom":
        return given
    outputs = -(-size // stride)
    total = max(0, (outputs - 1) * stride + (kernel - 1) * dilation + 1 - size)
    less, more = total // 2, total - total // 2
    return (less, more) if pad_type == "same" else (more, less)


def slow_conv(
    x: np.ndarray, weight: np.ndarray, rows: list[list[int]], columns: list[list[int]], groups: int
) -> np.ndarray:
    out, per = weight.shape[0], weight.shape[1]
    found = np.zeros((x.shape[0], out, len(rows), len(columns)))
    for n, o, (i, row), (j, column) in itertools.product(
        range(x.shape[0]), range(out), list(enumerate(rows)), list(enumerate(columns))
    ):
        first = (o // (out // groups)) * per
        for c, (a, y), (b, z) in itertools.product(range(per), list(enumerate(row)), list(enumerate(column))):
            if 0 <= y < x.shape[2] and 0 <= z < x.shape[3]:
                found[n, o, i, j] += x[n, first + c, y, z] * weight[o, c, a, b]
    return found


@settings(max_examples=40)
@given(
    size=st.tuples(st.integers(3, 7), st.integers(3, 7)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.tuples(*[st.integers(0, 3)] * 4),
    pad_type=st.sampled_from(["valid", "same", "same_lower", "custom"]),
    groups=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 99),
)
def test_conv(
    size: tuple[int, int],
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    pads: tuple[int, ...],
    pad_type: str,
    groups: int,
    seed: int,
) -> None:
    seen = []
    for axis in (0, 1):
        place = (size[axis], kernel[axis], strides[axis], dilations[axis])
        seen.append(windows(*place, *edges(*place, pad_type, pads[2 * axis : 2 * axis + 2])))
    assume(all(seen))
    x, weight = values((1, 4, *size), seed), values((4, 4 // groups, *kernel), seed + 1)
    found = call(
        "conv", x=x, weight=weight, strides=strides, pad_type=pad_type, pad=pads, dilations=dilations, groups=groups
    )
    close(found, slow_conv(x, weight, seen[0], seen[1], groups), 1e-4)
    if pad_type.startswith("same"):
        assert found.shape[2:] == tuple(math.ceil(s / t) for s, t in zip(size, strides, strict=True))


@given(
    size=st.integers(3, 8),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    pads=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    pad_type=st.sampled_from(["valid", "same", "same_lower", "custom"]),
    exclude=st.booleans(),
    seed=st.integers(0, 99),
)
def test_pools(
    size: int, kernel: int, stride: int, pads: tuple[int, int], pad_type: str, exclude: bool, seed: int
) -> None:
    before, after = edges(size, kernel, stride, 1, pad_type, pads)
    assume(before < kernel and after < kernel)
    seen = windows(size, kernel, stride, 1, before, after)
    assume(seen)
    x = values((1, 2, size), seed)
    inside = [[place for place in window if 0 <= place < size] for window in seen]
    assume(all(inside))
    common = {"x": x, "kernel_sizes": (kernel,), "strides": (stride,), "pad_type": pad_type, "pad": pads}
    close(call("max_pool", **common), np.stack([x[..., w].max(-1) for w in inside], -1))
    count = [len(w) if exclude else kernel for w in inside]
    expected = np.stack([x[..., w].sum(-1) / n for w, n in zip(inside, count, strict=True)], -1)
    close(call("avg_pool", **common, exclude_padding_from_average=exclude), expected)
    close(call("l2_pool", **common), np.stack([np.sqrt((x[..., w] ** 2).sum(-1)) for w in inside], -1))


@given(
    shape=array_shapes(min_dims=2, max_dims=4, max_side=4),
    inner=st.integers(1, 4),
    width=st.integers(1, 4),
    transposed=st.tuples(st.booleans(), st.booleans()),
    seed=st.integers(0, 99),
)
def test_matmul(shape: tuple[int, ...], inner: int, width: int, transposed: tuple[bool, bool], seed: int) -> None:
    left, right = values((*shape[:-1], inner), seed), values((*shape[:-2], inner, width), seed + 1)
    expected = np.matmul(left, right)
    x = left.swapaxes(-1, -2) if transposed[0] else left
    y = right.swapaxes(-1, -2) if transposed[1] else right
    close(call("matmul", x=x, y=y, transpose_x=transposed[0], transpose_y=transposed[1]), expected)


@given(
    x=arrays(np.float32, array_shapes(min_dims=1, max_dims=5, max_side=4), elements=st.floats(-60, 60, width=32)),
    data=st.data(),
)
def test_softmax_axes(x: np.ndarray, data: st.DataObject) -> None:
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    shifted = np.exp(x.astype(np.float64) - x.max(axis, keepdims=True))
    close(call("softmax", x=x, axis=axis), shifted / shifted.sum(axis, keepdims=True))


@given(
    shape=array_shapes(min_dims=1, max_dims=4, max_side=5),
    epsilon=st.sampled_from([1e-12, 1e-6, 1e-5, 1e-2, 1.0]),
    scale=st.sampled_from([1e-3, 1.0, 100.0]),
    data=st.data(),
)
def test_layer_norm(shape: tuple[int, ...], epsilon: float, scale: float, data: st.DataObject) -> None:
    rank = len(shape)
    chosen = sorted(data.draw(st.sets(st.integers(0, rank - 1), min_size=1)))
    assume(math.prod(shape[axis] for axis in chosen) > 1)
    x = values(shape, data.draw(st.integers(0, 99))) * np.float32(scale)
    sizes = [shape[axis] for axis in chosen]
    gamma, beta = values(tuple(sizes), 1), values(tuple(sizes), 2)
    axes = tuple(axis - rank if data.draw(st.booleans()) else axis for axis in chosen)
    wide = x.astype(np.float64)
    centred = wide - wide.mean(tuple(chosen), keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(tuple(chosen), keepdims=True) + epsilon)
    laid = [size if axis in chosen else 1 for axis, size in enumerate(shape)]
    expected = normal * gamma.reshape(laid) + beta.reshape(laid)
    close(call("layer_norm", x=x, axes=axes, gamma=gamma, beta=beta, epsilon=epsilon), expected, 2e-4)


@given(shape=array_shapes(min_dims=1, max_dims=4, max_side=6), data=st.data())
def test_reshape_with_zero_and_minus_one(shape: tuple[int, ...], data: st.DataObject) -> None:
    x = values(shape, 3)
    wanted: list[int] = [0 if data.draw(st.booleans()) else size for size in shape]
    if data.draw(st.booleans()):
        wanted[data.draw(st.integers(0, len(shape) - 1))] = -1
    assert (call("reshape", x=x, shape=tuple(wanted)) == x).all()
    flat = call("reshape", x=x, shape=(-1, shape[-1]))
    assert flat.shape == (math.prod(shape[:-1]), shape[-1])
    assert (flat.reshape(-1) == x.reshape(-1)).all()
    with pytest.raises(ValueError, match="as many dimensions"):
        call("reshape", x=x, shape=(0, *([1] * len(shape)), -1))


@given(shape=array_shapes(min_dims=1, max_dims=4, max_side=7), data=st.data())
def test_slice_by_index_masks(shape: tuple[int, ...], data: st.DataObject) -> None:
    x = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    begin, end, stride, index = [], [], [], []
    masks: list[list[bool]] = [[], [], []]
    for size in shape:
        first, last = data.draw(st.integers(-size, size - 1)), data.draw(st.integers(-size - 1, size + 2))
        step = data.draw(st.sampled_from([1, 1, 2, 3, -1, -2]))
        open_first, open_last, single = (data.draw(st.booleans()) for _ in range(3))
        begin.append(first)
        end.append(last)
        stride.append(step)
        for mask, one in zip(masks, (open_first, open_last, single), strict=True):
            mask.append(one)
        index.append(first if single else slice(None if open_first else first, None if open_last else last, step))
    found = call(
        "slice_by_index",
        x=x,
        begin=tuple(begin),
        end=tuple(end),
        stride=tuple(stride),
        begin_mask=tuple(masks[0]),
        end_mask=tuple(masks[1]),
        squeeze_mask=tuple(masks[2]),
    )
    expected = x[tuple(index)]
    assert found.shape == expected.shape
    assert (found == expected).all()


@pytest.mark.parametrize(
    ("name", "numpy"),
    [("add", np.add), ("sub", np.subtract), ("mul", np.multiply), ("maximum", np.maximum), ("less", np.less)],
)
@given(shapes=mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=4), seed=st.integers(0, 99))
def test_broadcasting(name: str, numpy: Any, shapes: Any, seed: int) -> None:
    x, y = (values(shape, seed + index) for index, shape in enumerate(shapes.input_shapes))
    close(call(name, x=x, y=y).astype(np.float64), numpy(x, y).astype(np.float64))


@given(x=arrays(np.float32, array_shapes(min_dims=1, max_dims=4, max_side=5), elements=SMALL), data=st.data())
def test_pad_modes(x: np.ndarray, data: st.DataObject) -> None:
    mode = data.draw(st.sampled_from(["constant", "reflect", "replicate"]))
    count = data.draw(st.integers(1, x.ndim))
    most = [size - 1 if mode == "reflect" else 4 for size in x.shape[x.ndim - count :]]
    pairs = [(data.draw(st.integers(0, m)), data.draw(st.integers(0, m))) for m in most]
    pads = tuple(one for pair in pairs for one in pair)
    full = [(0, 0)] * (x.ndim - count) + pairs
    kind: Any = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}[mode]
    extra = {"constant_values": 1.5} if mode == "constant" else {}
    assert (call("pad", x=x, pad=pads, mode=mode, constant_val=1.5) == np.pad(x, full, kind, **extra)).all()


@given(
    shape=array_shapes(min_dims=1, max_dims=4, max_side=5),
    places=array_shapes(min_dims=0, max_dims=2, max_side=3),
    data=st.data(),
)
def test_gather(shape: tuple[int, ...], places: tuple[int, ...], data: st.DataObject) -> None:
    x, axis = values(shape, 5), data.draw(st.integers(-len(shape), len(shape) - 1))
    size = shape[axis]
    indices = np.array(data.draw(arrays(np.int32, places, elements=st.integers(-size, size - 1))))
    expected = np.take(x, indices, axis)
    assert (call("gather", x=x, indices=indices, axis=axis) == expected).all()
    with pytest.raises(ValueError, match="outside"):
        call("gather", x=x, indices=np.array([size], np.int32), axis=axis)


@given(shape=array_shapes(min_dims=1, max_dims=4, max_side=4), data=st.data())
def test_transpose_and_back(shape: tuple[int, ...], data: st.DataObject) -> None:
    x, order = values(shape, 8), data.draw(st.permutations(range(len(shape))))
    signed = tuple(axis - len(shape) if data.draw(st.booleans()) else axis for axis in order)
    assert (call("transpose", x=x, perm=signed) == x.transpose(order)).all()


INTEGERS = [one for one in BY_NAME.values() if one.is_integer and one.bits < 64]


@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda one: one.name)
@given(numbers=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=20))
def test_integers_wrap_around(dtype: DType, numbers: list[int]) -> None:
    low, high = dtype.bounds
    found = settle(torch.tensor(numbers, dtype=torch.int64), dtype).tolist()
    assert found == [(one - low) % (high - low + 1) + low for one in numbers]
    if dtype.bits in (8, 16, 32):
        assert found == np.array(numbers, np.int64).astype(dtype.storage).tolist()


@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda one: one.name)
@given(numbers=st.lists(st.floats(width=32), min_size=1, max_size=20))
def test_real_numbers_are_truncated_and_saturate(dtype: DType, numbers: list[float]) -> None:
    low, high = dtype.bounds
    found = settle(torch.tensor(numbers, dtype=torch.float32), dtype).tolist()
    for one, got in zip(numbers, found, strict=True):
        if math.isnan(one):
            assert got == 0
        else:
            assert got == (low if one < low else high if one > high else math.trunc(one))


@given(numbers=st.lists(st.floats(width=32), min_size=1, max_size=50))
def test_fp16_is_ieee_754(numbers: list[float]) -> None:
    with np.errstate(over="ignore"):
        expected = np.array(numbers, np.float32).astype(np.float16)
    found = settle(torch.tensor(numbers, dtype=torch.float32), BY_NAME["fp16"])
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), expected.astype(np.float32))


def test_where_fp16_ends() -> None:
    numbers = torch.tensor([65504.0, 65519.0, 65520.0, -65520.0, 2.0**-25, 2.0**-24])
    assert settle(numbers, BY_NAME["fp16"]).tolist() == [65504.0, 65504.0, math.inf, -math.inf, 0.0, 2.0**-24]
    assert settle(numbers, BY_NAME["fp16"], Arithmetic.EXACT).tolist() == numbers.tolist()
    assert settle(numbers, BY_NAME["fp32"], Arithmetic.HALF).tolist()[2] == math.inf


@given(bits=st.integers(1, 7), signed=st.booleans(), data=st.data())
def test_packed_integers(bits: int, signed: bool, data: st.DataObject) -> None:
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    numbers = data.draw(st.lists(st.integers(low, high), min_size=1, max_size=40))
    stream = 0
    for index, one in enumerate(numbers):
        stream |= (one & ((1 << bits) - 1)) << (index * bits)
    raw = stream.to_bytes(-(-len(numbers) * bits // 8), "little")
    assert unpack(raw, bits, len(numbers), signed=signed).tolist() == numbers


@given(
    size=st.integers(1, 6),
    wanted=st.integers(1, 9),
    mode=st.sampled_from(["STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS"]),
)
def test_sampling_stays_inside(size: int, wanted: int, mode: str) -> None:
    """Interpolated values never leave the range of the input, and a constant stays a constant."""
    x = values((1, 1, size, size), size)
    found = call("resize_bilinear", x=x, target_size_height=wanted, target_size_width=wanted, sampling_mode=mode)
    assert found.min() >= x.min() - 1e-6
    assert found.max() <= x.max() + 1e-6
    flat = np.full((1, 1, size, size), 3.0, np.float32)
    assert (
        call("resize_bilinear", x=flat, target_size_height=wanted, target_size_width=wanted, sampling_mode=mode) == 3
    ).all()


@pytest.mark.parametrize(
    ("name", "arguments", "match"),
    [
        ("gelu", {"x": np.zeros(2, np.float32), "mode": "FAST"}, "no GELU mode"),
        (
            "conv",
            {"x": np.zeros((1, 1, 3, 3), np.float32), "weight": np.zeros((1, 1, 1, 1), np.float32), "pad_type": "odd"},
            "no padding type",
        ),
        ("pad", {"x": np.zeros(3, np.float32), "pad": (3, 0), "mode": "reflect"}, "cannot be reflected"),
        ("pad", {"x": np.zeros(3, np.float32), "pad": (1, 0), "mode": "wrap"}, "no padding mode"),
        ("split", {"x": np.zeros(5, np.float32), "axis": 0, "num_splits": 2}, "equal parts"),
        ("expand_dims", {"x": np.zeros(5, np.float32), "axes": (4,)}, "does not exist"),
        (
            "scatter",
            {
                "data": np.zeros(5, np.float32),
                "indices": np.zeros(1, np.int32),
                "updates": np.zeros(1, np.float32),
                "mode": "xor",
            },
            "no scatter mode",
        ),
        ("resize_bilinear", {"x": np.zeros((1, 1, 2, 2), np.float32), "sampling_mode": "SMART"}, "no sampling mode"),
        (
            "upsample_bilinear",
            {"x": np.zeros((1, 1, 2, 2), np.float32), "align_corners": True, "half_pixel_centers": True},
            "exclude",
        ),
        (
            "constexpr_sparse_to_dense",
            {"nonzero_data": np.ones(2, np.float32), "mask": np.ones(3, np.uint8)},
            "3 places for 2",
        ),
        (
            "constexpr_blockwise_shift_scale",
            {"data": np.ones((5, 1), np.int8), "scale": np.ones((2, 1), np.float32)},
            "do not divide",
        ),
    ],
)
def test_wrong_arguments_are_refused(name: str, arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call(name, **arguments)
