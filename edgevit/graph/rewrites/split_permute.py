"""A permutation of six or more axes as transpositions of four: Core ML takes values of at most five.

Unrolling tokens into windows and back reshapes to [images, rows, window, columns, window, channels],
permutes, and flattens again. Each axis that moves forward does so past a block of others, which is a
transposition [before, block, axis, after] to [before, axis, block, after]; nothing of more axes is
ever made. Exact.
"""

from __future__ import annotations

import math

from torch.fx import GraphModule, Node

from edgevit.graph.fx import aten, calls, finish, is_call, operand, shape
from edgevit.graph.layouts import permutation
from edgevit.graph.rewrites import Rewrite
from edgevit.graph.rewrites.drop_unit_axis import MOST_AXES, RESHAPES

_FLATTENING = (*RESHAPES, aten.flatten.using_ints)


def _reshape(before: Node, value: Node, size: list[int]) -> Node:
    with before.graph.inserting_before(before):
        return before.graph.call_function(aten.reshape.default, (value, size))


def _moved(node: Node, value: Node, sizes: list[int], order: list[int]) -> Node:
    """``value`` with its axes of ``sizes`` in ``order``, in whatever shape the last step left it."""
    current = list(range(len(sizes)))
    for place, axis in enumerate(order):
        at = current.index(axis)
        if at == place:
            continue
        parts = (current[:place], current[place:at], [axis], current[at + 1 :])
        value = _reshape(node, value, [math.prod(sizes[one] for one in part) for part in parts])
        with node.graph.inserting_before(node):
            value = node.graph.call_function(aten.permute.default, (value, [0, 2, 1, 3]))
        current = [*parts[0], axis, *parts[1], *parts[3]]
    return value


def _fits(node: Node) -> bool:
    """Whether a value has no more axes than Core ML takes."""
    return len(shape(node) or ()) <= MOST_AXES


def edit(graph_module: GraphModule) -> int:
    """Split every reshape, permute, reshape through too many axes; returns how many."""
    split = 0
    for node in list(calls(graph_module, aten.permute.default, aten.transpose.int)):
        source, users = operand(node), list(node.users)
        if _fits(node) or not is_call(source, *RESHAPES) or not _fits(operand(source)):
            continue
        if not all(is_call(user, *_FLATTENING) and _fits(user) for user in users):
            continue
        sizes = list(shape(source) or ())
        value = _moved(node, operand(source), sizes, permutation(node, len(sizes)))
        for user in users:
            made = _reshape(user, value, list(shape(user) or ()))
            made.meta.update(user.meta)
            user.replace_all_uses_with(made)
        split += 1
    finish(graph_module)
    return split


REWRITE = Rewrite(
    "split_permute", __doc__.splitlines()[0], order=85, backends=frozenset({"coreml", "executorch-coreml"}), edit=edit
)
