"""Affine quantisation of activations, and its inverse."""

from __future__ import annotations

import torch
from torch import Tensor

from edgevit.mil.registry import operator, spread


def _along(vector: Tensor | None, axis: int | None, rank: int) -> Tensor | float:
    if vector is None:
        return 0.0
    values = vector.to(torch.float32)
    return values if axis is None else spread(values, axis, rank)


@operator("quantize")
def quantize(
    *, input: Tensor, scale: Tensor, output_dtype: str, zero_point: Tensor | None = None, axis: int | None = None
) -> Tensor:
    """``clip(round(input / scale) + zero_point)``, halves rounded to even."""
    low, high = (-128, 127) if output_dtype == "int8" else (0, 255)
    steps = torch.round(input / _along(scale, axis, input.ndim))
    return (steps + _along(zero_point, axis, input.ndim)).clamp(low, high)


@operator("dequantize")
def dequantize(*, input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: int | None = None) -> Tensor:
    """``scale (input - zero_point)``."""
    shifted = input.to(torch.float32) - _along(zero_point, axis, input.ndim)
    return shifted * _along(scale, axis, input.ndim)
