"""HyQ: channel factors learnt by gradient descent wherever they fold (quantization-aware distribution scaling)."""

from __future__ import annotations

import torch
from torch import Tensor

from edgevit.graph.qdq.channel_folds import Site
from edgevit.graph.qdq.layers import Layer
from edgevit.quant.observers import minmax
from edgevit.quant.registry import Quantizer
from edgevit.quant.sampling import products
from edgevit.quant.search import Reading
from edgevit.quant.workbench import Bench, largest_weights, observe_values

STEPS = 300
"""Steps of Adam for one factor."""
RATE = 2e-2
"""Learning rate of Adam on the logarithm of the factor, annealed to zero by a cosine."""
ROWS = 256
"""Sampled rows of a layer that the loss is computed on; bounds the time of a step."""


def _rounded(values: Tensor, scale: Tensor, zero: Tensor | float, low: int, high: int) -> Tensor:
    """Rounding that passes gradients straight through, to the values and to the scale."""
    steps = values / scale
    steps = steps + (steps.round() - steps).detach()
    return ((steps + zero).clamp(low, high) - zero) * scale


def _loss(bench: Bench, reading: Reading, layer: Layer, log_factor: Tensor) -> Tensor:
    """``MSE(x w, Q(x / a) Q(w a))``: asymmetric activations, symmetric weights, as HyQ has them."""
    groups, count = reading.rows.shape[1], layer.weight[0, 0].numel() if layer.is_convolution else 1
    factor = log_factor.exp().reshape(groups, -1).repeat_interleave(count, 1)
    rows, weight = reading.rows[:ROWS] / factor, reading.weight * factor[:, None]
    least, most = rows.detach().min().clamp_max(0), rows.detach().max().clamp_min(0)
    at_least, at_most = rows.min(), rows.max()
    levels = (1 << bench.activation_bits) - 1
    half = 1 << (bench.activation_bits - 1)
    span = torch.where(most > 0, at_most, most) - torch.where(least < 0, at_least, least)
    scale = (span / levels).clamp_min(1e-8)
    zero = (-half - least / scale.detach()).round()
    top = (1 << (bench.weight_bits - 1)) - 1
    weight_scale = (weight.abs().amax(2, keepdim=True) / top).clamp_min(1e-8)
    found = products(_rounded(rows, scale, zero, -half, half - 1), _rounded(weight, weight_scale, 0.0, -top, top))
    expected = reading.expected[:ROWS]
    return (found - expected).square().mean() / expected.square().mean().clamp_min(1e-12)


def balanced(site: Site, bench: Bench) -> Tensor:
    """A first guess: half way between equal ranges of activations and of weights."""
    values = bench.values(site.value.name)
    assert values.channel_low is not None and values.channel_high is not None
    ranges = torch.maximum(values.channel_low.abs(), values.channel_high.abs())
    weights = torch.zeros_like(ranges)
    for layer in site.consumers:
        weight = bench.readings[layer.name].weight
        by_input = weight.abs().reshape(*weight.shape[:2], -1, weight.shape[2] // max(1, len(ranges) // layer.groups))
        found = by_input.amax(dim=(1, 3)).flatten()
        weights = torch.maximum(weights, found)
    live = (ranges > 0) & (weights > 0)
    factor = torch.where(live, (ranges / weights.clamp_min(1e-12)).clamp_min(1e-12).sqrt(), torch.ones_like(ranges))
    return (factor / factor[live].log().mean().exp() if bool(live.any()) else factor).clamp(2.0**-10, 2.0**10)


def learn_factor(bench: Bench, site: Site, *, steps: int = STEPS) -> Tensor:
    """The factor of every channel with the smallest loss seen (HyQ, section 3.1): Adam, cosine annealing.

    The paper starts from one; where ranges differ by orders of magnitude that is far from where it has to go,
    so the start here is one or the balanced guess, whichever loses less.
    """
    readings = [(bench.readings[layer.name], layer) for layer in site.consumers]

    def loss(log_factor: Tensor) -> Tensor:
        return torch.stack([_loss(bench, reading, layer, log_factor) for reading, layer in readings]).sum()

    starts = [torch.zeros(site.channels), balanced(site, bench).log()]
    losses = [float(loss(start)) for start in starts]
    best, best_loss = starts[losses.index(min(losses))], min(losses)
    log_factor = best.clone().requires_grad_()
    optimiser = torch.optim.Adam([log_factor], lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    with torch.enable_grad():
        for _ in range(steps):
            optimiser.zero_grad()
            value = loss(log_factor)
            if float(value.detach()) < best_loss:
                best, best_loss = log_factor.detach().clone(), float(value.detach())
            value.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    return best.exp()


def solve(bench: Bench) -> None:
    """Learn channel factors, fold them, then take min/max ranges."""
    for place, site in enumerate(bench.sites.values()):
        bench.tell(f"learning channel factors, {place + 1} of {len(bench.sites)}")
        bench.fold(site, learn_factor(bench, site))
    observe_values(bench, minmax)
    largest_weights(bench)


QUANTIZER = Quantizer("hyq", __doc__.splitlines()[0], "Kim et al., IJCAI 2024", solve)
