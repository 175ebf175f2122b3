"""Relative position biases: constants with few distinct values, found in their expanded form.

A bias [H, N, M] over tokens of a grid takes one value for each offset between two places. Its columns
over H repeat, and which column stands where is the same in every layer of a stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isqrt

import torch
from torch.fx import GraphModule, Node

from edgevit.graph.builder import Builder
from edgevit.graph.fx import aten, constant, finish

_FEWEST = 8192
"""Values of a table that is worth the operators."""
_READERS = (aten.add.Tensor, aten.add_.Tensor, aten.scaled_dot_product_attention.default)


@dataclass(frozen=True)
class Indexed:
    """``table[:, index]``: float [H, U] and int64 [N, M]; the index depends on the structure only."""

    table: torch.Tensor
    index: torch.Tensor


@dataclass(frozen=True)
class Separable:
    """``table[:, rows[y1, y2], columns[x1, x2]]`` at place ((y1, x1), (y2, x2)) of a grid.

    Attributes:
        table: float [H, R, C].
        rows: int64 [h1, h2].
        columns: int64 [w1, w2].
    """

    table: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor


def _by_appearance(values: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Distinct slices along an axis: for each place its number, and for each number its first place."""
    found, inverse = torch.unique(values, dim=dim, return_inverse=True)
    count = found.shape[dim]
    first = torch.full((count,), len(inverse)).scatter_reduce(0, inverse, torch.arange(len(inverse)), "amin")
    rank = torch.empty(count, dtype=torch.long)
    rank[first.argsort()] = torch.arange(count)
    return rank[inverse], first.sort().values


def indexed(value: torch.Tensor) -> Indexed:
    """A constant [..., N, M] by its distinct columns over the leading axes, numbered as they appear."""
    flat = value.reshape(-1, value.shape[-2] * value.shape[-1])
    inverse, first = _by_appearance(flat, 1)
    return Indexed(flat[:, first], inverse.reshape(value.shape[-2:]))


def _grids(tokens: int) -> Iterator[tuple[int, int]]:
    """Heights and widths of a grid of ``tokens`` tokens, the squarest first."""
    widths = [width for width in range(1, tokens + 1) if tokens % width == 0]
    yield from ((tokens // width, width) for width in sorted(widths, key=lambda width: abs(width - isqrt(tokens))))


def separable(value: torch.Tensor) -> Separable | None:
    """A constant [..., N, M] by its distinct rows and columns of offsets, or None where it has no such form."""
    known = indexed(value)
    if known.table.shape[1] * 4 > known.index.numel():
        return None
    for height, width in _grids(value.shape[-2]):
        for other_height, other_width in _grids(value.shape[-1]):
            if abs(height * other_width - width * other_height) > 0:
                continue
            index = known.index.reshape(height, width, other_height, other_width).permute(0, 2, 1, 3)
            rows, row_places = _by_appearance(index.reshape(height * other_height, -1), 0)
            columns, column_places = _by_appearance(index.reshape(height * other_height, -1), 1)
            table = index.reshape(height * other_height, -1)[row_places][:, column_places]
            choices = rows.numel() * len(row_places) + columns.numel() * len(column_places)
            if (table.numel() * len(known.table) + choices) * 2 <= value.numel():
                return Separable(
                    known.table[:, table], rows.reshape(height, other_height), columns.reshape(width, other_width)
                )
    return None


def replace_tables(graph_module: GraphModule, expand: Callable[[Builder, torch.Tensor], Node | None]) -> int:
    """Replace every large constant that is added to a value by smaller constants and operators; returns how many.

    Args:
        graph_module: edited in place.
        expand: builds a float constant [..., N, M] from smaller ones, or returns None where it has no such form.
    """
    builder, done = Builder(graph_module), 0
    for node in [node for node in graph_module.graph.nodes if node.op == "get_attr"]:
        value = constant(graph_module, node)
        if value is None or value.dtype != torch.float32 or value.dim() < 2 or value.numel() < _FEWEST:
            continue
        made = expand(builder.at(node), value) if all(user.target in _READERS for user in node.users) else None
        if made is not None:
            node.replace_all_uses_with(made)
            done += 1
    finish(graph_module)
    return done
