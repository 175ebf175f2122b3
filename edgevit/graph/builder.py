"""Insert operators into a captured graph, each with the shape and dtype of its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from edgevit.graph.fx import GUARDED, LEAVES_GUARD, add_constant, aten, calls, finish, in_plain_order, replace, shape


def abstract(node: Node) -> Any:
    """A node's value as a meta tensor: shape, strides and dtype, without data."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return value
    return torch.empty_strided(tuple(value.shape), value.stride(), dtype=value.dtype, device="meta")


_INHERITED = ("nn_module_stack", "custom", GUARDED)


def take_place(old: Node, new: Node) -> None:
    """Replace ``old`` by ``new`` for all its users, and move the mark "leaves the fp32 region" along."""
    if LEAVES_GUARD in old.meta:
        new.meta[LEAVES_GUARD] = old.meta[LEAVES_GUARD]
    replace(old, new)


class Builder:
    """Inserts ATen operators before one node of a graph; equal constants are stored once.

    Attributes:
        node: new operators are inserted before it and inherit its module path.
    """

    def __init__(self, graph_module: GraphModule) -> None:
        self.graph_module = graph_module
        self.node: Node
        self._constants: dict[tuple[tuple[int, ...], torch.dtype, bytes], str] = {}

    def at(self, node: Node) -> Builder:
        """This builder, with ``node`` as the new insertion point."""
        self.node = node
        return self

    def call(self, target: Any, *args: Any, **kwargs: Any) -> Node:
        """Insert one call of an ATen operator; its result's shape and dtype are computed on the meta device."""
        with self.node.graph.inserting_before(self.node):
            made = self.node.graph.call_function(target, args, kwargs)
        made.meta = {key: self.node.meta[key] for key in _INHERITED if key in self.node.meta}
        made.meta["val"] = target(*map_arg(args, abstract), **map_arg(kwargs, abstract))
        return made

    def constant(self, value: torch.Tensor) -> Node:
        """A ``get_attr`` node for a constant tensor; equal tensors share one buffer."""
        value = in_plain_order(value)
        key = (tuple(value.shape), value.dtype, value.numpy().tobytes())
        if key not in self._constants:
            made = add_constant(self.graph_module, self.node, value)
            self._constants[key] = str(made.target)
            return made
        with self.node.graph.inserting_before(self.node):
            again = self.node.graph.get_attr(self._constants[key])
        again.meta["val"] = value
        return again

    def table(self, size: Sequence[int], value: float) -> Node:
        """A float32 constant of the given shape, filled with one value."""
        return self.constant(torch.full(tuple(size), value))

    def reshape(self, x: Node, size: Sequence[int]) -> Node:
        """``x`` reshaped to ``size``, or ``x`` itself where it has that shape already."""
        return x if shape(x) == tuple(size) else self.call(aten.reshape.default, x, list(size))

    def permute(self, x: Node, order: Sequence[int]) -> Node:
        """``x`` with its axes permuted, or ``x`` itself where ``order`` is the identity."""
        return x if list(order) == sorted(order) else self.call(aten.permute.default, x, list(order))


Replacement = Callable[[Builder, Node], "Node | None"]


def replace_calls(graph_module: GraphModule, forms: Mapping[Any, Replacement]) -> int:
    """Replace each call for which its operator's function builds a replacement; returns how many were replaced.

    Args:
        graph_module: edited in place.
        forms: for each operator, a function that builds the replacement before the call, or returns None to keep it.
    """
    builder, done = Builder(graph_module), 0
    for node in calls(graph_module, *forms):
        made = forms[node.target](builder.at(node), node)
        if made is not None:
            take_place(node, made)
            done += 1
    finish(graph_module)
    return done
