"""Fold LayerScale and other constant per-channel factors into the layer that precedes them."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgevit.graph.fx import aten, calls, constant, finish, is_call, is_float32, replace, shape, sole_user
from edgevit.graph.rewrites import Rewrite
from edgevit.graph.rewrites.fold_batch_norm import Affine, scale_outputs

_CHANNEL_AXIS: dict[Any, int] = {aten.linear.default: -1, aten.conv2d.default: -3, aten.conv1d.default: -2}


def _factor(graph_module: GraphModule, value: object, layer: Node) -> torch.Tensor | None:
    """``value`` as one factor per output channel of ``layer``, or None where it is not that."""
    if isinstance(value, (int, float)):
        tensor = torch.tensor(float(value), dtype=torch.float64)
    else:
        found = constant(graph_module, value)
        if found is None or not found.is_floating_point():
            return None
        tensor = found.double()
    output = shape(layer)
    if output is None or tensor.dim() > len(output):
        return None
    axis = _CHANNEL_AXIS[layer.target]
    channels = output[axis]
    full = tensor.reshape([1] * (len(output) - tensor.dim()) + list(tensor.shape))
    if full.numel() not in (1, channels) or (full.numel() > 1 and full.shape[axis] != channels):
        return None
    return full.flatten().expand(channels)


@torch.no_grad()
def edit(graph_module: GraphModule) -> int:
    """Fold every such product; returns how many were folded."""
    folded = 0
    for node in calls(graph_module, aten.mul.Tensor, aten.mul_.Tensor):
        left, right = node.args[:2]
        for layer, value in ((left, right), (right, left)):
            if not is_call(layer, *_CHANNEL_AXIS) or sole_user(layer) is not node or not is_float32(layer, node):
                continue
            factor = _factor(graph_module, value, layer)
            if factor is None:
                continue
            affine = Affine(factor, torch.zeros_like(factor))
            if scale_outputs(graph_module, layer, affine):
                replace(node, layer)
                folded += 1
                break
    finish(graph_module)
    return folded


REWRITE = Rewrite("fold_layer_scale", __doc__.splitlines()[0], order=40, edit=edit)
