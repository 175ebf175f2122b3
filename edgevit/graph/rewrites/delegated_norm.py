"""LayerNorm and GroupNorm of one group in operators that XNNPACK takes.

ExecuTorch has no delegated LayerNorm: each one ends a delegate call, runs on a portable kernel of one
thread, and starts the next. A mean over the last axis is a linear layer of one output with the weights
1 / C, one over channels a 1x1 convolution; centring, squaring and scaling are delegated as they are.
Exact within fp32 rounding. Squares overflow in fp16, so in programs in half precision the norm is
computed in fp32 whatever is around it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgevit.graph.builder import Builder, replace_calls
from edgevit.graph.fx import GUARDED, argument, aten, calls, is_float32, operand, shape
from edgevit.graph.rewrites import Rewrite


def _normalised(make: Builder, x: Node, mean: Callable[[Node], Node], epsilon: float) -> Node:
    """``(x - mean(x)) / sqrt(mean of squares + epsilon)``."""
    centred = make.call(aten.sub.Tensor, x, mean(x))
    variance = mean(make.call(aten.mul.Tensor, centred, centred))
    scale = make.call(aten.rsqrt.default, make.call(aten.add.Tensor, variance, make.table((1,), epsilon)))
    return make.call(aten.mul.Tensor, centred, scale)


def _affine(make: Builder, x: Node, weight: Any, bias: Any, size: list[int]) -> Node:
    """``x * weight + bias``, each laid out to ``size`` where it is there."""
    for target, value in ((aten.mul.Tensor, weight), (aten.add.Tensor, bias)):
        if value is not None:
            x = make.call(target, x, make.reshape(value, size))
    return x


def _layer_norm(make: Builder, node: Node) -> Node | None:
    sizes = argument(node, "normalized_shape")
    if len(sizes) != 1 or not is_float32(node, node.args[0]):
        return None
    weights = make.table((1, sizes[0]), 1 / sizes[0])
    plain = _normalised(
        make, operand(node), lambda x: make.call(aten.linear.default, x, weights), argument(node, "eps")
    )
    return _affine(make, plain, argument(node, "weight"), argument(node, "bias"), list(sizes))


def _group_norm(make: Builder, node: Node) -> Node | None:
    size = shape(node.args[0])
    if argument(node, "num_groups") != 1 or size is None or len(size) != 4 or not is_float32(node, node.args[0]):
        return None
    weights = make.table((1, size[1], 1, 1), 1 / size[1])

    def mean(value: Node) -> Node:
        spatial = make.call(aten.mean.dim, value, [2, 3], True)
        return make.call(aten.conv2d.default, spatial, weights)

    plain = _normalised(make, operand(node), mean, argument(node, "eps"))
    return _affine(make, plain, argument(node, "weight"), argument(node, "bias"), [1, size[1], 1, 1])


_FORMS = {aten.layer_norm.default: _layer_norm, aten.group_norm.default: _group_norm}


@torch.no_grad()
def edit(graph_module: GraphModule) -> int:
    """Rewrite every such norm; returns how many."""
    for node in calls(graph_module, *_FORMS):
        node.meta[GUARDED] = True
    return replace_calls(graph_module, _FORMS)


REWRITE = Rewrite(
    "delegated_norm",
    __doc__.splitlines()[0],
    order=90,
    backends=frozenset({"executorch"}),
    edit=edit,
)
