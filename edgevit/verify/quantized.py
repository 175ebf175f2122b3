"""The verdict on a quantized artifact: does it compute what its recipe says, and is it as good as that is?

No artifact equals the quantized model in PyTorch: wherever a value lies between two integers, another order of
summation rounds it to the other one, and the layers behind it spread that. So what is asked is that the artifact
is not further from the quantized model, and not further from the float model, than the quantized model itself is
from the float one. A wrong artifact is much further from both.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgevit.verify.compare import NOT_FINITE, Comparison, Floats, scores

ALLOWANCE = 1.5
"""How much further than the quantized model from the float one, as root mean squares."""
LEAST_NOISE = 0.002
"""Of the range: what half-precision kernels add where quantization adds less."""
DISCRIMINATION = 1.5
"""Differences between inputs over the error, at least: below it quantization drowns the answers."""
CLEAR = 6.0
"""A most likely class leads clearly if its lead is at least this many times the noise."""


def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.square(values).mean()))


def compare_quantized(reference: Floats, exact: Floats, outputs: Floats, *, kind: str) -> Comparison:
    """Judge a quantized artifact's outputs.

    Args:
        reference: [N, classes] of the quantized model in PyTorch, N at least 2.
        exact: [N, classes] of the float model.
        outputs: [N, classes] of the artifact.
        kind: ``probabilities``, ``logits`` or ``features``.

    Returns:
        The comparison; its error is the root mean square by the reference, as a share of the float range.
    """
    if reference.shape != outputs.shape:
        reason = f"the outputs have shape {outputs.shape}, not {reference.shape}"
        return Comparison(False, float("inf"), 0.0, 0.0, False, (reason,))
    if not (np.isfinite(reference).all() and np.isfinite(exact).all()):
        return Comparison(False, float("inf"), 0.0, 0.0, False, (NOT_FINITE,))
    if not np.isfinite(outputs).all():
        reason = f"{int((~np.isfinite(outputs)).sum())} of {outputs.size} outputs are not finite"
        return Comparison(False, float("inf"), 0.0, 0.0, False, (reason,))
    wanted, true, found = (scores(values, kind, "fp16") for values in (reference, exact, outputs))
    spread = float(true.max() - true.min()) or 1.0
    noise = max(_rms(wanted - true), LEAST_NOISE * spread)
    error, off = _rms(found - wanted), _rms(found - true)
    between = min(_rms(true[i] - true[j]) for i in range(len(true)) for j in range(i))
    discrimination = between / max(off, float(np.finfo(np.float32).tiny))
    reasons = []
    limit = ALLOWANCE * noise
    if error > limit:
        distance = f"{error / spread:.2g} of the range from the quantized model in PyTorch"
        reasons.append(f"it is {distance}, more than {limit / spread:.2g}")
    if off > limit:
        reasons.append(f"it is {off / spread:.2g} of the range from the float model, more than {limit / spread:.2g}")
    if discrimination < DISCRIMINATION:
        reasons.append(
            f"inputs are told apart by only {discrimination:.3g} times the error, less than {DISCRIMINATION:g}: "
            "quantization drowns the answers"
        )
    equal = kind == "features" or _clear_winners_equal(wanted, found, CLEAR * noise)
    if not equal:
        reasons.append("the most likely class differs for a probe on which it leads clearly")
    return Comparison(not reasons, error / spread, limit / spread, discrimination, equal, tuple(reasons))


def _clear_winners_equal(wanted: NDArray[np.float64], found: NDArray[np.float64], lead: float) -> bool:
    rows = np.arange(len(wanted))
    return bool((wanted.max(axis=1) - wanted[rows, found.argmax(axis=1)] <= lead).all())
