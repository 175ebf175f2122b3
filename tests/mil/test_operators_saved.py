"""Every operator, saved to disk by coremltools, against answers that share no code with the evaluator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgevit.mil import operators as _registered  # noqa: F401
from edgevit.mil.registry import OPERATORS
from tests.mil.cases import CASES, Case, normal, positive
from tests.mil.packages import evaluate, save

# Tested by value in tests/mil/test_compressed.py and below.
ELSEWHERE = {name for name in OPERATORS if name.startswith("constexpr_")} | {"dequantize", "classify"}
SEVERAL = {"concat", "stack", "einsum", "range_1d", "fill", "reshape_like"}
NOT_OUTPUTS = ("bool", "int8", "uint8", "int16", "uint16")
LOGIC = ("logical_and", "logical_or", "logical_xor", "logical_not")


def test_every_operator_has_a_case() -> None:
    assert set(OPERATORS) - ELSEWHERE - SEVERAL == {case.operator for case in CASES}


def build_of(case: Case) -> Any:
    """The case as a builder function, its results of a type that a model may give."""
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    def build(*variables: Any) -> Any:
        given = dict(zip(case.inputs, variables, strict=True))
        if case.operator in LOGIC:
            given = {name: mb.greater(x=one, y=types.nptype_from_builtin(one.dtype)(0)) for name, one in given.items()}
        found = getattr(mb, case.operator)(**given, **case.constants)
        several = found if isinstance(found, (tuple, list)) else (found,)
        wide = [
            mb.cast(x=one, dtype="int32") if types.builtin_to_string(one.dtype) in NOT_OUTPUTS else one
            for one in several
        ]
        return tuple(wide) if len(wide) > 1 else wide[0]

    return build


def oracle(case: Case) -> list[np.ndarray]:
    """coremltools' own numpy inference on constants."""
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb

    @mb.program(input_specs=[mb.TensorSpec(shape=(1,))], opset_version=getattr(ct.target, case.opset))
    def program(unused: Any) -> Any:
        found = getattr(mb, case.operator)(**case.inputs, **case.constants)
        several = found if isinstance(found, (tuple, list)) else (found,)
        values.extend(one.val for one in several)
        return mb.identity(x=unused)

    return values


values: list[Any] = []


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operator(case: Case, tmp_path: Path) -> None:
    if case.expected is None:
        values.clear()
        expected = oracle(case)
        assert all(value is not None for value in expected), "coremltools has no value inference: state the answer"
    else:
        found = case.expected(*case.inputs.values(), **case.constants)
        expected = list(found) if isinstance(found, tuple) else [found]
    got = evaluate(save(build_of(case), case.inputs, tmp_path, opset=case.opset), case.inputs)
    assert len(got) == len(expected)
    for one, right in zip(got, expected, strict=True):
        assert one.shape == np.shape(right)
        np.testing.assert_allclose(one, np.asarray(right).astype(one.dtype), rtol=case.tolerance, atol=case.tolerance)


def check(build: Any, inputs: dict[str, np.ndarray], expected: np.ndarray, tmp_path: Path) -> None:
    found = evaluate(save(build, inputs, tmp_path), inputs)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_operators_that_take_several_values(tmp_path: Path) -> None:
    from coremltools.converters.mil.mil import Builder as mb

    a, b = normal(2, 3, 4), normal(2, 3, 4)
    two = {"a": a, "b": b}
    check(lambda a, b: mb.concat(values=[a, b], axis=-1), two, np.concatenate([a, b], -1), tmp_path)
    laced = np.stack([a, b], 2).reshape(2, 6, 4)
    check(lambda a, b: mb.concat(values=[a, b], axis=1, interleave=True), two, laced, tmp_path)
    check(lambda a, b: mb.stack(values=[a, b], axis=1), two, np.stack([a, b], 1), tmp_path)
    left, right = normal(1, 2, 3, 4), normal(1, 4, 3, 5)
    product = np.einsum("nchw,nwhr->nchr", left, right)
    check(lambda a, b: mb.einsum(values=[a, b], equation="nchw,nwhr->nchr"), {"a": left, "b": right}, product, tmp_path)


def test_sizes_that_are_computed(tmp_path: Path) -> None:
    """A shape taken apart and put together again, as dynamic programs do it."""
    from coremltools.converters.mil.mil import Builder as mb

    x = normal(2, 3, 4)

    def build(x: Any) -> Any:
        sizes = mb.shape(x=x)
        first = mb.slice_by_index(x=sizes, begin=[0], end=[1])
        return mb.reshape(x=x, shape=mb.concat(values=[first, [12]], axis=0))

    check(build, {"x": x}, x.reshape(2, 12), tmp_path)
    counted = {"n": np.array([3], np.int32)}
    check(
        lambda n: mb.cast(x=mb.range_1d(start=0, end=mb.squeeze(x=n), step=1), dtype="fp32"),
        counted,
        np.arange(3),
        tmp_path,
    )
    check(lambda n: mb.fill(shape=n, value=2.5), counted, np.full(3, 2.5), tmp_path)
    check(
        lambda x: mb.reshape_like(x=x, ref_tensors=(x, x), begins=[1, 0], ends=[3, 1], end_masks=[False, False]),
        {"x": x},
        x.reshape(3, 4, 2),
        tmp_path,
    )


def test_a_quantized_value_comes_back(tmp_path: Path) -> None:
    from coremltools.converters.mil.mil import Builder as mb

    x, scale, zero = normal(2, 3, 4), positive(3) / 20, np.array([3, -5, 0], np.int8)

    def build(x: Any) -> Any:
        q = mb.quantize(input=x, scale=scale, zero_point=zero, axis=1, output_dtype="int8")
        return mb.dequantize(input=q, scale=scale, zero_point=zero, axis=1)

    wide = scale[None, :, None]
    steps = np.clip(np.round(x / wide) + zero[None, :, None], -128, 127)
    check(build, {"x": x}, (steps - zero[None, :, None]) * wide, tmp_path)
