"""Splits, chunks, unbinds and selections as slices, squeezes as reshapes.

XNNPACK takes a slice and a reshape; ExecuTorch leaves `split_with_sizes`, `select` and `squeeze` outside
its delegate, where each of them copies on one thread and cuts the delegate in two. Exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from edgevit.graph.fx import aten
from edgevit.graph.rewrites import Rewrite


def _slice(x: torch.Tensor, dim: int, start: int, length: int) -> torch.Tensor:
    return aten.slice.Tensor(x, dim, start, start + length)


def split_with_sizes(x: torch.Tensor, sizes: Sequence[int], dim: int = 0) -> tuple[torch.Tensor, ...]:
    """Parts of given sizes."""
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    return tuple(_slice(x, dim, start, size) for start, size in zip(starts, sizes, strict=True))


def split(x: torch.Tensor, size: int, dim: int = 0) -> tuple[torch.Tensor, ...]:
    """Parts of one size, the last one of what is left."""
    total = x.shape[dim]
    return split_with_sizes(x, [min(size, total - start) for start in range(0, total, size)], dim)


def chunk(x: torch.Tensor, count: int, dim: int = 0) -> tuple[torch.Tensor, ...]:
    """At most ``count`` parts of one size."""
    return split(x, -(-x.shape[dim] // count), dim)


def select(x: torch.Tensor, dim: int, index: int) -> torch.Tensor:
    """One slice without its axis."""
    axis = dim % x.dim()
    shape = [size for place, size in enumerate(x.shape) if place != axis]
    return _slice(x, axis, index % x.shape[axis], 1).reshape(shape)


def unbind(x: torch.Tensor, dim: int = 0) -> tuple[torch.Tensor, ...]:
    """Every slice without its axis."""
    return tuple(select(x, dim, index) for index in range(x.shape[dim]))


def squeeze(x: torch.Tensor, dim: int | Sequence[int] | None = None) -> torch.Tensor:
    """Without axes of size 1."""
    chosen = range(x.dim()) if dim is None else [dim] if isinstance(dim, int) else dim
    axes = {axis % x.dim() for axis in chosen}
    return x.reshape([size for axis, size in enumerate(x.shape) if not (axis in axes and size == 1)])


def rules() -> Mapping[Any, Callable[..., Any]]:
    """The replacements."""
    return {
        aten.split_with_sizes.default: split_with_sizes,
        aten.split.Tensor: split,
        aten.chunk.default: chunk,
        aten.select.int: select,
        aten.unbind.int: unbind,
        aten.squeeze.default: squeeze,
        aten.squeeze.dim: squeeze,
        aten.squeeze.dims: squeeze,
    }


REWRITE = Rewrite("plain_slices", __doc__.splitlines()[0], order=110, backends=frozenset({"executorch"}), rules=rules)
