"""Norms, means and sums stay in fp32 in half-precision programs: ExecuTorch's own kernels add up in fp16.

Its portable ``native_layer_norm`` loses count from about 300 channels on, without an error (executorch 1.5.1: the
outputs of a norm over 384 channels are off by five times their range). XNNPACK's mean over an image is right.
"""

from __future__ import annotations

from torch.fx import GraphModule, Node

from edgevit.graph.fx import GUARDED, argument, aten, calls, shape
from edgevit.graph.rewrites import Rewrite

_SUMS = (
    aten.layer_norm.default,
    aten.group_norm.default,
    aten.instance_norm.default,
    aten.mean.dim,
    aten.mean.default,
    aten.sum.dim_IntList,
    aten.sum.default,
    aten.var.correction,
    aten.linalg_vector_norm.default,
    aten.cumsum.default,
)


def _in_delegate(node: Node) -> bool:
    """Whether XNNPACK takes a mean: over the two axes of an image."""
    rank = len(shape(node.args[0]) or ())
    return node.target is aten.mean.dim and rank == 4 and sorted(a % 4 for a in argument(node, "dim") or ()) == [2, 3]


def edit(graph_module: GraphModule) -> int:
    """Guard every such operator from half precision; returns how many."""
    found = [node for node in calls(graph_module, *_SUMS) if not _in_delegate(node)]
    for node in found:
        node.meta[GUARDED] = True
    return len(found)


REWRITE = Rewrite(
    "guard_sums", __doc__.splitlines()[0], order=89, backends=frozenset({"executorch"}), edit=edit, full=False
)
