"""Merge ``x + depthwise_conv(x)`` into one depthwise convolution: 1 is added at the kernel centre."""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

from edgevit.graph.fx import add_constant, argument, aten, calls, constant, finish, is_call, replace, shape, sole_user
from edgevit.graph.rewrites import Rewrite


def _keeps_positions(graph_module: GraphModule, node: Node) -> torch.Tensor | None:
    """The weight of a depthwise, stride-1, same-size convolution, or None."""
    weight = constant(graph_module, argument(node, "weight"))
    source = shape(node.args[0])
    if weight is None or source is None or shape(node) != source or len(source) != 4:
        return None
    kernel = tuple(weight.shape[2:])
    depthwise = argument(node, "groups") == source[1] == weight.shape[0] and weight.shape[1] == 1
    centred = [size // 2 for size in kernel] == list(argument(node, "padding"))
    plain = all(step == 1 for key in ("stride", "dilation") for step in argument(node, key))
    odd = all(size % 2 for size in kernel)
    return weight if depthwise and centred and plain and odd else None


@torch.no_grad()
def edit(graph_module: GraphModule) -> int:
    """Merge every such residual; returns how many were merged."""
    merged = 0
    for node in calls(graph_module, aten.add.Tensor, aten.add_.Tensor):
        left, right = node.args[:2]
        for residual, layer in ((left, right), (right, left)):
            if not is_call(layer, aten.conv2d.default) or layer.args[0] is not residual:
                continue
            weight = _keeps_positions(graph_module, layer)
            if weight is None or sole_user(layer) is not node or argument(node, "alpha") != 1:
                continue
            kernel = weight.clone()
            kernel[:, 0, kernel.shape[2] // 2, kernel.shape[3] // 2] += 1
            layer.update_arg(1, add_constant(graph_module, layer, kernel))
            replace(node, layer)
            merged += 1
            break
    finish(graph_module)
    return merged


REWRITE = Rewrite("merge_residual_conv", __doc__.splitlines()[0], order=50, edit=edit)
