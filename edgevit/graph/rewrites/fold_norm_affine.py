"""Fold LayerNorm's scale and shift into the linear layers that read it.

Where every reader is a linear layer with constant weights, ``W (w * n + b) + c`` is ``(W w) n + (W b + c)``.
It is for the runtimes whose LayerNorm is written in single operators; a fused kernel gives both for free.
Exact within fp32 rounding (the products are formed in float64).
"""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

from edgevit.graph.fx import argument, aten, calls, constant, finish, is_call
from edgevit.graph.rewrites import Rewrite
from edgevit.graph.rewrites.fold_batch_norm import Affine, layer_constants, scale_inputs


def _vector(graph_module: GraphModule, node: Node, name: str) -> torch.Tensor | None:
    found = constant(graph_module, argument(node, name))
    return found if found is not None and found.dim() == 1 else None


def _reads(graph_module: GraphModule, user: Node, norm: Node) -> bool:
    """Whether a node is a linear layer over the norm's result, with constants that can be changed."""
    is_reader = is_call(user, aten.linear.default) and user.args[0] is norm
    return is_reader and layer_constants(graph_module, user) is not None


@torch.no_grad()
def edit(graph_module: GraphModule) -> int:
    """Fold every such pair; returns how many norms became plain."""
    folded = 0
    for node in calls(graph_module, aten.layer_norm.default):
        scale, shift = _vector(graph_module, node, "weight"), _vector(graph_module, node, "bias")
        if scale is None or not node.users or not all(_reads(graph_module, user, node) for user in node.users):
            continue
        if shift is None and argument(node, "bias") is not None:
            continue
        affine = Affine(scale.double(), (torch.zeros_like(scale) if shift is None else shift).double())
        for user in list(node.users):
            scale_inputs(graph_module, user, affine)
        node.args = (node.args[0], argument(node, "normalized_shape"), None, None, argument(node, "eps"))
        node.kwargs = {}
        folded += 1
    finish(graph_module)
    return folded


REWRITE = Rewrite(
    "fold_norm_affine", __doc__.splitlines()[0], order=88, backends=frozenset({"executorch", "litert"}), edit=edit
)
