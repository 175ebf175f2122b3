"""One or more calls of every operator, with what they should give.

``expected`` is left out where coremltools' own numpy ``value_inference`` knows the answer; otherwise
it is worked out here with numpy or torch, from the operator's documentation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn import functional

_random = np.random.default_rng(7)


@dataclass(frozen=True)
class Case:
    """One call: the operator, its variable inputs, its constants, and what it should give."""

    operator: str
    inputs: dict[str, np.ndarray]
    constants: dict[str, Any] = field(default_factory=dict)
    expected: Callable[..., Any] | None = None
    opset: str = "iOS17"
    tolerance: float = 2e-6

    def __str__(self) -> str:
        parts = [f"{key}={value}" for key, value in self.constants.items() if np.size(value) <= 6]
        return f"{self.operator}({', '.join(parts)})"


def normal(*shape: int) -> np.ndarray:
    return _random.normal(size=shape).astype(np.float32)


def positive(*shape: int) -> np.ndarray:
    return (np.abs(_random.normal(size=shape)) + 0.1).astype(np.float32)


def inside(*shape: int) -> np.ndarray:
    return _random.uniform(-0.95, 0.95, size=shape).astype(np.float32)


def whole(low: int, high: int, *shape: int) -> np.ndarray:
    return _random.integers(low, high, size=shape).astype(np.int32)


X = normal(2, 3, 4, 5)
IMAGE = normal(1, 6, 8, 9)


def _torch(function: Callable[..., Any]) -> Callable[..., Any]:
    """A reference in torch, on numpy arrays."""

    def apply(*arrays: np.ndarray, **constants: Any) -> Any:
        def lift(value: Any) -> Any:
            return torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value

        found = function(*(lift(one) for one in arrays), **{key: lift(value) for key, value in constants.items()})
        return tuple(one.numpy() for one in found) if isinstance(found, tuple) else found.numpy()

    return apply


def _unary() -> list[Case]:
    plain = ("abs", "atan", "ceil", "cos", "cosh", "erf", "exp", "exp2", "floor", "relu", "relu6", "round")
    plain += ("sigmoid", "sign", "sin", "sinh", "softplus", "softsign", "square", "tan", "tanh")
    cases = [Case(name, {"x": X * 3 if name == "relu6" else X}, tolerance=1e-5) for name in plain]
    cases += [Case(name, {"x": inside(3, 4)}) for name in ("acos", "asin", "atanh")]
    cases += [Case(name, {"x": positive(3, 4)}) for name in ("sqrt", "log", "rsqrt", "inverse")]
    cases += [Case(name, {"x": positive(3, 4)}, {"epsilon": 0.5}) for name in ("log", "rsqrt", "inverse")]
    cases += [
        Case("silu", {"x": X}, expected=_torch(functional.silu)),
        Case("identity", {"x": X}),
        Case("logical_not", {"x": X}, expected=lambda x: x <= 0),
        Case("round", {"x": np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32)}),
        Case("clip", {"x": X}, {"alpha": -0.5, "beta": 0.25}),
        Case("threshold", {"x": X}, {"alpha": 0.1}),
        Case("thresholded_relu", {"x": X}, {"alpha": 0.7}),
        Case("clamped_relu", {"x": X}, {"alpha": 0.3, "beta": 0.6}),
        Case("leaky_relu", {"x": X}, {"alpha": 0.2}),
        Case("elu", {"x": X}, {"alpha": 0.7}),
        Case("prelu", {"x": X}, {"alpha": np.array([0.1, 0.2, 0.3], np.float32)}),
        Case("sigmoid_hard", {"x": X}, {"alpha": 0.3, "beta": 0.4}),
        Case("linear_activation", {"x": X}, {"alpha": 0.3, "beta": 0.4}),
        Case("scaled_tanh", {"x": X}, {"alpha": 0.3, "beta": 0.4}),
        Case(
            "softplus_parametric",
            {"x": X},
            {"alpha": np.array([0.5, 1, 2], np.float32), "beta": np.array([1, 0.5, 2], np.float32)},
        ),
        *(Case("gelu", {"x": X}, {"mode": m}) for m in ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION")),
        *(Case("softmax", {"x": X}, {"axis": axis}) for axis in (-1, 1, 0)),
        *(Case("cast", {"x": X * 5}, {"dtype": dtype}) for dtype in ("int32", "fp32")),
        Case("cast", {"x": whole(-9, 9, 4)}, {"dtype": "fp32"}),
    ]
    return cases


def _binary() -> list[Case]:
    cases = []
    for name in ("add", "sub", "mul", "real_div", "maximum", "minimum"):
        cases += [
            Case(name, {"x": X, "y": positive(2, 3, 4, 5)}),
            Case(name, {"x": X, "y": positive(4, 1)}),
            Case(name, {"x": positive(5), "y": X + 9}),
        ]
    whole_numbers = {"x": whole(-9, 9, 3, 4), "y": whole(1, 5, 4)}
    cases += [Case(name, whole_numbers) for name in ("add", "sub", "mul", "floor_div", "mod")]
    cases += [
        Case("floor_div", {"x": X * 9, "y": positive(5)}),
        Case("mod", {"x": X * 9, "y": positive(5)}, tolerance=1e-5),
        Case("pow", {"x": positive(3, 4), "y": normal(4)}),
    ]
    same = {"x": whole(0, 3, 3, 4), "y": whole(0, 3, 4)}
    cases += [Case(name, same) for name in ("equal", "not_equal", "greater", "greater_equal", "less", "less_equal")]
    return cases


def _logic(name: str, numpy: Callable[..., Any]) -> Case:
    return Case(name, {"x": whole(0, 2, 3, 4), "y": whole(0, 2, 4)}, expected=lambda x, y: numpy(x > 0, y > 0))


def _linear() -> list[Case]:
    shifted = {"weight": normal(6, 5), "bias": normal(6)}
    query, key, value = normal(2, 4, 5), normal(2, 7, 5), normal(2, 7, 3)
    mask = normal(4, 7)

    def attend(query: Any, key: Any, value: Any, attn_mask: Any = None) -> Any:
        return functional.scaled_dot_product_attention(query, key, value, attn_mask)

    return [
        Case("linear", {"x": normal(2, 3, 5)}, shifted),
        Case("matmul", {"x": normal(2, 3, 4), "y": normal(4, 5)}),
        Case("matmul", {"x": normal(2, 4, 3), "y": normal(2, 4, 5)}, {"transpose_x": True}),
        Case("matmul", {"x": normal(2, 3, 4), "y": normal(1, 5, 4)}, {"transpose_y": True}),
        Case("matmul", {"x": normal(4, 3), "y": normal(5, 4)}, {"transpose_x": True, "transpose_y": True}),
        Case("scaled_dot_product_attention", {"query": query, "key": key, "value": value}, opset="iOS18"),
        Case(
            "scaled_dot_product_attention",
            {"query": query, "key": key, "value": value, "attn_mask": mask},
            expected=_torch(attend),
            opset="iOS18",
        ),
    ]


def _conv(**options: Any) -> Callable[..., Any]:
    def apply(x: Any, weight: Any, bias: Any = None, **_: Any) -> Any:
        return functional.conv2d(x, weight, bias, **options)

    return _torch(apply)


def _convolution() -> list[Case]:
    plain = {"weight": normal(4, 6, 3, 3), "bias": normal(4)}
    grouped = {"weight": normal(9, 2, 3, 3), "groups": 3}
    transposed = {"weight": normal(6, 4, 3, 3), "bias": normal(4)}

    def transpose(**options: Any) -> Callable[..., Any]:
        return _torch(lambda x, weight, bias, **_: functional.conv_transpose2d(x, weight, bias, **options))

    def lopsided(x: Any, weight: Any, bias: Any, **_: Any) -> Any:
        return functional.conv2d(functional.pad(x, (3, 0, 1, 2)), weight, bias)

    pool = {"kernel_sizes": [3, 2], "strides": [2, 2]}
    return [
        Case("conv", {"x": IMAGE}, plain, _conv()),
        Case(
            "conv",
            {"x": IMAGE},
            {**plain, "strides": [2, 3], "dilations": [2, 1]},
            _conv(stride=(2, 3), dilation=(2, 1)),
        ),
        Case("conv", {"x": IMAGE}, {**plain, "pad_type": "custom", "pad": [1, 1, 2, 2]}, _conv(padding=(1, 2))),
        Case("conv", {"x": IMAGE}, {**plain, "pad_type": "custom", "pad": [1, 2, 3, 0]}, _torch(lopsided)),
        Case("conv", {"x": IMAGE}, {**plain, "pad_type": "same"}, _conv(padding="same")),
        Case("conv", {"x": IMAGE}, grouped, _conv(groups=3)),
        Case(
            "conv",
            {"x": normal(1, 3, 9)},
            {"weight": normal(5, 3, 4), "strides": [2]},
            _torch(lambda x, weight, **_: functional.conv1d(x, weight, stride=2)),
        ),
        Case("conv_transpose", {"x": IMAGE}, {**transposed, "strides": [2, 2]}, transpose(stride=2)),
        Case(
            "conv_transpose",
            {"x": IMAGE},
            {**transposed, "strides": [2, 2], "pad_type": "custom", "pad": [1, 1, 1, 1]},
            transpose(stride=2, padding=1),
        ),
        Case(
            "conv_transpose",
            {"x": IMAGE},
            {
                **transposed,
                "strides": [2, 2],
                "pad_type": "custom",
                "pad": [1, 1, 1, 1],
                "output_shape": [1, 4, 16, 18],
            },
            transpose(stride=2, padding=1, output_padding=1),
        ),
        Case(
            "max_pool",
            {"x": IMAGE},
            {**pool, "pad_type": "valid"},
            _torch(lambda x, **_: functional.max_pool2d(x, (3, 2), 2)),
        ),
        Case(
            "max_pool",
            {"x": IMAGE},
            {**pool, "pad_type": "custom", "pad": [1, 1, 1, 1], "ceil_mode": True},
            _torch(lambda x, **_: functional.max_pool2d(x, (3, 2), 2, 1, ceil_mode=True)),
        ),
        Case(
            "avg_pool",
            {"x": IMAGE},
            {**pool, "pad_type": "custom", "pad": [1, 1, 1, 1]},
            _torch(lambda x, **_: functional.avg_pool2d(x, (3, 2), 2, 1)),
        ),
        Case(
            "avg_pool",
            {"x": IMAGE},
            {**pool, "pad_type": "custom", "pad": [1, 1, 1, 1], "exclude_padding_from_average": True},
            _torch(lambda x, **_: functional.avg_pool2d(x, (3, 2), 2, 1, count_include_pad=False)),
        ),
        Case(
            "avg_pool",
            {"x": IMAGE},
            {**pool, "pad_type": "valid", "ceil_mode": True},
            _torch(lambda x, **_: functional.avg_pool2d(x, (3, 2), 2, ceil_mode=True)),
        ),
        Case(
            "l2_pool",
            {"x": IMAGE},
            {**pool, "pad_type": "valid"},
            _torch(lambda x, **_: functional.lp_pool2d(x, 2, (3, 2), 2)),
            tolerance=1e-5,
        ),
    ]


def _normalization() -> list[Case]:
    four = {"gamma": normal(3), "beta": normal(3)}

    def batch(x: Any, mean: Any, variance: Any, gamma: Any, beta: Any, epsilon: float) -> Any:
        return functional.batch_norm(x, mean, variance, gamma, beta, eps=epsilon)

    return [
        Case(
            "batch_norm",
            {"x": X},
            {"mean": normal(3), "variance": positive(3), **four, "epsilon": 1e-3},
            _torch(batch),
        ),
        Case(
            "instance_norm",
            {"x": X},
            {**four, "epsilon": 1e-3},
            _torch(lambda x, gamma, beta, epsilon: functional.instance_norm(x, None, None, gamma, beta, eps=epsilon)),
        ),
        Case("layer_norm", {"x": X}, {"axes": [-1], "gamma": normal(5), "beta": normal(5), "epsilon": 1e-3}),
        Case("layer_norm", {"x": X}, {"axes": [2, 3], "gamma": normal(4, 5), "beta": normal(4, 5)}),
        Case("layer_norm", {"x": X}, {"axes": [1], "gamma": normal(3), "beta": normal(3)}),
        Case("layer_norm", {"x": X}, {"axes": [1, 3], "epsilon": 0.1}),
        Case("l2_norm", {"x": X}, {"epsilon": 0.1}),
        Case("l2_norm", {"x": normal(3, 4, 5)}),
        Case(
            "local_response_norm",
            {"x": X},
            {"size": 3, "alpha": 0.2, "beta": 0.6, "k": 2.0},
            _torch(lambda x, size, alpha, beta, k: functional.local_response_norm(x, size, alpha, beta, k)),
        ),
    ]


def _reductions() -> list[Case]:
    names = ("mean", "sum", "max", "min", "prod", "sum_square", "l1_norm", "l2_norm", "log_sum", "log_sum_exp")
    cases = []
    for name in names:
        x = positive(2, 3, 4)
        cases += [
            Case(f"reduce_{name}", {"x": x}, {"axes": [1], "keep_dims": True}, tolerance=1e-5),
            Case(f"reduce_{name}", {"x": x}, {"axes": [0, -1]}, tolerance=1e-5),
        ]
    return [
        *cases,
        *(Case(f"reduce_{name}", {"x": X}, {"axis": 1, "keep_dims": True}) for name in ("argmax", "argmin")),
        *(Case(f"reduce_{name}", {"x": X}, {"axis": -2}) for name in ("argmax", "argmin")),
        Case("argsort", {"x": normal(3, 7)}, {"axis": 1}),
        Case("argsort", {"x": normal(3, 7)}, {"axis": 0, "ascending": True}),
        Case("topk", {"x": normal(3, 7)}, {"k": 3, "axis": 1}),
        Case("topk", {"x": normal(3, 7)}, {"k": 2, "axis": 0, "ascending": True}),
        Case("cumsum", {"x": normal(3, 4)}, {"axis": 1}),
        Case("cumsum", {"x": normal(3, 4)}, {"axis": 0, "reverse": True}),
        Case(
            "cumsum",
            {"x": normal(3, 4)},
            {"axis": 1, "exclusive": True},
            lambda x, **_: np.cumsum(x, 1) - x,
        ),
    ]


def _space_to_depth(x: np.ndarray, block_size: int) -> np.ndarray:
    return np.concatenate(
        [x[:, :, i::block_size, j::block_size] for i in range(block_size) for j in range(block_size)], 1
    )


def _space_to_batch(x: np.ndarray, block_shape: np.ndarray, paddings: np.ndarray) -> np.ndarray:
    wide = np.pad(x, [(0, 0), (0, 0), *map(tuple, paddings)])
    tall, broad = block_shape
    return np.concatenate([wide[:, :, i::tall, j::broad] for i in range(tall) for j in range(broad)], 0)


def _shaping() -> list[Case]:
    even = normal(2, 4, 4, 6)
    block, none = np.array([2, 3], np.int32), np.zeros((2, 2), np.int32)
    edges = np.array([[1, 1], [2, 1]], np.int32)
    lengths = np.array([3, 1], np.int32)

    def reversed_part(x: np.ndarray, lengths: np.ndarray, **_: Any) -> np.ndarray:
        found = x.copy()
        for row, length in enumerate(lengths):
            found[row, :length] = x[row, :length][::-1]
        return found

    return [
        Case("reshape", {"x": X}, {"shape": [6, -1]}),
        Case("reshape", {"x": X}, {"shape": [0, 0, -1, 1]}),
        Case("reshape", {"x": X}, {"shape": [0, -1, 0, 1]}, lambda x, **_: x.reshape(2, 15, 4, 1)),
        Case("transpose", {"x": X}, {"perm": [0, 2, 3, 1]}),
        Case("transpose", {"x": X}, {"perm": [-1, 0, 2, 1]}),
        Case("expand_dims", {"x": X}, {"axes": [0]}),
        Case("expand_dims", {"x": normal(3, 4)}, {"axes": [-1, 1]}),
        Case("squeeze", {"x": normal(1, 3, 1, 4)}, {"axes": [0]}),
        Case("squeeze", {"x": normal(1, 3, 1, 4)}, {"axes": [-2, 0]}),
        Case("squeeze", {"x": normal(1, 3, 1, 4)}),
        Case("flatten2d", {"x": X}, {"axis": 2}),
        Case("flatten2d", {"x": X}, {"axis": -1}),
        Case("shape", {"x": X}),
        Case("reverse", {"x": X}, {"axes": [1, -1]}),
        Case("reverse", {"x": X}),
        Case("reverse_sequence", {"x": normal(2, 4)}, {"lengths": lengths, "seq_axis": 1}, reversed_part),
        Case(
            "pixel_shuffle",
            {"x": even},
            {"upscale_factor": 2},
            _torch(lambda x, upscale_factor: functional.pixel_shuffle(x, 2)),
        ),
        Case(
            "pixel_unshuffle",
            {"x": even},
            {"downscale_factor": np.uint32(2)},
            lambda x, **_: functional.pixel_unshuffle(torch.from_numpy(x), 2).numpy(),
        ),
        Case("space_to_depth", {"x": even}, {"block_size": 2}, _space_to_depth),
        Case("depth_to_space", {"x": _space_to_depth(even, 2)}, {"block_size": 2}, lambda x, **_: even),
        Case("space_to_batch", {"x": even}, {"block_shape": block, "paddings": edges}, _space_to_batch),
        Case(
            "batch_to_space",
            {"x": _space_to_batch(even, block, none)},
            {"block_shape": block, "crops": edges},
            lambda x, **_: even[:, :, 1:-1, 2:-1],
        ),
        Case(
            "sliding_windows",
            {"x": normal(3, 8, 2)},
            {"axis": 1, "size": 3, "stride": 2},
            lambda x, **_: np.stack([x[:, i : i + 3] for i in (0, 2, 4)], 1),
        ),
    ]


def _tensors() -> list[Case]:
    return [
        Case("split", {"x": X}, {"num_splits": 2, "axis": 2}),
        Case("split", {"x": X}, {"split_sizes": [1, 3, 1], "axis": -1}),
        Case("tile", {"x": normal(2, 3)}, {"reps": [2, 3]}),
        Case("fill_like", {"ref_tensor": X}, {"value": 2.5}, lambda ref_tensor, value: np.full_like(ref_tensor, value)),
        Case("band_part", {"x": normal(2, 5, 6)}, {"lower": 1, "upper": 2}),
        Case("band_part", {"x": normal(5, 6)}, {"lower": -1, "upper": 0}),
        Case(
            "one_hot",
            {"indices": np.array([0, 3, 1], np.int32)},
            {"one_hot_vector_size": 4, "axis": 0, "on_value": 2.0, "off_value": -1.0},
            lambda indices, **_: np.where(np.arange(4)[:, None] == indices, 2.0, -1.0).astype(np.float32),
        ),
        Case("non_zero", {"x": np.array([[0, 1, 0], [2, 0, 3]], np.float32)}),
        Case("pad", {"x": X}, {"pad": [1, 2, 0, 3], "constant_val": -2.0}),
        Case("pad", {"x": X}, {"pad": [1, 2, 0, 3], "mode": "reflect"}),
        Case("pad", {"x": X}, {"pad": [1, 2, 0, 3], "mode": "replicate"}),
        Case(
            "crop",
            {"x": X},
            {"crop_height": [1, 1], "crop_width": [0, 2]},
            lambda x, **_: x[:, :, 1:-1, :-2],
        ),
        Case("select", {"a": X, "b": -X}, {"cond": X > 0.3}),
    ]


def _indexing() -> list[Case]:
    places, two = np.array([2, 0, -1], np.int32), np.array([[0, 1], [1, 2]], np.int32)
    rows = whole(0, 4, 2, 3, 6, 5)

    def scatter(mode: str) -> Callable[..., Any]:
        combine: dict[str, Any] = {
            "add": np.add,
            "sub": np.subtract,
            "mul": np.multiply,
            "div": np.divide,
            "max": np.maximum,
            "min": np.minimum,
        }

        def apply(data: np.ndarray, updates: np.ndarray, indices: np.ndarray, axis: int, **_: Any) -> np.ndarray:
            found = np.moveaxis(data.copy(), axis, 0)
            for index, update in zip(indices, np.moveaxis(updates, axis, 0), strict=True):
                found[index] = update if mode == "update" else combine[mode](found[index], update)
            return np.moveaxis(found, 0, axis)

        return apply

    def scatter_nd(data: np.ndarray, updates: np.ndarray, indices: np.ndarray, mode: str) -> np.ndarray:
        found = data.copy()
        for index, update in zip(indices, updates, strict=True):
            found[tuple(index)] = update if mode == "update" else found[tuple(index)] + update
        return found

    base = {"begin": [0, 1, 1, 0], "end": [2, 3, 4, 4]}
    return [
        Case("slice_by_index", {"x": X}, base),
        Case("slice_by_index", {"x": X}, {**base, "stride": [1, 1, 2, 3]}),
        Case("slice_by_index", {"x": X}, {**base, "begin_mask": [True, False, True, False]}),
        Case("slice_by_index", {"x": X}, {**base, "end_mask": [False, True, False, True]}),
        Case("slice_by_index", {"x": X}, {**base, "squeeze_mask": [False, True, False, True]}),
        Case("slice_by_index", {"x": X}, {"begin": [-1, 2, -2, 0], "end": [2, 0, 4, 5], "stride": [1, -1, 1, 2]}),
        Case("slice_by_size", {"x": X}, {"begin": [0, 1, 2, 0], "size": [1, 2, -1, 3]}),
        Case("gather", {"x": X}, {"indices": places, "axis": 2}),
        Case("gather", {"x": X}, {"indices": two, "axis": -2}),
        Case("gather", {"x": X}, {"indices": np.array([[1, 0], [2, 2]], np.int32), "axis": 2, "batch_dims": 1}),
        Case("gather_along_axis", {"x": X}, {"indices": rows, "axis": 2}),
        Case("gather_nd", {"x": X}, {"indices": two}, lambda x, indices: x[tuple(indices.T)]),
        Case(
            "gather_nd",
            {"x": X},
            {"indices": np.array([[[0, 1]], [[2, 3]]], np.int32), "batch_dims": 1},
            lambda x, **_: np.stack([x[0][0:1, 1], x[1][2:3, 3]]),
        ),
        *(
            Case(
                "scatter",
                {"data": X, "updates": positive(2, 3, 2, 5)},
                {"indices": np.array([3, 1], np.int32), "axis": 2, "mode": mode},
                scatter(mode),
            )
            for mode in ("update", "add", "sub", "mul", "div", "max", "min")
        ),
        Case(
            "scatter_along_axis",
            {"data": normal(3, 4), "updates": normal(3, 2)},
            {"indices": np.array([[0, 3], [1, 0], [2, 2]], np.int32), "axis": 1, "mode": "add"},
            lambda data, updates, indices, **_: _scatter_along(data, updates, indices),
        ),
        *(
            Case(
                "scatter_nd",
                {"data": X, "updates": normal(2, 4, 5)},
                {"indices": two, "mode": mode},
                scatter_nd,
            )
            for mode in ("update", "add")
        ),
        Case(
            "slice_update",
            {"x": X, "update": normal(2, 2, 3, 4)},
            base,
            lambda x, update, **_: _updated(x, update),
            opset="iOS18",
        ),
    ]


def _scatter_along(data: np.ndarray, updates: np.ndarray, indices: np.ndarray) -> np.ndarray:
    found = data.copy()
    for row in range(len(indices)):
        for column, place in enumerate(indices[row]):
            found[row, place] += updates[row, column]
    return found


def _updated(x: np.ndarray, update: np.ndarray) -> np.ndarray:
    found = x.copy()
    found[0:2, 1:3, 1:4, 0:4] = update
    return found


def sampled(x: np.ndarray, height: int, width: int, mode: str) -> np.ndarray:
    """Bilinear sampling, point by point, as coremltools' documentation of ``resize_bilinear`` states it."""

    def place(index: int, size: int, wanted: int) -> float:
        if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
            if wanted == 1:
                return (size - 1) / 2 if mode == "ALIGN_CORNERS" else 0.0
            found = index * (size - 1) / (wanted - 1)
        elif mode == "DEFAULT":
            found = index * size / wanted
        elif mode == "OFFSET_CORNERS":
            found = 0.5 * max(1, size - 1) / wanted + index * max(1, size - 1) / wanted
        else:
            found = index * size / wanted + 0.5 * size / wanted - 0.5
        return min(size - 1, max(0, found))

    result = np.zeros((*x.shape[:-2], height, width))
    for row in range(height):
        for column in range(width):
            y, z = place(row, x.shape[-2], height), place(column, x.shape[-1], width)
            for i, near in ((math.floor(y), 1 - y % 1), (math.ceil(y), y % 1)):
                for j, beside in ((math.floor(z), 1 - z % 1), (math.ceil(z), z % 1)):
                    result[..., row, column] += x[..., i, j] * near * beside
    return result.astype(np.float32)


def _resizing() -> list[Case]:
    modes = ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS")
    small = normal(1, 2, 4, 5)

    def nearest(height: int, width: int) -> Callable[..., Any]:
        return lambda x, **_: functional.interpolate(torch.from_numpy(x), size=(height, width), mode="nearest").numpy()

    return [
        *(
            Case(
                "resize_bilinear",
                {"x": small},
                {"target_size_height": 7, "target_size_width": 3, "sampling_mode": mode},
                lambda x, target_size_height, target_size_width, sampling_mode: sampled(
                    x, target_size_height, target_size_width, sampling_mode
                ),
            )
            for mode in modes
        ),
        Case("resize_nearest_neighbor", {"x": small}, {"target_size_height": 9, "target_size_width": 3}, nearest(9, 3)),
        Case(
            "upsample_nearest_neighbor",
            {"x": small},
            {"scale_factor_height": 2, "scale_factor_width": 3},
            nearest(8, 15),
        ),
        *(
            Case(
                "upsample_bilinear",
                {"x": small},
                {"scale_factor_height": 2.0, "scale_factor_width": 1.5, "align_corners": corners},
                lambda x, align_corners, **_: functional.interpolate(
                    torch.from_numpy(x), size=(8, 7), mode="bilinear", align_corners=align_corners
                ).numpy(),
            )
            for corners in (True, False)
        ),
        Case(
            "resize",
            {"x": small},
            {
                "shape": np.array([6, 0], np.int32),
                "resized_dims": np.uint32(2),
                "sampling_mode": "UNALIGN_CORNERS",
            },
            lambda x, **_: sampled(x, 6, 5, "UNALIGN_CORNERS"),
        ),
        Case(
            "resize",
            {"x": small},
            {
                "shape": np.array([8, 10], np.int32),
                "resized_dims": np.uint32(2),
                "interpolation_mode": "NEAREST_NEIGHBOR",
            },
            nearest(8, 10),
        ),
    ]


def _quantized() -> list[Case]:
    scales = np.array([0.1, 0.02, 0.3], np.float32)
    return [
        Case("quantize", {"input": X}, {"scale": np.float32(0.05), "output_dtype": "int8"}),
        Case(
            "quantize",
            {"input": X * 9},
            {"scale": np.float32(0.05), "zero_point": np.uint8(128), "output_dtype": "uint8"},
        ),
        Case(
            "quantize",
            {"input": X},
            {"scale": scales, "zero_point": np.array([1, -3, 7], np.int8), "output_dtype": "int8", "axis": 1},
        ),
    ]


def _recurrent() -> list[Case]:
    """Against torch's LSTM, whose gates come in another order and whose biases are two."""
    width, hidden, steps = 4, 3, 6
    torch.manual_seed(0)
    reference = torch.nn.LSTM(width, hidden, bidirectional=True)
    order = np.concatenate([np.arange(hidden) + hidden * gate for gate in (0, 1, 3, 2)])

    def weights(suffix: str, back: str) -> dict[str, np.ndarray]:
        named = {name: value.detach().numpy() for name, value in reference.named_parameters()}
        return {
            f"weight_ih{back}": named[f"weight_ih_l0{suffix}"][order],
            f"weight_hh{back}": named[f"weight_hh_l0{suffix}"][order],
            f"bias{back}": (named[f"bias_ih_l0{suffix}"] + named[f"bias_hh_l0{suffix}"])[order],
        }

    x, h, c = normal(steps, 2, width), normal(2, 2 * hidden), normal(2, 2 * hidden)

    def run(x: np.ndarray, initial_h: np.ndarray, initial_c: np.ndarray, **options: Any) -> tuple[np.ndarray, ...]:
        only = {"forward": 0, "reverse": 1}.get(options["direction"])
        halves = [np.stack(np.split(one, 2, -1)) if only is None else one for one in (initial_h, initial_c)]
        if only is not None:
            halves = [np.stack([one, one]) for one in halves]
        with torch.no_grad():
            every, (last, cell) = reference(torch.from_numpy(x), tuple(torch.from_numpy(one) for one in halves))
        parts = (every.numpy(), *(np.concatenate(list(one.numpy()), -1) for one in (last, cell)))
        if only is not None:
            parts = tuple(np.split(one, 2, -1)[only] for one in parts)
        return parts if options["output_sequence"] else (parts[1][None], *parts[1:])

    one_way = {"initial_h": h[:, :hidden].copy(), "initial_c": c[:, :hidden].copy()}
    full = {**weights("", ""), **weights("_reverse", "_back")}
    return [
        Case(
            "lstm",
            {"x": x, "initial_h": h, "initial_c": c},
            {**full, "direction": "bidirectional", "output_sequence": True},
            run,
        ),
        Case("lstm", {"x": x, **one_way}, {**weights("", ""), "direction": "forward", "output_sequence": False}, run),
        Case(
            "lstm",
            {"x": x, **one_way},
            {**weights("_reverse", ""), "direction": "reverse", "output_sequence": True},
            run,
        ),
    ]


CASES: list[Case] = [
    *_unary(),
    *_binary(),
    _logic("logical_and", np.logical_and),
    _logic("logical_or", np.logical_or),
    _logic("logical_xor", np.logical_xor),
    *_linear(),
    *_convolution(),
    *_normalization(),
    *_reductions(),
    *_shaping(),
    *_tensors(),
    *_indexing(),
    *_resizing(),
    *_quantized(),
    *_recurrent(),
]
