"""The verdict on made-up outputs: what passes, what does not, and that chance does not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.verify.compare import TOLERANCE, compare


def softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return (shifted / shifted.sum(1, keepdims=True)).astype(np.float32)


LOGITS = np.random.default_rng(0).normal(0, 3, (6, 50)).astype(np.float32)


@pytest.mark.parametrize(("kind", "reference"), [("logits", LOGITS), ("probabilities", softmax(LOGITS))])
@pytest.mark.parametrize(("precision", "noise"), [("fp32", 1e-6), ("fp16", 3e-4)])
def test_rounding_passes(kind: str, reference: np.ndarray, precision: str, noise: float) -> None:
    near = reference * (1 + np.random.default_rng(1).normal(0, noise, reference.shape)).astype(np.float32)
    found = compare(reference, near, kind=kind, precision=precision)
    assert found.passed, found.reasons


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["fp32", "fp16"]), st.sampled_from(["logits", "probabilities"]))
def test_permuted_outputs_fail(seed: int, precision: str, kind: str) -> None:
    order = np.random.default_rng(seed).permutation(50)
    if np.array_equal(order, np.arange(50)):
        return
    reference = LOGITS if kind == "logits" else softmax(LOGITS)
    assert not compare(reference, reference[:, order], kind=kind, precision=precision).passed


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_two_classes_swapped_fail(precision: str) -> None:
    wrong = LOGITS.copy()
    wrong[:, [3, 7]] = wrong[:, [7, 3]]
    assert not compare(softmax(LOGITS), softmax(wrong), kind="probabilities", precision=precision).passed


def test_an_error_at_the_tolerance() -> None:
    step = TOLERANCE["fp32"] * float(LOGITS.max() - LOGITS.min())
    for factor, good in ((0.9, True), (1.1, False)):
        wrong = LOGITS.astype(np.float64)
        wrong[2, 5] += factor * step
        assert compare(LOGITS, wrong.astype(np.float32), kind="logits", precision="fp32").passed is good


def test_nearly_constant_outputs_never_pass() -> None:
    """A dead network answers the same to everything: rounding-sized differences are no evidence."""
    reference = np.repeat(LOGITS[:1], 6, axis=0)
    reference[1:] += 1e-6
    near = reference + np.random.default_rng(2).normal(0, 1e-6, reference.shape).astype(np.float32)
    found = compare(reference, near, kind="logits", precision="fp32")
    assert not found.passed
    assert "told apart" in " ".join(found.reasons)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_fails(value: float) -> None:
    wrong = LOGITS.copy()
    wrong[0, 0] = value
    assert "not finite" in compare(LOGITS, wrong, kind="logits", precision="fp32").reasons[0]


def test_another_shape_fails() -> None:
    assert "shape" in compare(LOGITS, LOGITS[:, :10], kind="logits", precision="fp32").reasons[0]


def test_a_swapped_winner_is_named() -> None:
    reference = LOGITS.copy()
    first, second = np.argsort(-reference[0])[:2]
    reference[0, second] = reference[0, first] - 5e-4
    wrong = reference.copy()
    wrong[0, [first, second]] = wrong[0, [second, first]]
    found = compare(reference, wrong, kind="logits", precision="fp32")
    assert not found.top1_equal
    assert not found.passed


def test_what_softmax_hides_still_counts() -> None:
    """A saturated network: the losing classes are permuted far below the winner's probability."""
    logits = LOGITS.copy()
    logits[np.arange(6), np.arange(6)] = 30
    wrong = logits.copy()
    wrong[:, 10:20] = wrong[:, 19:9:-1]
    assert np.abs(softmax(logits) - softmax(wrong)).max() < 1e-6
    assert not compare(softmax(logits), softmax(wrong), kind="probabilities", precision="fp32").passed
