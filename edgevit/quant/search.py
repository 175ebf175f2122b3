"""Grid search of scales, one layer or one value at a time, on sampled rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from edgevit.graph.qdq.codes import LEAST_SCALE, fake_code, on_grid, uniform_code
from edgevit.quant.metrics import Metric, fisher_weights
from edgevit.quant.sampling import products
from edgevit.schema.recipe import Code, UniformCode, WeightCode

C = TypeVar("C", bound=Code)


@dataclass(frozen=True)
class Grid:
    """Candidates for a scale: ``count`` multiples of the first guess, evenly from ``alpha`` to ``beta``.

    Attributes:
        alpha: smallest multiple.
        beta: largest multiple.
        count: number of candidates.
        rounds: how often weights and activations are searched in turn.
    """

    alpha: float
    beta: float
    count: int = 100
    rounds: int = 3

    def multiples(self) -> list[float]:
        """The candidate factors, evenly spaced from ``alpha`` to ``beta``."""
        return torch.linspace(self.alpha, self.beta, self.count).tolist()


@dataclass
class Reading:
    """Calibration samples of one layer: inputs, weight, float result, gradient.

    Attributes:
        name: the layer's name.
        rows: sampled inputs: [R, groups, K].
        weight: [groups, O, K] in float32.
        rounded: the weight quantized to its code and dequantized.
        expected: the layer's float result without its bias: [R, groups, O].
        gradient: of the loss by that result, or None.
    """

    name: str
    rows: Tensor
    weight: Tensor
    rounded: Tensor
    expected: Tensor
    gradient: Tensor | None = None


def rounded_weight(weight: Tensor, scale: Tensor, bits: int) -> Tensor:
    """A weight [groups, O, K] rounded with one scale for each output."""
    low, high = -(1 << (bits - 1)) + (bits == 8), (1 << (bits - 1)) - 1
    step = scale.reshape(weight.shape[0], weight.shape[1], 1)
    return (weight / step).round_().clamp_(low, high).mul_(step)


def search_weight(reading: Reading, quantized_rows: Tensor, bits: int, grid: Grid, metric: Metric) -> Tensor:
    """The best scale of every output channel, given the input's code.

    Args:
        reading: the layer; its ``rounded`` weight is set to the result.
        quantized_rows: its input, quantized and dequantized.
        bits: of the weight.
        grid: multiples of ``max|w| / (2^(b-1) - 0.5)`` (PTQ4ViT's first guess).
        metric: what is minimised, channel by channel.

    Returns:
        [out channels].
    """
    first = reading.weight.abs().amax(2).clamp_min(LEAST_SCALE) / ((1 << (bits - 1)) - 0.5)
    best_loss = torch.full_like(first, float("inf"))
    best, weights = on_grid(first), fisher_weights(reading.gradient)
    for multiple in grid.multiples():
        scale = on_grid(first * multiple)
        found = products(quantized_rows, rounded_weight(reading.weight, scale, bits))
        loss = metric(found, reading.expected, weights)
        better = loss < best_loss
        best_loss = torch.where(better, loss, best_loss)
        best = torch.where(better, scale, best)
    reading.rounded = rounded_weight(reading.weight, best, bits)
    return best.flatten()


def loss_of(readings: Sequence[Reading], code: Code, metric: Metric) -> float:
    """The loss that a code of one value causes, summed over all layers that read it."""
    return losses_of(readings, [code], metric)[0]


def losses_of(readings: Sequence[Reading], codes: Sequence[Code], metric: Metric) -> list[float]:
    """The same as `loss_of` for several codes."""
    found = [0.0] * len(codes)
    for one in readings:
        weights = fisher_weights(one.gradient)
        for place, code in enumerate(codes):
            result = products(fake_code(one.rows, code), one.rounded)
            found[place] += float(metric(result, one.expected, weights).sum())
    return found


def candidate_codes(low: float, high: float, bits: int, grid: Grid, *, symmetric: bool) -> list[UniformCode]:
    """Codes of shrunken and widened ranges, without repetitions."""
    found = [uniform_code(low * m, high * m, bits, symmetric=symmetric) for m in grid.multiples()]
    return list(dict.fromkeys(found))


def search_value(readings: Sequence[Reading], codes: Sequence[C], metric: Metric) -> tuple[C, float]:
    """The code with the smallest loss over all layers that read a value: (code, loss)."""
    losses = losses_of(readings, codes, metric)
    place = losses.index(min(losses))
    return codes[place], losses[place]


def weight_code(scale: Tensor, bits: int) -> WeightCode:
    """Scales [out channels] as the weight code that a recipe stores."""
    return WeightCode(bits=bits, scale=tuple(scale.flatten().tolist()))
