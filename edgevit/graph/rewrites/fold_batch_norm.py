"""Fold inference BatchNorm into the convolution or linear layer before or after it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import GraphModule, Node

from edgevit.graph.fx import (
    add_constant,
    argument,
    aten,
    calls,
    constant,
    finish,
    is_call,
    operand,
    replace,
    shape,
    sole_user,
)
from edgevit.graph.rewrites import Rewrite

_BATCH_NORM = aten.batch_norm.default
_CONVOLUTIONS = (aten.conv1d.default, aten.conv2d.default)
_RESHAPES = (aten.view.default, aten.reshape.default, aten.flatten.using_ints)


@dataclass(frozen=True)
class Affine:
    """A per-channel y = x * scale + shift, in double precision."""

    scale: torch.Tensor
    shift: torch.Tensor


def _affine(graph_module: GraphModule, node: Node) -> Affine | None:
    if argument(node, "training"):
        return None
    mean = constant(graph_module, argument(node, "running_mean"))
    variance = constant(graph_module, argument(node, "running_var"))
    if mean is None or variance is None:
        return None
    weight = constant(graph_module, argument(node, "weight"))
    bias = constant(graph_module, argument(node, "bias"))
    scale = (variance.double() + argument(node, "eps")).rsqrt()
    scale = scale if weight is None else scale * weight.double()
    shift = -mean.double() * scale
    return Affine(scale, shift if bias is None else shift + bias.double())


def layer_constants(graph_module: GraphModule, node: Node) -> tuple[torch.Tensor, torch.Tensor | None] | None:
    """(weight, bias) of a convolution or linear call with constant float32 weights: [out, in, ...] and [out]."""
    weight = constant(graph_module, argument(node, "weight"))
    bias_node = argument(node, "bias")
    bias = constant(graph_module, bias_node)
    if weight is None or (bias_node is not None and bias is None):
        return None
    rank = 2 if node.target is aten.linear.default else len(shape(node) or ())
    # a vector as a weight, an image without its batch axis, another precision: not what the formulas here are for
    return (weight, bias) if weight.dtype == torch.float32 and weight.dim() == rank else None


def set_layer(graph_module: GraphModule, node: Node, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Give a convolution or linear call new constant weights (cast back to float32)."""
    weight_node = add_constant(graph_module, node, weight.float())
    bias_node = add_constant(graph_module, node, bias.float())
    node.args = (node.args[0], weight_node, bias_node, *node.args[3:])
    node.kwargs = {key: value for key, value in node.kwargs.items() if key not in ("weight", "bias")}


def scale_outputs(graph_module: GraphModule, node: Node, affine: Affine) -> bool:
    """Fold a per-output-channel affine map into the layer call ``node``."""
    found = layer_constants(graph_module, node)
    if found is None:
        return False
    weight, bias = found
    scale = affine.scale.reshape(-1, *[1] * (weight.dim() - 1))
    shift = affine.shift if bias is None else affine.shift + bias.double() * affine.scale
    set_layer(graph_module, node, weight.double() * scale, shift)
    return True


def scale_inputs(graph_module: GraphModule, node: Node, affine: Affine) -> bool:
    """Fold a per-feature affine map of a linear layer's input into the layer: W(sx + t) + b."""
    found = layer_constants(graph_module, node)
    if found is None:
        return False
    weight, bias = found[0].double(), found[1]
    shift = weight @ affine.shift
    set_layer(graph_module, node, weight * affine.scale, shift if bias is None else shift + bias.double())
    return True


def _producer(node: Node) -> Node | None:
    """The linear or convolution whose output channels are the normalised channels."""
    source = operand(node)
    if is_call(source, *_CONVOLUTIONS) and sole_user(source):
        return source
    while is_call(source, *_RESHAPES) and sole_user(source) and _same_last_axis(source):
        source = operand(source)
    normalised = shape(node)
    channels_last = normalised is not None and len(normalised) == 2
    if is_call(source, aten.linear.default) and sole_user(source) and channels_last:
        return source
    return None


def _same_last_axis(node: Node) -> bool:
    before, after = shape(node.args[0]), shape(node)
    return bool(before and after and before[-1] == after[-1])


def _fold_into_consumer(graph_module: GraphModule, node: Node, affine: Affine) -> bool:
    """BatchNorm over [N, C] straight into one linear layer: W(sx + t) + b."""
    user = sole_user(node)
    if user is None or not is_call(user, aten.linear.default) or len(shape(node) or ()) != 2:
        return False
    if user.args[0] is not node or not scale_inputs(graph_module, user, affine):
        return False
    replace(node, operand(node))
    return True


@torch.no_grad()
def edit(graph_module: GraphModule) -> int:
    """Fold every BatchNorm that has a foldable neighbour; returns how many were folded."""
    folded = 0
    for node in calls(graph_module, _BATCH_NORM):
        affine = _affine(graph_module, node)
        if affine is None:
            continue
        producer = _producer(node)
        if producer is not None and scale_outputs(graph_module, producer, affine):
            replace(node, operand(node))
            folded += 1
        else:
            folded += _fold_into_consumer(graph_module, node, affine)
    finish(graph_module)
    return folded


REWRITE = Rewrite("fold_batch_norm", __doc__.splitlines()[0], order=30, edit=edit)
