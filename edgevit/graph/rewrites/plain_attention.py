"""Attention as bmm, mask, softmax, bmm on 3-D tensors, the form XNNPACK delegates whole.

`scaled_dot_product_attention` decomposes into a softmax guarded against fully masked rows
(eq, any, where) that ExecuTorch leaves outside its delegate. A constant additive mask without
minus infinity needs no guard.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from edgevit.graph.fx import aten
from edgevit.graph.rewrites import Rewrite


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **options: Any,
) -> torch.Tensor:
    """softmax(q k^T * scale + mask) v for 4-D [B, H, N, D] operands; others pass unchanged."""
    boolean_mask = attn_mask is not None and attn_mask.dtype == torch.bool
    if query.dim() != 4 or key.shape[1] != query.shape[1] or is_causal or boolean_mask:
        return aten.scaled_dot_product_attention.default(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **options
        )
    batch, heads, tokens, width = query.shape
    others = key.shape[-2]
    factor = 1 / math.sqrt(width) if scale is None else scale
    query = (query * factor).reshape(batch * heads, tokens, width)
    key = key.reshape(batch * heads, others, width)
    value = value.reshape(batch * heads, others, value.shape[-1])
    scores = torch.bmm(query, key.transpose(-2, -1))
    if attn_mask is not None:
        scores = (scores.reshape(batch, heads, tokens, others) + attn_mask).reshape(scores.shape)
    return torch.bmm(torch.softmax(scores, -1), value).reshape(batch, heads, tokens, -1)


def rules() -> Mapping[Any, Callable[..., Any]]:
    """The replacement of `aten.scaled_dot_product_attention`."""
    return {aten.scaled_dot_product_attention.default: attention}


REWRITE = Rewrite(
    "plain_attention",
    __doc__.splitlines()[0],
    order=100,
    backends=frozenset({"executorch"}),
    rules=rules,
)
