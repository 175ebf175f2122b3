"""The verdict: does an artifact compute what PyTorch computes?

A match of two wrong numbers is worth nothing, so four things are asked at once: the outputs are
finite; the error is below a multiple of the model's own rounding noise; the inputs are told apart by far more
than the error (the discrimination ratio); the most likely class is the same for every probe.

Probabilities are compared as logarithms: what softmax hides near 0 and 1 counts in full.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgevit.schema.choices import QUANTIZED

TOLERANCE = {"fp32": 5e-5, "fp16": 1e-2} | dict.fromkeys(QUANTIZED, 0.25)
"""The largest error, whatever the noise. Of a quantized file that is compared with the float model alone, not with its
recipe, little can be asked."""
NOISE_FACTOR = {"fp32": 8.0, "fp16": 8.0}
"""How many times the noise an error may be. Of the support matrix (docs/support.md) every right artifact is below 5
times it in fp32 and below 3 in fp16; the room is for processors that add in another order."""
LEAST_TOLERANCE = {"fp32": 1e-6, "fp16": 1e-3}
"""However quiet a model: 8 units in the last place of fp32, one of fp16, at the largest output."""
DISCRIMINATION = {"fp32": 100.0, "fp16": 10.0} | dict.fromkeys(QUANTIZED, 1.5)
"""Smallest difference between any two references over the largest error, at least."""
_FLOOR = {"fp32": 1e-20, "fp16": 1e-4} | dict.fromkeys(QUANTIZED, 1e-4)
"""Probabilities below it count as equal to it before the logarithm is taken."""
_TIE = 0.1
"""Share of the tolerance by which two classes' reference scores may differ and still count as a tie."""

NOT_FINITE = "PyTorch's own answers are not finite: the model's weights or its preprocessing are at fault"

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Comparison:
    """Result of comparing an artifact's outputs with PyTorch's.

    Attributes:
        passed: all four conditions hold.
        error: largest absolute difference, as a share of the reference's range.
        tolerance: the largest accepted error.
        discrimination: smallest difference between any two references over the largest error.
        top1_equal: the most likely class agrees for every probe.
        reasons: one sentence for each condition that failed.
    """

    passed: bool
    error: float
    tolerance: float
    discrimination: float
    top1_equal: bool
    reasons: tuple[str, ...]


def tolerance_of(precision: str, noise: float | None) -> float:
    """The largest error that an artifact may have, as a share of the reference's range.

    Args:
        precision: of the artifact.
        noise: what rounding alone does to the model in that precision, as a share of the range; None where it was
            not measured.
    """
    most = TOLERANCE[precision]
    if noise is None or precision not in NOISE_FACTOR:
        return most
    return min(most, max(LEAST_TOLERANCE[precision], NOISE_FACTOR[precision] * noise))


def difference(
    reference: Floats | NDArray[np.float64], outputs: Floats | NDArray[np.float64], *, kind: str, precision: str
) -> float:
    """The largest difference of two outputs as a share of the first one's range; infinite where one is not finite.

    Args:
        reference: [N, classes].
        outputs: [N, classes].
        kind: ``probabilities``, ``logits`` or ``features``.
        precision: see `scores`.
    """
    if not (np.isfinite(reference).all() and np.isfinite(outputs).all()):
        return float("inf")
    expected, found = (scores(values, kind, precision) for values in (reference, outputs))
    spread = float(np.ptp(expected))
    return float(np.abs(expected - found).max()) / spread if spread > 0 else float("inf")


def scores(outputs: Floats | NDArray[np.float64], kind: str, precision: str) -> NDArray[np.float64]:
    """Outputs on the scale on which they are compared: [N, classes] float64.

    Args:
        outputs: [N, classes].
        kind: ``probabilities`` (compared as logarithms) or ``logits``.
        precision: decides below which probability differences no longer count.
    """
    values = outputs.astype(np.float64)
    return np.log(np.maximum(values, _FLOOR[precision])) if kind == "probabilities" else values


def compare(reference: Floats, outputs: Floats, *, kind: str, precision: str, noise: float | None = None) -> Comparison:
    """Compare an artifact's outputs with PyTorch's and judge them.

    Args:
        reference: [N, classes] from PyTorch in float32, N at least 2.
        outputs: [N, classes] from the artifact.
        kind: ``probabilities``, ``logits`` or ``features``.
        precision: ``fp32`` or ``fp16``.
        noise: see `tolerance_of`.

    Returns:
        The comparison; ``passed`` only if every condition holds.
    """
    tolerance, floor = tolerance_of(precision, noise), DISCRIMINATION[precision]
    if reference.shape != outputs.shape:
        reason = f"the outputs have shape {outputs.shape}, not {reference.shape}"
        return Comparison(False, float("inf"), tolerance, 0.0, False, (reason,))
    if not np.isfinite(reference).all():
        return Comparison(False, float("inf"), tolerance, 0.0, False, (NOT_FINITE,))
    if not np.isfinite(outputs).all():
        reason = f"{int((~np.isfinite(outputs)).sum())} of {outputs.size} outputs are not finite"
        return Comparison(False, float("inf"), tolerance, 0.0, False, (reason,))
    expected, found = (scores(values, kind, precision) for values in (reference, outputs))
    spread = float(expected.max() - expected.min())
    worst = float(np.abs(expected - found).max())
    error = worst / spread if spread > 0 else float("inf")
    between: float = min(float(np.abs(expected[i] - expected[j]).max()) for i in range(len(expected)) for j in range(i))
    discrimination = between / max(worst, float(np.finfo(np.float32).tiny))
    # of features no one is the answer
    top1_equal = kind == "features" or _same_top1(
        expected, found, tie=spread * max(_TIE * TOLERANCE[precision], 2 * (noise or 0.0))
    )
    reasons = []
    if error > tolerance:
        times = f" ({error / noise:.3g} times the model's rounding noise of {noise:.2g})" if noise else ""
        reasons.append(f"the error is {error:.2g} of the output's range, more than {tolerance:.2g}{times}")
    if discrimination < floor:
        reasons.append(
            f"inputs are told apart by only {discrimination:.3g} times the error, less than {floor:g}: "
            "a wrong artifact could pass"
        )
    if not top1_equal:
        reasons.append("the most likely class differs for at least one probe")
    return Comparison(not reasons, error, tolerance, discrimination, top1_equal, tuple(reasons))


def _same_top1(expected: NDArray[np.float64], found: NDArray[np.float64], tie: float) -> bool:
    """Whether the best classes agree; classes whose reference scores differ by at most ``tie`` count as one."""
    rows = np.arange(len(expected))
    chosen = expected[rows, found.argmax(axis=1)]
    return bool((expected.max(axis=1) - chosen <= tie).all())
