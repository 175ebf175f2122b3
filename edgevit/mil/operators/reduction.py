"""Reductions over axes, and sorting."""

from __future__ import annotations

import torch
from torch import Tensor

from edgevit.mil.registry import Compute, Ints, operator


def _product(x: Tensor, axes: Ints, keepdim: bool) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keepdim)
    return x


_REDUCE: dict[str, Compute] = {
    "reduce_mean": lambda x, axes, keep: x.mean(axes, keepdim=keep),
    "reduce_sum": lambda x, axes, keep: x.sum(axes, keepdim=keep),
    "reduce_max": lambda x, axes, keep: x.amax(axes, keepdim=keep),
    "reduce_min": lambda x, axes, keep: x.amin(axes, keepdim=keep),
    "reduce_prod": _product,
    "reduce_sum_square": lambda x, axes, keep: x.square().sum(axes, keepdim=keep),
    "reduce_l1_norm": lambda x, axes, keep: x.abs().sum(axes, keepdim=keep),
    "reduce_l2_norm": lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt(),
    "reduce_log_sum": lambda x, axes, keep: x.sum(axes, keepdim=keep).log(),
    "reduce_log_sum_exp": lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep),
}


def _over_axes(reduce: Compute) -> Compute:
    def apply(*, x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
        return reduce(x, tuple(range(x.ndim)) if axes is None else axes, keep_dims)

    return apply


for _name, _reduce in _REDUCE.items():
    operator(_name)(_over_axes(_reduce))


@operator("reduce_argmax")
def reduce_argmax(*, x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:  # noqa: ARG001
    """Index of the largest value, the first of equals."""
    return x.argmax(axis, keep_dims)


@operator("reduce_argmin")
def reduce_argmin(*, x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:  # noqa: ARG001
    """Index of the smallest value, the first of equals."""
    return x.argmin(axis, keep_dims)


@operator("argsort")
def argsort(*, x: Tensor, axis: int = -1, ascending: bool = False) -> Tensor:
    """Indices that sort along an axis, equals in their order."""
    return torch.argsort(x, dim=axis, descending=not ascending, stable=True)


@operator("topk")
def topk(
    *,
    x: Tensor,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,  # noqa: ARG001 - sorted is one of the orders that unsorted allows
    return_indices: bool = True,
    output_indices_dtype: str = "int32",  # noqa: ARG001
) -> Tensor | tuple[Tensor, Tensor]:
    """The ``k`` largest (or smallest) values along an axis and where they are."""
    values, indices = torch.sort(x, dim=axis, descending=not ascending, stable=True)
    best = values.narrow(axis, 0, k), indices.narrow(axis, 0, k)
    return best if return_indices else best[0]


@operator("cumsum")
def cumsum(*, x: Tensor, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    """Running sum along an axis."""
    ordered = x.flip(axis) if reverse else x
    total = ordered.cumsum(axis)
    total = total - ordered if exclusive else total
    return total.flip(axis) if reverse else total
