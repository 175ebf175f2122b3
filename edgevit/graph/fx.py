"""Small helpers over `torch.fx` graphs captured by `torch.export`.

All functions work on the GraphModule that `ExportedProgram.module()` gives: ATen calls, with
parameters, buffers and constants as ``get_attr`` nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeGuard

import torch
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

aten = torch.ops.aten
GUARDED = "guarded"
"""Key of a node's ``meta``: the model itself keeps this operator from half precision."""
LEAVES_GUARD = "leaves_guard"
"""Key of a node's ``meta``: what reads this value from a guarded region is of the program's precision again."""


def calls(graph_module: GraphModule, *targets: Any) -> Iterator[Node]:
    """Every call of one of ``targets``, in order; safe against edits while iterating."""
    for node in list(graph_module.graph.nodes):
        if node.op == "call_function" and node.target in targets:
            yield node


def is_call(node: Any, *targets: Any) -> TypeGuard[Node]:
    """Whether ``node`` is a call of one of ``targets``."""
    return isinstance(node, Node) and node.op == "call_function" and node.target in targets


def operand(node: Node, index: int = 0) -> Node:
    """A positional argument that is itself a node; by default the first."""
    found = node.args[index]
    assert isinstance(found, Node), f"{node} takes {found!r}"
    return found


def argument(node: Node, name: str, default: Any = None) -> Any:
    """The argument of a call by its schema name, wherever it was passed."""
    if name in node.kwargs:
        return node.kwargs[name]
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    for position, parameter in enumerate(schema):
        if parameter.name == name:
            if position < len(node.args):
                return node.args[position]
            return parameter.default_value if parameter.has_default_value() else default
    return default


def attribute(graph_module: GraphModule, path: str) -> Any:
    """The parameter, buffer or constant at a dotted path."""
    owner: Any = graph_module
    for part in path.split("."):
        owner = getattr(owner, part)
    return owner


def constant(graph_module: GraphModule, node: Any) -> torch.Tensor | None:
    """The tensor behind a ``get_attr`` node, or None for anything else."""
    if not isinstance(node, Node) or node.op != "get_attr":
        return None
    value = attribute(graph_module, str(node.target))
    return value.detach() if isinstance(value, torch.Tensor) else None


def add_constant(graph_module: GraphModule, before: Node, value: torch.Tensor) -> Node:
    """Register ``value`` as a buffer and return a ``get_attr`` node placed before ``before``."""
    number = sum(name.startswith("edgevit_const_") for name in graph_module._buffers)
    name = f"edgevit_const_{number}"
    while hasattr(graph_module, name):
        number += 1
        name = f"edgevit_const_{number}"
    stored = in_plain_order(value)
    graph_module.register_buffer(name, stored)
    with graph_module.graph.inserting_before(before):
        node = graph_module.graph.get_attr(name)
    node.meta["val"] = stored
    return node


def in_plain_order(value: torch.Tensor) -> torch.Tensor:
    """A contiguous copy of a tensor with the strides of a freshly allocated one, the last axis fastest.

    ``contiguous()`` is not enough: it returns a permuted tensor with axes of size 1 as it is, strides and all. From
    strides such as (1, 1, 16, 1) for [1, 1, 16, 16] ExecuTorch concludes that the tensor is channels-last, and reads
    it permuted.
    """
    return torch.empty(tuple(value.shape), dtype=value.dtype).copy_(value.detach())


def has_plain_order(value: torch.Tensor) -> bool:
    """Whether a tensor has the strides of a freshly allocated one."""
    return value.stride() == torch.empty(tuple(value.shape), device="meta").stride()


def first_output(answer: Any) -> Any:
    """The result of a captured graph; of several results the first."""
    return answer[0] if isinstance(answer, (tuple, list)) else answer


def shape(node: Any) -> tuple[int, ...] | None:
    """The recorded shape of a node's tensor, or None where it has none."""
    value = node.meta.get("val") if isinstance(node, Node) else None
    return tuple(value.shape) if isinstance(value, torch.Tensor) else None


def module_path(node: Node) -> str:
    """Dotted path of the module that a node was captured in, or an empty string.

    A node that a rewrite put in has none of its own: it takes that of what it reads.
    """
    if "module_path" in node.meta:
        return str(node.meta["module_path"])
    stack = node.meta.get("nn_module_stack") or {}
    paths = [str(path) for path, _ in stack.values()]
    if paths:
        return paths[-1].removeprefix("L['self'].")
    above = (module_path(source) for source in node.all_input_nodes if source.op == "call_function")
    return next((path for path in above if path), "")


def sole_user(node: Node) -> Node | None:
    """The only user of a node, or None where it has none or several users, or one that reads it more than once."""
    if len(node.users) != 1:
        return None
    user, reads = next(iter(node.users)), list[Node]()
    map_arg((user.args, user.kwargs), reads.append)
    return user if reads.count(node) == 1 else None


def is_float32(*nodes: Any) -> bool:
    """Whether every one of these nodes holds a float32 tensor, the precision that programs are captured in."""
    values = [node.meta.get("val") if isinstance(node, Node) else None for node in nodes]
    return all(isinstance(value, torch.Tensor) and value.dtype == torch.float32 for value in values)


def replace(node: Node, by: Node) -> None:
    """Replace ``node`` by ``by`` for all its users and erase it (dropout is never 'dead')."""
    node.replace_all_uses_with(by)
    node.graph.erase_node(node)


def finish(graph_module: GraphModule) -> None:
    """Drop dead nodes and attributes that no node reads, then recompile."""
    graph_module.graph.eliminate_dead_code()
    drop_unread_attributes(graph_module)
    graph_module.graph.lint()
    graph_module.recompile()


def drop_unread_attributes(graph_module: GraphModule) -> None:
    """Delete the parameters and buffers of a graph that no node reads."""
    read = {str(node.target) for node in graph_module.graph.nodes if node.op == "get_attr"}
    for path in [
        *dict(graph_module.named_parameters(remove_duplicate=False)),
        *dict(graph_module.named_buffers(remove_duplicate=False)),
    ]:
        if path not in read:
            owner, _, leaf = path.rpartition(".")
            delattr(attribute(graph_module, owner) if owner else graph_module, leaf)


Rule = Callable[..., Any]


class RuleInterpreter(torch.fx.Interpreter):
    """Runs a graph with some ATen calls replaced by Python functions of the same arguments."""

    def __init__(self, graph_module: GraphModule, rules: dict[Any, Rule]) -> None:
        super().__init__(graph_module)
        self._rules = rules

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Execute one call, by its replacement function where there is one."""
        rule = self._rules.get(target)
        return rule(*args, **kwargs) if rule else super().call_function(target, args, kwargs)
