"""Observers: from sampled values to the range that a code covers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from edgevit.graph.qdq.codes import fake_code, uniform_code
from edgevit.quant.sampling import Values
from edgevit.schema.recipe import UniformCode

Range = tuple[float, float]
RangeObserver = Callable[[Values, int], Range]
PERCENTILES = (0.999, 0.9999, 0.99999)
"""RepQ-ViT's candidates."""


def minmax(values: Values, bits: int) -> Range:  # noqa: ARG001 - every observer is told the bits
    """The range from the smallest to the largest value seen."""
    return values.low, values.high


def squared_error(sampled: Tensor, code: UniformCode) -> float:
    """Mean squared rounding and clipping error."""
    return float((fake_code(sampled, code) - sampled).square().mean())


def _best(sampled: Tensor, ranges: list[Range], bits: int) -> Range:
    errors = [squared_error(sampled, uniform_code(low, high, bits)) for low, high in ranges]
    return ranges[errors.index(min(errors))]


def _quantile(ordered: Tensor, share: float) -> float:
    return float(ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))])


def percentile(values: Values, bits: int) -> Range:
    """The percentiles among `PERCENTILES` whose range has the smallest squared error (RepQ-ViT, section 4.1)."""
    sampled = values.all_sampled()
    ordered = sampled.sort().values
    return _best(sampled, [(_quantile(ordered, 1 - share), _quantile(ordered, share)) for share in PERCENTILES], bits)


def omse(values: Values, bits: int) -> Range:
    """The share of the whole range with the smallest squared error (optimal MSE), in steps of a hundredth."""
    shares = torch.linspace(0.1, 1.0, 91).tolist()
    return _best(values.all_sampled(), [(values.low * share, values.high * share) for share in shares], bits)
