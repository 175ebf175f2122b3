"""Leave out assertions about dtypes and shapes, which hold for a program of fixed shapes.

They name the dtype that the model was captured in: in a program turned to half precision they would be wrong, and
no runtime has an operator for them. What they alone read goes with them; casts stay.
"""

from __future__ import annotations

from torch.fx import GraphModule, Node

from edgevit.graph.fx import finish
from edgevit.graph.rewrites import Rewrite

_CHECKS = (
    "_assert_tensor_metadata",
    "_assert_scalar",
    "_assert_async",
    "sym_constrain_range",
    "sym_constrain_range_for_size",
)


def is_check(node: Node) -> bool:
    """Whether a call only asserts something and has no result."""
    return node.op == "call_function" and getattr(node.target, "__name__", "").partition(".")[0] in _CHECKS


def edit(graph_module: GraphModule) -> int:
    """Remove every assertion; returns how many."""
    checks = [node for node in graph_module.graph.nodes if is_check(node) and not node.users]
    for node in checks:
        graph_module.graph.erase_node(node)
    finish(graph_module)
    return len(checks)


REWRITE = Rewrite("drop_checks", __doc__.splitlines()[0], order=6, edit=edit)
