"""The scale of attention into the projection of its queries.

``softmax(q k^T * s)`` is ``softmax((s q) k^T)``, and ``s q`` is the query's layer with its weight and bias
times s. A product with one number after the layer, or after the product of queries and keys, vanishes.
Exact within fp32 rounding.
"""

from __future__ import annotations

import math

import torch
from torch.fx import GraphModule, Node

from edgevit.graph.fx import LEAVES_GUARD, argument, aten, calls, finish, is_call, replace, shape, sole_user
from edgevit.graph.layouts import source
from edgevit.graph.rewrites import Rewrite
from edgevit.graph.rewrites.fold_batch_norm import Affine, layer_constants, scale_outputs

_PRODUCTS = (aten.matmul.default, aten.bmm.default)
_LAYERS = (aten.linear.default, aten.conv2d.default)
_ATTENTION = aten.scaled_dot_product_attention.default


def _layer(node: object) -> Node | None:
    """The layer whose outputs a node holds, moved and multiplied by others, where nothing else reads them."""
    while isinstance(node, Node) and sole_user(node):
        node = source(node)
        if is_call(node, *_LAYERS):
            return node if sole_user(node) else None
        if not is_call(node, *_PRODUCTS):
            return None
        node = node.args[0]
    return None


def _scaled(graph_module: GraphModule, value: object, factor: float) -> bool:
    layer = _layer(value)
    if layer is None:
        return False
    found = layer_constants(graph_module, layer)
    if found is None:
        return False
    scale = torch.full((len(found[0]),), factor, dtype=torch.float64)
    return scale_outputs(graph_module, layer, Affine(scale, torch.zeros_like(scale)))


@torch.no_grad()
def edit(graph_module: GraphModule) -> int:
    """Fold every such scale; returns how many."""
    folded = 0
    for node in calls(graph_module, aten.mul.Tensor, aten.mul_.Tensor, aten.mul.Scalar):
        value, factor = node.args[:2]
        leaves = node.meta.get(LEAVES_GUARD)
        if isinstance(factor, (int, float)) and not leaves and _scaled(graph_module, value, factor):
            replace(node, value)  # type: ignore[arg-type]
            folded += 1
    for node in calls(graph_module, _ATTENTION):
        width, scale = shape(node.args[0]), argument(node, "scale")
        factor = scale if scale is not None else 1 / math.sqrt((width or (1,))[-1])
        if factor != 1 and _scaled(graph_module, node.args[0], factor):
            node.kwargs = {**node.kwargs, "scale": 1.0}
            folded += 1
    finish(graph_module)
    return folded


REWRITE = Rewrite(
    "fold_attention_scale",
    __doc__.splitlines()[0],
    order=75,
    backends=frozenset({"executorch", "onnx", "litert"}),
    edit=edit,
)
