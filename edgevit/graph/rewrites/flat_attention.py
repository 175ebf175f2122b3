"""Attention with more than one batch axis as 4-D attention: ONNX takes no other (Twins' windows)."""

from __future__ import annotations

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
    *rest: Any,
    **options: Any,
) -> torch.Tensor:
    """Attention over [..., H, N, D] as over [B, H, N, D]; 4-D or masked operands pass unchanged."""
    operator = aten.scaled_dot_product_attention.default
    alike = query.shape[:-2] == key.shape[:-2] == value.shape[:-2]
    if query.dim() <= 4 or attn_mask is not None or not alike:
        return operator(query, key, value, attn_mask, *rest, **options)
    flat = (operand.reshape(-1, *operand.shape[-3:]) for operand in (query, key, value))
    return operator(*flat, None, *rest, **options).reshape(*query.shape[:-1], value.shape[-1])


def rules() -> Mapping[Any, Callable[..., Any]]:
    """The replacement of `aten.scaled_dot_product_attention`."""
    return {aten.scaled_dot_product_attention.default: attention}


REWRITE = Rewrite(
    "flat_attention",
    __doc__.splitlines()[0],
    order=95,
    backends=frozenset({"onnx", "coreml", "executorch-coreml", "litert"}),
    rules=rules,
)
