"""Regions that switch autocast off, put in place of the call that wraps them.

Models guard what overflows in half precision, ReLU attention for one, with ``autocast(enabled=False)``.
A captured program keeps such a region as a graph of its own, into which no other rewrite looks. Its
operators are marked as guarded, so that a program in fp16 can keep them in fp32. Exact.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch._higher_order_ops.wrap import WrapWithAutocast
from torch.fx import GraphModule, Node

from edgevit.graph.functional import make_functional
from edgevit.graph.fx import GUARDED, LEAVES_GUARD, aten, attribute, finish, module_path
from edgevit.graph.rewrites import Rewrite

_ENABLED, _REGION, _OPERANDS = 2, 4, 5


def _copied(graph_module: GraphModule, node: Node) -> Any:
    """The region's operators before the call that wraps it; returns what the region gives."""
    region = node.args[_REGION]
    assert isinstance(region, Node)
    inner = attribute(graph_module, str(region.target))
    copies: dict[Node, Any] = {}
    operands = iter(node.args[_OPERANDS:])
    for one in inner.graph.nodes:
        if one.op == "placeholder":
            copies[one] = next(operands)
        elif one.op == "output":
            return torch.fx.map_arg(one.args[0], lambda value: copies[value])
        elif one.target is not aten._assert_tensor_metadata.default:
            with node.graph.inserting_before(node):
                made = node.graph.node_copy(one, lambda value: copies[value])
            if made.op == "get_attr":
                made.target = f"{region.target}.{one.target}"
            made.meta[GUARDED] = True
            made.meta["module_path"] = module_path(one) or module_path(node)
            copies[one] = made
    raise AssertionError("a region without an output")


def edit(graph_module: GraphModule) -> int:
    """Inline every region with autocast off; returns how many."""
    inlined = 0
    for node in list(graph_module.graph.nodes):
        if not isinstance(node.target, WrapWithAutocast):
            continue
        if node.args[_ENABLED]:
            continue
        given = _copied(graph_module, node)
        for user in list(node.users):
            assert user.target is operator.getitem
            given[user.args[1]].meta[LEAVES_GUARD] = True
            user.replace_all_uses_with(given[user.args[1]])
        inlined += 1
    finish(graph_module)
    if inlined:
        make_functional(graph_module)
    return inlined


REWRITE = Rewrite("inline_autocast", __doc__.splitlines()[0], order=5, edit=edit)
