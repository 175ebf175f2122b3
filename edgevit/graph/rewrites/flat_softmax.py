"""Softmax over the last of four axes as a 3-D one: ExecuTorch gets the 4-D form wrong after a convolution.

XNNPACK's lowering keeps a value that comes from a convolution in channels-last order. Softmax
over the last NCHW axis then runs over another axis, without an error (executorch 1.5.1; it shows
in attention with talking heads, such as EfficientFormerV2's).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from edgevit.graph.fx import aten
from edgevit.graph.rewrites import Rewrite


def softmax(scores: torch.Tensor, dim: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Softmax of [B, H, N, M] over M as one of [B*H, N, M]; others pass unchanged."""
    if scores.dim() != 4 or dim not in (-1, 3):
        return aten.softmax.int(scores, dim, dtype)
    batch, heads, rows, columns = scores.shape
    flat = scores.reshape(batch * heads, rows, columns)
    return aten.softmax.int(flat, -1, dtype).reshape(scores.shape)


def rules() -> Mapping[Any, Callable[..., Any]]:
    """The replacement of `aten.softmax`."""
    return {aten.softmax.int: softmax}


REWRITE = Rewrite(
    "flat_softmax",
    __doc__.splitlines()[0],
    order=105,
    backends=frozenset({"executorch"}),
    rules=rules,
)
