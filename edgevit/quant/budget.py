"""Mixed precision within a budget: keep those layers in floating point that gain most for their cost."""

from __future__ import annotations

from collections.abc import Sequence

from edgevit.quant.options import Budget
from edgevit.quant.sensitivity import LayerSensitivity

FLOAT_MAC = 2.5
"""Time of a float multiply-accumulate over that of an integer one, about what docs/quantization.md measures."""
FLOAT_BYTES, INTEGER_BYTES = 4, 1
"""Bytes of a weight in float32 and in int8."""


def costs(layer: LayerSensitivity, budget: Budget) -> float:
    """The cost of keeping a layer in floating point, in the budget's unit: bytes, or integer multiply-accumulates."""
    if budget.kind == "size":
        return (FLOAT_BYTES - INTEGER_BYTES) * layer.parameters
    return (FLOAT_MAC - 1) * layer.macs


def spend(found: Sequence[LayerSensitivity], budget: Budget) -> dict[str, str]:
    """Layers to keep in floating point, with the reason for each: most divergence saved per cost first.

    The size of a model is taken as that of its weights, its latency as its multiply-accumulates, a float one
    `FLOAT_MAC` times an integer one.

    Args:
        found: every layer's sensitivity.
        budget: upper limit of size or latency, as a multiple of that with every layer quantized.
    """
    unit = [INTEGER_BYTES * one.parameters if budget.kind == "size" else one.macs for one in found]
    left = (budget.factor - 1) * sum(unit)
    kept = {}
    for one in sorted(found, key=lambda one: one.divergence / max(costs(one, budget), 1), reverse=True):
        cost = costs(one, budget)
        if one.divergence > 0 and cost <= left:
            left -= cost
            kept[one.name] = (
                f"the {budget.kind} budget went to it: it alone moves the answers by {one.divergence:.2g} nats"
            )
    return kept
