"""Weight scales without calibration pictures."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from edgevit.graph.qdq.codes import fake_weight, on_grid, weight_scales
from edgevit.graph.qdq.layers import Layer
from edgevit.quant.search import weight_code
from edgevit.schema.recipe import WeightCode

SHARES = torch.linspace(0.5, 1.0, 51).tolist()


def least_error_scales(weight: Tensor, bits: int) -> Tensor:
    """The scale of every output channel with the smallest squared error, among shares of the largest magnitude."""
    whole = weight_scales(weight, bits)
    best, best_error = whole, torch.full_like(whole, float("inf"))
    for share in SHARES:
        scale = on_grid(whole * share)
        rounded = fake_weight(weight, weight_code(scale, bits))
        error = (rounded - weight).square().flatten(1).sum(1)
        better = error < best_error
        best_error, best = torch.where(better, error, best_error), torch.where(better, scale, best)
    return best


def _bits_of(layer: Layer, bits: int, first: Layer, last: Layer) -> int:
    """The bits of one layer's weight.

    Fewer than 8 are for large products only: depthwise convolutions, the first layer and the last keep 8.
    """
    return 8 if layer is first or layer is last or layer.groups > 1 else bits


def weight_codes(layers: Collection[Layer], bits: int) -> dict[str, WeightCode]:
    """Codes of all weights."""
    if not layers:
        return {}
    ordered = list(layers)
    found = {}
    for layer in ordered:
        own = _bits_of(layer, bits, ordered[0], ordered[-1]) if bits < 8 else bits
        found[layer.name] = weight_code(least_error_scales(layer.weight, own), own)
    return found
