"""What can be quantized in a graph: layers, sums of quantized values, and the values between them.

A *point* is a value that gets a scale. Operators that only move values (views, permutations, splits) have
the point of what they move, and so does everything that is read through them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

from edgevit.graph.fx import argument, aten, constant, is_call, module_path, operand, shape, sole_user
from edgevit.graph.layouts import MOVES, PARTS

if TYPE_CHECKING:
    from torch.fx import GraphModule

CONVOLUTION, LINEAR = aten.conv2d.default, aten.linear.default
RELUS = (aten.relu.default, aten.relu_.default)
CLIPPED = (aten.hardtanh.default, aten.hardtanh_.default, aten.relu6.default)
SHAPE_OPERATORS = tuple(MOVES | PARTS)
_SUMS = (aten.add.Tensor, aten.add_.Tensor)


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer with constant weights.

    Attributes:
        node: its call in the graph.
        source: the value that it reads, before operators that only move it.
        result: the value that it gives, after an activation that integer kernels fuse.
        weight: float32 [out channels, ...].
    """

    node: Node
    source: Node
    result: Node
    weight: torch.Tensor

    @property
    def name(self) -> str:
        """The name of its fx node, by which recipes refer to the layer."""
        return self.node.name

    @property
    def is_convolution(self) -> bool:
        """Whether it is a convolution rather than a linear layer."""
        return is_call(self.node, CONVOLUTION)

    @property
    def groups(self) -> int:
        """The groups of a convolution; 1 for a linear layer."""
        return int(argument(self.node, "groups")) if self.is_convolution else 1

    @property
    def module(self) -> str:
        """Dotted path of the PyTorch module that the layer was captured in."""
        return module_path(self.node)

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations of one inference."""
        size = shape(self.node) or ()
        per_result = self.weight[0].numel()
        total = 1
        for side in size:
            total *= side
        return total * per_result


def source_of(node: Node) -> Node:
    """The value that a chain of layout operators starts from."""
    while is_call(node, *SHAPE_OPERATORS):
        node = operand(node)
    return node


def readers(node: Node) -> Iterator[tuple[Node, Node]]:
    """The operators that compute with a value, seen through layout operators: (user, the moved value that it reads)."""
    for user in node.users:
        if is_call(user, *SHAPE_OPERATORS):
            yield from readers(user)
        else:
            yield user, node


def _float(node: Any) -> bool:
    value = node.meta.get("val") if isinstance(node, Node) else None
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _result(node: Node) -> Node:
    user = sole_user(node)
    return user if is_call(user, *RELUS, *CLIPPED) else node


def layers_of(core: GraphModule) -> list[Layer]:
    """Every layer with constant weights, in order."""
    found = []
    for node in core.graph.nodes:
        if not is_call(node, CONVOLUTION, LINEAR):
            continue
        weight, bias = constant(core, argument(node, "weight")), argument(node, "bias")
        fixed = bias is None or constant(core, bias) is not None
        if weight is not None and fixed and _float(node.args[0]) and _float(node):
            found.append(Layer(node, source_of(operand(node)), _result(node), weight.float()))
    return found


@dataclass(frozen=True)
class LayerPlan:
    """The layers and sums that will be quantized.

    Attributes:
        layers: those with integer weights, in graph order.
        sums: additions of two quantized values, computed on integers.
    """

    layers: tuple[Layer, ...]
    sums: tuple[Node, ...]

    @cached_property
    def computed(self) -> set[Node]:
        """Values that exist as integers only: the results of layers and of sums."""
        return {layer.result for layer in self.layers} | {_result(node) for node in self.sums}

    @cached_property
    def points(self) -> tuple[Node, ...]:
        """All values that get a scale, in the order of the graph."""
        found = self.computed | {layer.source for layer in self.layers}
        order = {node: place for place, node in enumerate(self.layers[0].node.graph.nodes)} if self.layers else {}
        return tuple(sorted(found, key=order.__getitem__))

    @cached_property
    def consumers(self) -> dict[Node, tuple[Layer, ...]]:
        """For each point, the layers that read it."""
        return {point: tuple(one for one in self.layers if one.source is point) for point in self.points}


def _is_sum(node: Node) -> bool:
    sizes = [shape(value) for value in node.args[:2]]
    return is_call(node, *_SUMS) and len(set(sizes)) == 1 and sizes[0] is not None and not node.kwargs


def plan(core: GraphModule, kept: Collection[str] = ()) -> LayerPlan:
    """Decide what is quantized: all layers but those kept, and the sums that stand between them.

    A sum is computed on integers where both its terms are, and where all that read it are layers or such
    sums: the residual stream of a convolutional stage, but not that of tokens between norms.

    Args:
        core: as `edgevit.graph.qdq.base_graph.quantizable` gives it.
        kept: names of layers that stay in floating point.
    """
    layers = tuple(layer for layer in layers_of(core) if layer.name not in kept)
    integer = {layer.result for layer in layers}
    candidates = []
    for node in core.graph.nodes:
        if _is_sum(node) and all(source_of(operand(node, place)) in integer for place in (0, 1)):
            integer.add(_result(node))
            candidates.append(node)
    reading = {layer.node for layer in layers}
    sums: list[Node] = []
    for node in reversed(candidates):
        users = [user for user, _ in readers(_result(node))]
        if users and all(user in reading or user in sums for user in users):
            sums.append(node)
    return _supported(layers, sums[::-1])


def _supported(layers: tuple[Layer, ...], sums: list[Node]) -> LayerPlan:
    """A plan without sums whose own terms are sums that were not kept."""
    integer = {layer.result for layer in layers}
    kept: list[Node] = []
    for node in sums:
        if all(source_of(operand(node, place)) in integer for place in (0, 1)):
            integer.add(_result(node))
            kept.append(node)
    if len(kept) == len(sums):
        return LayerPlan(layers, tuple(kept))
    reading = {layer.node for layer in layers} | set(kept)
    return _supported(layers, [one for one in kept if all(u in reading for u, _ in readers(_result(one)))])
