"""Relative position biases as lookups in their small tables, with an index that all layers of a stage share.

ONNX Runtime evaluates what depends on constants when it loads a model, so this costs nothing at run time.
Expanded in the file, the biases are a fifth of TinyViT; each with an index of its own, a tenth. Exact.
"""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

from edgevit.graph.builder import Builder
from edgevit.graph.fx import aten
from edgevit.graph.position_bias import indexed, replace_tables
from edgevit.graph.rewrites import Rewrite


def _lookup(make: Builder, value: torch.Tensor) -> Node | None:
    found = indexed(value)
    if found.table.shape[1] * 4 > found.index.numel():
        return None
    index = make.constant(found.index.flatten().to(torch.int32))
    return make.reshape(make.call(aten.index_select.default, make.constant(found.table), 1, index), value.shape)


@torch.no_grad()
def edit(graph_module: GraphModule) -> int:
    """Look up every such bias; returns how many."""
    return replace_tables(graph_module, _lookup)


REWRITE = Rewrite("table_lookup", __doc__.splitlines()[0], order=94, backends=frozenset({"onnx"}), edit=edit)
