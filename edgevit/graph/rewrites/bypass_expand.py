"""Drop an expand whose users broadcast anyway: LiteRT refuses MobileViTv2's ``expand_as``."""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

from edgevit.graph.fx import aten, calls, finish, is_call, operand, replace, shape
from edgevit.graph.rewrites import Rewrite

_BROADCASTING = (
    aten.mul.Tensor,
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.div.Tensor,
    aten.mul_.Tensor,
    aten.add_.Tensor,
)


def _broadcasts(user: Node, expanded: Node) -> bool:
    """Whether ``user`` gives the same result with the unexpanded operand."""
    if not is_call(user, *_BROADCASTING):
        return False
    source = operand(expanded)
    operands = [source if operand is expanded else operand for operand in user.args[:2]]
    shapes = [shape(operand) if isinstance(operand, Node) else () for operand in operands]
    if any(found is None for found in shapes):
        return False
    if user.target in (aten.mul_.Tensor, aten.add_.Tensor) and user.args[0] is expanded:
        return False
    return tuple(torch.broadcast_shapes(*shapes)) == shape(user)  # type: ignore[no-untyped-call]


def edit(graph_module: GraphModule) -> int:
    """Bypass every such expand; returns how many were removed."""
    removed = 0
    for node in calls(graph_module, aten.expand.default, aten.expand_as.default):
        if all(_broadcasts(user, node) for user in node.users):
            replace(node, operand(node))
            removed += 1
    finish(graph_module)
    return removed


REWRITE = Rewrite("bypass_expand", __doc__.splitlines()[0], order=60, edit=edit)
