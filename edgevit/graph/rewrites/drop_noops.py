"""Remove calls that return their input: dropout in eval, alias, detach, same-shape expand, empty padding."""

from __future__ import annotations

from torch.fx import GraphModule, Node

from edgevit.graph.functional import is_written
from edgevit.graph.fx import argument, aten, calls, finish, operand, replace, shape
from edgevit.graph.rewrites import Rewrite

_DROPOUTS = (aten.dropout.default, aten.feature_dropout.default)
_COPIES = (aten.lift_fresh_copy.default, aten.pad.default, aten.contiguous.default)
_NOOPS = (
    *_DROPOUTS,
    aten.alias.default,
    aten.detach.default,
    aten.detach_.default,
    aten.lift_fresh_copy.default,
)
_SHAPE_ONLY = (aten.expand.default, aten.view.default, aten.reshape.default)


def _changes_nothing(node: Node) -> bool:
    source = operand(node)
    if node.target in _COPIES and is_written(node):
        return False  # what is overwritten must not be somebody else's memory
    if node.target in _DROPOUTS:
        return not argument(node, "train") or not argument(node, "p")
    if node.target in _SHAPE_ONLY:
        return shape(node) is not None and shape(node) == shape(source)
    if node.target is aten.pad.default:
        return not any(argument(node, "pad"))
    if node.target is aten.contiguous.default:
        value = source.meta.get("val")
        return value is not None and value.is_contiguous()
    return True


def edit(graph_module: GraphModule) -> int:
    """Bypass every no-op; returns how many were removed."""
    removed = 0
    for node in calls(graph_module, *_NOOPS, *_SHAPE_ONLY, aten.contiguous.default, aten.pad.default):
        if _changes_nothing(node):
            replace(node, operand(node))
            removed += 1
    finish(graph_module)
    return removed


REWRITE = Rewrite("drop_noops", __doc__.splitlines()[0], order=10, edit=edit)
