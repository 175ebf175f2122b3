"""Evaluate what depends on no input once: attention-bias tables, position grids, masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from edgevit.graph.functional import written_operand
from edgevit.graph.fx import add_constant, attribute, finish, replace
from edgevit.graph.rewrites import Rewrite

_UNEVALUATED = ("_assert", "sym_size", "rand", "bernoulli", "empty")


def _is_pure(node: Node) -> bool:
    random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
    return node.op == "call_function" and not random and not any(word in str(node.target) for word in _UNEVALUATED)


def _copy_of(known: dict[Node, Any]) -> Callable[[Node], Any]:
    return lambda node: known[node].clone() if isinstance(known[node], torch.Tensor) else known[node]


def _depends_on_nothing(node: Node, known: dict[Node, Any]) -> bool:
    return _is_pure(node) and all(source in known for source in node.all_input_nodes)


def _add_shared(
    graph_module: GraphModule, before: Node, value: torch.Tensor, made: list[tuple[torch.Tensor, Node]]
) -> Node:
    """Equal tables stay one table in the file."""
    for other, node in made:
        if other.shape == value.shape and other.dtype == value.dtype and torch.equal(other, value):
            return node
    node = add_constant(graph_module, before, value)
    made.append((value, node))
    return node


@torch.no_grad()
def edit(graph_module: GraphModule) -> int:
    """Replace every constant subgraph by its value; returns how many values were baked."""
    known: dict[Node, Any] = {}
    made: list[tuple[torch.Tensor, Node]] = []
    for node in list(graph_module.graph.nodes):
        if node.op == "get_attr":
            known[node] = attribute(graph_module, str(node.target))
        elif _depends_on_nothing(node, known):
            # an operator that overwrites must not change what others have read
            value_of = _copy_of(known) if written_operand(node) is not None else known.__getitem__
            args, kwargs = map_arg((node.args, node.kwargs), value_of)
            known[node] = node.target(*args, **kwargs)
    for node, value in known.items():
        is_frontier = any(user not in known for user in node.users)
        if node.op == "call_function" and isinstance(value, torch.Tensor) and is_frontier:
            replace(node, _add_shared(graph_module, node, value, made))
    finish(graph_module)
    return len(made)


REWRITE = Rewrite("fold_constants", __doc__.splitlines()[0], order=20, edit=edit)
