"""Splits, selections, every n-th entry and rolls as slices, squeezes as reshapes.

XNNPACK takes a slice of neighbours, a concatenation and a reshape; ExecuTorch leaves `split_with_sizes`,
`select`, `squeeze`, slices with a step and the `index_select` of a roll outside its delegate, where each of
them copies on one thread and cuts the delegate in two. LiteRT does so with slices that have a step. Exact.
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
    """Split into parts of given sizes."""
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    return tuple(_slice(x, dim, start, size) for start, size in zip(starts, sizes, strict=True))


def split(x: torch.Tensor, size: int, dim: int = 0) -> tuple[torch.Tensor, ...]:
    """Split into parts of one size; the last holds the remainder."""
    total = x.shape[dim]
    return split_with_sizes(x, [min(size, total - start) for start in range(0, total, size)], dim)


def chunk(x: torch.Tensor, count: int, dim: int = 0) -> tuple[torch.Tensor, ...]:
    """Split into at most ``count`` parts of one size."""
    return split(x, max(1, -(-x.shape[dim] // count)), dim)


def select(x: torch.Tensor, dim: int, index: int) -> torch.Tensor:
    """One slice along an axis, without that axis."""
    axis = dim % x.dim()
    shape = [size for place, size in enumerate(x.shape) if place != axis]
    return _slice(x, axis, index % x.shape[axis], 1).reshape(shape)


def unbind(x: torch.Tensor, dim: int = 0) -> tuple[torch.Tensor, ...]:
    """All slices along an axis, each without that axis."""
    return tuple(select(x, dim, index) for index in range(x.shape[dim]))


def squeeze(x: torch.Tensor, dim: int | Sequence[int] | None = None) -> torch.Tensor:
    """Remove axes of size 1."""
    chosen = range(x.dim()) if dim is None else [dim] if isinstance(dim, int) else dim
    axes = {axis % x.dim() for axis in chosen}
    return x.reshape([size for axis, size in enumerate(x.shape) if not (axis in axes and size == 1)])


def stepped_slice(
    x: torch.Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> torch.Tensor:
    """Every ``step``-th entry along an axis, as the first entry of each group of ``step``."""
    places = range(x.shape[dim])[start:end:step]
    if step == 1 or len(places) < 2:
        return aten.slice.Tensor(x, dim, start, end, step)
    axis, size = dim % x.dim(), list(x.shape)
    whole = places.start + len(places) * step
    if whole > size[axis]:
        first = aten.slice.Tensor(x, axis, places.start, places[-1])
        rest = _slice(x, axis, places[-1], 1)
        return torch.cat([stepped_slice(first, axis, 0, None, step), rest], axis)
    groups = _slice(x, axis, places.start, len(places) * step)
    groups = groups.reshape(*size[:axis], len(places), step, *size[axis + 1 :])
    return _slice(groups, axis + 1, 0, 1).reshape(*size[:axis], len(places), *size[axis + 1 :])


def roll(x: torch.Tensor, shifts: Sequence[int], dims: Sequence[int] = ()) -> torch.Tensor:
    """Rotate an axis: entries that leave at one end come in at the other."""
    if not dims:
        return roll(x.reshape(-1), shifts, (0,)).reshape(x.shape)
    for shift, dim in zip(shifts, dims, strict=True):
        size = x.shape[dim]
        first = size - shift % max(1, size)
        if first < size:
            x = torch.cat([_slice(x, dim, first, size - first), _slice(x, dim, 0, first)], dim)
    return x


def rules() -> Mapping[Any, Callable[..., Any]]:
    """Replacement functions by ATen operator, for `edgevit.graph.fx.RuleInterpreter`."""
    return {
        aten.split_with_sizes.default: split_with_sizes,
        aten.split.Tensor: split,
        aten.chunk.default: chunk,
        aten.select.int: select,
        aten.unbind.int: unbind,
        aten.slice.Tensor: stepped_slice,
        aten.roll.default: roll,
        aten.squeeze.default: squeeze,
        aten.squeeze.dim: squeeze,
        aten.squeeze.dims: squeeze,
    }


REWRITE = Rewrite(
    "plain_slices", __doc__.splitlines()[0], order=110, backends=frozenset({"executorch", "litert"}), rules=rules
)
