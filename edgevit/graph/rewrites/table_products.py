"""Relative position biases from their small tables by products with matrices of zeros and ones.

XNNPACK has no lookup, and expanded biases are a fifth of TinyViT's file. A bias over a grid is expanded
first over the rows of the grid, then over its columns. Exact: every value is one entry of the table, times
one, plus zeros.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.fx import GraphModule, Node

from edgevit.graph.builder import Builder
from edgevit.graph.fx import aten
from edgevit.graph.position_bias import Separable, replace_tables, separable
from edgevit.graph.rewrites import Rewrite


def _choice(numbers: torch.Tensor) -> torch.Tensor:
    return F.one_hot(numbers.flatten()).to(torch.float32)


def _expanded(make: Builder, found: Separable) -> Node:
    """[H, h1, w1, h2, w2] of a table [H, R, C]."""
    (height, other_height), (width, other_width) = found.rows.shape, found.columns.shape
    turned = make.constant(found.table.transpose(1, 2))
    by_rows = make.permute(make.call(aten.linear.default, turned, make.constant(_choice(found.rows))), [0, 2, 1])
    both = make.call(aten.linear.default, by_rows, make.constant(_choice(found.columns)))
    return make.permute(make.reshape(both, (-1, height, other_height, width, other_width)), [0, 1, 3, 2, 4])


def _products(make: Builder, value: torch.Tensor) -> Node | None:
    found = separable(value) if bool(value.isfinite().all()) else None  # zero times infinity is no number
    return None if found is None else make.reshape(_expanded(make, found), value.shape)


@torch.no_grad()
def edit(graph_module: GraphModule) -> int:
    """Expand every such bias; returns how many."""
    return replace_tables(graph_module, _products)


REWRITE = Rewrite("table_products", __doc__.splitlines()[0], order=101, backends=frozenset({"executorch"}), edit=edit)
