"""Values of six axes, one of them of size 1, as values of five: Core ML takes no more than five.

Window partitions and decomposed position biases reshape one image's tokens to [1, rows, window,
columns, window, channels]. The axis of size 1 is left out from the reshape that makes such a value
to the operators that use it.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.fx import GraphModule, Node

from edgevit.graph.fx import argument, aten, finish, is_call, shape
from edgevit.graph.layouts import permutation
from edgevit.graph.rewrites import Rewrite

MOST_AXES = 5
"""Core ML takes values of no more axes."""
RESHAPES = (aten.view.default, aten.reshape.default, aten._unsafe_view.default)
_BINARY = (aten.add.Tensor, aten.mul.Tensor, aten.add_.Tensor)


@dataclass(frozen=True)
class _Slim:
    """A value without one of its axes of size 1."""

    node: Node
    axis: int


def _reshaped(node: Node, source: Any, size: Sequence[int]) -> Node:
    with node.graph.inserting_before(node):
        return node.graph.call_function(aten.reshape.default, (source, list(size)))


def _call(node: Node, target: Any, *args: Any, **kwargs: Any) -> Node:
    with node.graph.inserting_before(node):
        return node.graph.call_function(target, args, kwargs)


def _without(values: Sequence[int], axis: int) -> list[int]:
    return [value for index, value in enumerate(values) if index != axis]


def _slimmed(node: Node, slims: dict[Node, _Slim]) -> _Slim | None:
    """``node`` computed without an axis of size 1, or None where its operator is not known here."""
    size = shape(node)
    assert size is not None
    source = node.args[0]
    if is_call(node, *RESHAPES) and 1 in size:
        axis = size.index(1)
        given = slims[source].node if source in slims else source  # type: ignore[index]
        return _Slim(_reshaped(node, given, _without(size, axis)), axis)
    if is_call(node, aten.unsqueeze.default):
        return _Slim(source, argument(node, "dim") % len(size))  # type: ignore[arg-type]
    if is_call(node, *_BINARY) and 1 in size:
        axis = size.index(1)
        operands = [_at(node, operand, axis, slims) for operand in node.args[:2]]
        return None if None in operands else _Slim(_call(node, node.target, *operands, **node.kwargs), axis)
    if source not in slims:
        return None
    slim = slims[source]  # type: ignore[index]
    if is_call(node, aten.permute.default, aten.transpose.int):
        order = permutation(node, len(size))
        axis = order.index(slim.axis)
        rest = [index - (index > slim.axis) for index in _without(order, axis)]
        return _Slim(_call(node, aten.permute.default, slim.node, rest), axis)
    if is_call(node, aten.linear.default) and slim.axis != len(size) - 1:
        return _Slim(_call(node, node.target, slim.node, *node.args[1:], **node.kwargs), slim.axis)
    return None


def _at(node: Node, value: Any, axis: int, slims: dict[Node, _Slim]) -> Any:
    """An operand of an element-wise operator without ``axis``, or None where it cannot be had."""
    size = shape(value)
    if size is None or len(size) != len(shape(node) or ()) or size[axis] != 1:
        return None
    slim = slims.get(value)
    if slim is not None and slim.axis == axis:
        return slim.node
    return _reshaped(node, slim.node if slim else value, _without(size, axis))


def _kept(node: Node, made: Node) -> Node:
    """A node made in place of another, with what is known of that."""
    made.meta.update(node.meta)
    return made


def _reduce(node: Node, slim: _Slim) -> bool:
    """A reduction over other axes than the one left out."""
    rank, size = MOST_AXES + 1, shape(node)
    axes = [axis % rank for axis in argument(node, "dim")]
    if slim.axis in axes or size is None or len(size) > MOST_AXES:
        return False
    reduced = _call(
        node, node.target, slim.node, [axis - (axis > slim.axis) for axis in axes], argument(node, "keepdim")
    )
    node.replace_all_uses_with(_kept(node, _reshaped(node, reduced, size)))
    return True


def _use(node: Node, slims: dict[Node, _Slim]) -> bool:
    """Let an operator that gives at most five axes read the slim value; False where it cannot."""
    slim = slims[node.args[0]]  # type: ignore[index]
    if is_call(node, *RESHAPES):
        node.replace_input_with(node.args[0], slim.node)  # type: ignore[arg-type]
        return True
    if is_call(node, aten.flatten.using_ints):
        node.replace_all_uses_with(_kept(node, _reshaped(node, slim.node, shape(node) or ())))
        return True
    if is_call(node, aten.amax.default):
        return _reduce(node, slim)
    if not is_call(node, aten.unbind.int):
        return False
    axis = argument(node, "dim") % (MOST_AXES + 1)
    if axis == slim.axis or not all(is_call(user, operator.getitem) for user in node.users):
        return False
    parts = _call(node, aten.unbind.int, slim.node, axis - (axis > slim.axis))
    for user in list(node.users):
        part = _call(user, operator.getitem, parts, user.args[1])
        size = shape(user)
        assert size is not None
        user.replace_all_uses_with(_reshaped(user, part, size))
    return True


def edit(graph_module: GraphModule) -> int:
    """Leave out an axis wherever there are six; returns how many values were slimmed."""
    slims: dict[Node, _Slim] = {}
    for node in [node for node in graph_module.graph.nodes if node.op == "call_function"]:
        size = shape(node)
        if size is not None and len(size) == MOST_AXES + 1:
            slim = _slimmed(node, slims)
            if slim is not None:
                slim.node.meta.setdefault("val", node.meta["val"].squeeze(slim.axis))
                slims[node] = slim
        elif node.args and node.args[0] in slims:
            _use(node, slims)
    finish(graph_module)
    return len(slims)


REWRITE = Rewrite(
    "drop_unit_axis", __doc__.splitlines()[0], order=80, backends=frozenset({"coreml", "executorch-coreml"}), edit=edit
)
