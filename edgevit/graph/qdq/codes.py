"""The arithmetic of quantization codes: from ranges to scales, from values to integers and back.

Scales lie on the grid of float16, so that a half-precision program keeps them as they are, and zero is
always one of the values.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from edgevit.schema.recipe import Code, FactorCode, LogCode, TwinUniformCode, UniformCode, WeightCode

LEAST_SCALE = 2.0**-14
"""The smallest normal number of float16."""
PROBABILITY = UniformCode(scale=1 / 256, zero_point=-128)
"""Of values in 0..1: what integer kernels for softmax and sigmoid give."""


def on_grid(scale: Tensor) -> Tensor:
    """Scales rounded to float16, at least `LEAST_SCALE`."""
    return scale.clamp_min(LEAST_SCALE).half().float()


def uniform_code(low: float, high: float, bits: int = 8, *, symmetric: bool = False) -> UniformCode:
    """The uniform code (scale, zero point) that covers a range.

    ``s = (high - low) / (2^b - 1)``, ``z = round(q_min - low / s)`` (Q-HyViT, section III), with the range widened
    to hold zero, so that the zero point is an integer of the code: [4, 6] becomes [0, 6].

    Args:
        low: smallest value.
        high: largest value.
        bits: of the integers.
        symmetric: zero point 0, ``s = max(|low|, |high|) / (2^(b-1) - 1)``.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    least, most = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    if symmetric:
        return UniformCode(bits=bits, scale=float(on_grid(torch.tensor(max(-low, high) / most))), zero_point=0)
    scale = float(on_grid(torch.tensor((high - low) / (most - least))))
    return UniformCode(bits=bits, scale=scale, zero_point=max(least, min(most, round(least - low / scale))))


def weight_scales(weight: Tensor, bits: int = 8) -> Tensor:
    """Symmetric scales from the largest magnitude in each output channel: [out channels]."""
    most = (1 << (bits - 1)) - 1
    return on_grid(weight.abs().flatten(1).amax(1) / most)


def per_channel(values: Tensor, rank: int) -> Tensor:
    """A vector [channels] shaped to broadcast along axis 0 of a tensor with ``rank`` axes."""
    return values.reshape(-1, *[1] * (rank - 1))


def weight_integers(weight: Tensor, code: WeightCode) -> Tensor:
    """A weight [out channels, ...] as int8."""
    scale = per_channel(torch.tensor(code.scale), weight.dim())
    return (weight / scale).round().clamp(code.low, code.high).to(torch.int8)


def fake_weight(weight: Tensor, code: WeightCode) -> Tensor:
    """A weight quantized to its code and dequantized, in float32."""
    return weight_integers(weight, code).float() * per_channel(torch.tensor(code.scale), weight.dim())


def fake_uniform(values: Tensor, scale: float | Tensor, zero_point: float | Tensor, low: int, high: int) -> Tensor:
    """Values quantized to ``scale * (q - zero_point)`` and dequantized."""
    # in place: a search does this thousands of times, and fresh memory takes longer than the arithmetic
    return (values / scale).round_().add_(zero_point).clamp_(low, high).sub_(zero_point).mul_(scale)


def _twin(values: Tensor, code: TwinUniformCode) -> Tensor:
    """PTQ4ViT's two ranges, piecewise: summing two clamped terms, as its code does, would add the split."""
    half = 1 << (code.bits - 1)
    if code.split > 0:
        low = (values / code.low_scale).round().clamp(0, half - 1) * code.low_scale
        high = (values / code.high_scale).round().clamp(0, half - 1) * code.high_scale
    else:
        low = (values / code.low_scale).round().clamp(-half, 0) * code.low_scale
        high = (values / code.high_scale).round().clamp(0, half - 1) * code.high_scale
    return torch.where(values < code.split, low, high)


def _log(values: Tensor, code: LogCode) -> Tensor:
    """``scale * base ** -q`` with the nearest integer exponent; below the last code, zero."""
    finer = 2.0 if code.base == "sqrt2" else 1.0
    exponent = (-finer * (values / code.scale).clamp_min(torch.finfo(torch.float32).tiny).log2()).round()
    exponent = exponent.clamp_min(0)
    found = code.scale * 2 ** (-exponent / finer)
    return torch.where(exponent >= (1 << code.bits), torch.zeros_like(found), found)


def _factors(values: Tensor, code: FactorCode) -> Tensor:
    """FQ-ViT's power-of-two factor: each channel of the last axis has the scale times 2^factor."""
    scale = code.scale * 2.0 ** torch.tensor(code.factors)
    least, most = -(1 << (code.bits - 1)), (1 << (code.bits - 1)) - 1
    return fake_uniform(values, scale, code.zero_point, least, most)


def rounding(code: Code) -> Callable[[Tensor], Tensor]:
    """A function that quantizes and dequantizes values by a code, callable from a graph."""

    def rounded(values: Tensor) -> Tensor:
        return fake_code(values, code)

    return rounded


def fake_code(values: Tensor, code: Code) -> Tensor:
    """Values quantized by a code of any kind and dequantized, in float32."""
    if isinstance(code, UniformCode):
        return fake_uniform(values, code.scale, code.zero_point, code.low, code.high)
    if isinstance(code, TwinUniformCode):
        return _twin(values, code)
    return _log(values, code) if isinstance(code, LogCode) else _factors(values, code)
