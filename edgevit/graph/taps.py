"""Makes a program return chosen intermediate values ("taps") instead of its logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.fx import GraphModule

from edgevit.graph.fx import aten, finish, module_path

_SHAPE_ONLY = (
    aten.view.default,
    aten.reshape.default,
    aten.permute.default,
    aten.transpose.int,
    aten.flatten.using_ints,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.expand.default,
    aten.contiguous.default,
    aten.slice.Tensor,
    aten.select.int,
)


@dataclass(frozen=True)
class Tap:
    """One intermediate value that can be returned.

    Attributes:
        node: its name in the graph.
        operator: the ATen operator that makes it.
        module: dotted path of the module it comes from, or an empty string.
        numel: number of elements.
    """

    node: str
    operator: str
    module: str
    numel: int


def tappable(core: GraphModule) -> list[Tap]:
    """All floating-point values that operators compute, in graph order, without plain reshapes."""
    found = []
    for node in core.graph.nodes:
        value = node.meta.get("val")
        if node.op != "call_function" or node.target in _SHAPE_ONLY or not isinstance(value, torch.Tensor):
            continue
        if value.is_floating_point() and value.numel() > 1:
            found.append(Tap(node.name, str(node.target), module_path(node), value.numel()))
    return found


def tap(core: GraphModule, names: Sequence[str]) -> None:
    """Make the graph return the named values, flattened and joined to [1, total], in place."""
    graph = core.graph
    wanted = {node.name: node for node in graph.nodes if node.name in set(names)}
    output = next(node for node in graph.nodes if node.op == "output")
    with graph.inserting_before(output):
        flat = [graph.call_function(aten.reshape.default, (wanted[name], [1, -1])) for name in names]
        joined = graph.call_function(aten.cat.default, (flat, 1))
    output.args = ((joined,),)
    core.graph._codegen = torch.fx.graph.CodeGen()
    finish(core)
