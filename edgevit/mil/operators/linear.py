"""Matrix products and attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from edgevit.mil.registry import operator


@operator("linear")
def linear(*, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``; ``weight`` is [out, in]."""
    return functional.linear(x, weight, bias)


@operator("matmul")
def matmul(*, x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    """Batched matrix product; a vector is never transposed."""
    left = x.mT if transpose_x and x.ndim > 1 else x
    right = y.mT if transpose_y and y.ndim > 1 else y
    return torch.matmul(left, right)


@operator("einsum")
def einsum(*, values: list[Tensor], equation: str) -> Tensor:
    """Einstein summation of the tensors ``values``, with torch's notation in ``equation``."""
    return torch.einsum(equation, *values)


def attention_scores(query: Tensor, key: Tensor) -> Tensor:
    """``query @ key.T`` before it is divided by the square root of the head's width."""
    return query @ key.mT


@operator("scaled_dot_product_attention")
def scaled_dot_product_attention(
    *, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None
) -> Tensor:
    """``softmax(Q K.T / sqrt(E) + mask) V``; a boolean mask says which positions take part."""
    scores = attention_scores(query, key) / math.sqrt(query.shape[-1])
    if attn_mask is not None:
        boolean = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -math.inf) if boolean else scores + attn_mask
    return torch.softmax(scores, -1) @ value
