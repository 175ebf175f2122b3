"""Large added constants as integers: position embeddings and expanded attention biases.

A format that stores them expanded would be a third larger than its integer weights otherwise. Every format
computes with the rounded values, so that all agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.fx import Node

from edgevit.graph.builder import Builder
from edgevit.graph.fx import aten, constant, is_call
from edgevit.graph.qdq.codes import on_grid
from edgevit.schema.recipe import TableCode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.fx import GraphModule

LEAST = 4096
"""Elements; what is smaller stays as it is."""
_ADDING = (aten.add.Tensor, aten.scaled_dot_product_attention.default)


def tables_of(core: GraphModule) -> Iterator[tuple[Node, Tensor]]:
    """Constants that are added to values and used for nothing else: (their node, the values)."""
    for node in core.graph.nodes:
        value = constant(core, node)
        if value is None or value.dtype != torch.float32 or value.numel() < LEAST or value.dim() < 2:
            continue
        if node.users and all(is_call(user, *_ADDING) for user in node.users):
            yield node, value


def _laid(scale: Tensor, axis: int) -> Tensor:
    return scale.reshape(-1, *[1] * (-axis - 1))


def table_code(value: Tensor) -> TableCode:
    """Symmetric 8-bit integers with one scale for each head, the third axis from the end, where there is one."""
    axis = -3 if value.dim() > 2 else -value.dim()
    rows = value.movedim(axis, 0).flatten(1) if value.dim() > 2 else value.reshape(1, -1)
    return TableCode(axis=axis, scale=tuple(on_grid(rows.abs().amax(1) / 127).tolist()))


def fake_table(value: Tensor, code: TableCode) -> Tensor:
    """A table quantized to its code and dequantized, in float32."""
    scale = _laid(torch.tensor(code.scale), code.axis)
    return (value / scale).round().clamp(-127, 127) * scale


def round_tables(core: GraphModule, codes: Mapping[str, TableCode]) -> None:
    """Replace the tables of a graph by their rounded values, in place."""
    builder = Builder(core)
    for node, value in list(tables_of(core)):
        code = codes.get(node.name)
        if code is not None:
            node.replace_all_uses_with(builder.at(node.next).constant(fake_table(value, code)))
