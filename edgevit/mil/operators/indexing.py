"""Slices, gathers and scatters."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from edgevit.mil.registry import Bools, Ints, operator, positive, take


def _slices(
    begin: Ints, end: Ints, stride: Ints | None, begin_mask: Bools | None, end_mask: Bools | None, squeeze: Bools | None
) -> tuple[slice | int, ...]:
    """numpy's index for MIL's slice parameters; masked bounds are left open, squeezed axes become an integer."""
    no = (False,) * len(begin)
    rows = zip(begin, end, stride or (1,) * len(begin), begin_mask or no, end_mask or no, squeeze or no, strict=True)
    return tuple(
        first if single else slice(None if open_begin else first, None if open_end else last, step)
        for first, last, step, open_begin, open_end, single in rows
    )


@operator("slice_by_index")
def slice_by_index(
    *,
    x: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Bools | None = None,
    end_mask: Bools | None = None,
    squeeze_mask: Bools | None = None,
) -> Tensor:
    """numpy's basic slicing, steps of either sign."""
    chosen = _slices(begin, end, stride, begin_mask, end_mask, squeeze_mask)
    if all(isinstance(one, int) or one.step > 0 for one in chosen):
        return x[chosen]
    return torch.from_numpy(x.numpy()[chosen].copy())  # torch takes no negative steps


@operator("slice_by_size")
def slice_by_size(*, x: Tensor, begin: Ints, size: Ints) -> Tensor:
    """A slice of ``size`` elements of each axis from ``begin``; -1 means all that follow."""
    firsts = [positive(first, length) if first < 0 else first for first, length in zip(begin, x.shape, strict=True)]
    return x[tuple(slice(f, None if n == -1 else f + n) for f, n in zip(firsts, size, strict=True))]


@operator("slice_update")
def slice_update(
    *,
    x: Tensor,
    update: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Bools | None = None,
    end_mask: Bools | None = None,
    squeeze_mask: Bools | None = None,
) -> Tensor:
    """A copy with one slice replaced."""
    result = x.numpy().copy()
    result[_slices(begin, end, stride, begin_mask, end_mask, squeeze_mask)] = update.numpy()
    return torch.from_numpy(result)


def _wrapped(indices: Tensor, size: int) -> Tensor:
    """Indices with negative ones counted from the end of the axis.

    Raises:
        ValueError: one is out of range.
    """
    indices = indices.long()
    if indices.numel() and not bool(((indices >= -size) & (indices < size)).all()):
        raise ValueError(f"an index lies outside an axis of {size} elements")
    return torch.where(indices < 0, indices + size, indices)


@operator("gather")
def gather(
    *,
    x: Tensor,
    indices: Tensor,
    axis: int = 0,
    batch_dims: int = 0,
    validate_indices: bool = False,  # noqa: ARG001
) -> Tensor:
    """Slices of an axis at the given indices; the first ``batch_dims`` axes are paired, as in TensorFlow."""
    axis = positive(axis, x.ndim)
    places = _wrapped(indices, x.shape[axis])
    if batch_dims == 0:
        found = take(x, axis, places.reshape(-1))
        return found.reshape(x.shape[:axis] + places.shape + x.shape[axis + 1 :])
    rows = zip(x, places, strict=True)
    return torch.stack([gather(x=r, indices=p, axis=axis - 1, batch_dims=batch_dims - 1) for r, p in rows])


@operator("gather_along_axis")
def gather_along_axis(*, x: Tensor, indices: Tensor, axis: int = 0, validate_indices: bool = False) -> Tensor:  # noqa: ARG001
    """Values of ``x`` at ``indices`` along an axis, as numpy's ``take_along_axis`` picks them."""
    axis = positive(axis, x.ndim)
    return x.gather(axis, _wrapped(indices, x.shape[axis]))


def _flat_places(indices: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Row numbers in the flattened leading axes, for indices [..., depth]."""
    place = torch.zeros(indices.shape[:-1], dtype=torch.int64)
    for axis, size in enumerate(shape):
        place = place * size + _wrapped(indices[..., axis], size)
    return place


@operator("gather_nd")
def gather_nd(*, x: Tensor, indices: Tensor, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:  # noqa: ARG001
    """Slices at index vectors, as TensorFlow's ``gather_nd``."""
    if batch_dims:
        rows = zip(x, indices, strict=True)
        return torch.stack([gather_nd(x=r, indices=p, batch_dims=batch_dims - 1) for r, p in rows])
    depth = indices.shape[-1]
    flat = x.reshape(math.prod(x.shape[:depth]), *x.shape[depth:])
    return flat[_flat_places(indices, tuple(x.shape[:depth]))]


_REDUCE = {"max": "amax", "min": "amin", "mul": "prod", "div": "prod"}


def _scattered(data: Tensor, axis: int, indices: Tensor, updates: Tensor, mode: str) -> Tensor:
    """``data`` with ``updates`` combined into it at ``indices``, all of one rank."""
    updates = updates.to(data.dtype)
    if mode == "update":
        return data.scatter(axis, indices, updates)
    if mode in ("add", "sub"):
        return data.scatter_add(axis, indices, updates if mode == "add" else -updates)
    if mode == "div":
        divisor = torch.ones_like(data).scatter_reduce(axis, indices, updates, "prod")
        quotient = data / divisor
        return quotient if data.is_floating_point() else quotient.trunc().to(data.dtype)
    if mode not in _REDUCE:
        raise ValueError(f"there is no scatter mode {mode!r}")
    reduce: Any = _REDUCE[mode]
    return data.scatter_reduce(axis, indices, updates, reduce)


@operator("scatter_along_axis")
def scatter_along_axis(
    *,
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool = False,  # noqa: ARG001
) -> Tensor:
    """A copy with updates written or combined along one axis."""
    axis = positive(axis, data.ndim)
    return _scattered(data, axis, _wrapped(indices, data.shape[axis]), updates, mode)


@operator("scatter")
def scatter(
    *,
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool = False,  # noqa: ARG001
) -> Tensor:
    """A copy with slices of an axis replaced or combined; ``indices`` may have any rank."""
    axis = positive(axis, data.ndim)
    places = _wrapped(indices, data.shape[axis]).reshape(-1)
    shape = (*data.shape[:axis], len(places), *data.shape[axis + 1 :])
    spread = places.reshape([-1 if index == axis else 1 for index in range(data.ndim)]).expand(shape)
    return _scattered(data, axis, spread, updates.reshape(shape), mode)


@operator("scatter_nd")
def scatter_nd(
    *,
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    mode: str = "add",
    validate_indices: bool = False,  # noqa: ARG001
) -> Tensor:
    """A copy with slices at index vectors replaced or combined."""
    depth = indices.shape[-1]
    rows, width = math.prod(data.shape[:depth]), math.prod(data.shape[depth:])
    places = _flat_places(indices, tuple(data.shape[:depth])).reshape(-1)
    flat = _scattered(
        data.reshape(rows, width), 0, places.unsqueeze(1).expand(-1, width), updates.reshape(len(places), width), mode
    )
    return flat.reshape(data.shape)
