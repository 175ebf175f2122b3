"""Dynamic quantization: the runtime computes scale and zero point of each linear layer's input while it runs."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

import torch
import torch.ao.quantization.fx._decomposed  # registers the operators
from torch.fx import Node

from edgevit.graph.builder import Builder
from edgevit.graph.fx import calls, finish, is_call, operand
from edgevit.graph.qdq.layers import LINEAR, Layer

if TYPE_CHECKING:
    from torch.fx import GraphModule

_decomposed = torch.ops.quantized_decomposed
CHOOSE = _decomposed.choose_qparams.tensor
QUANTIZE_AS_CHOSEN = _decomposed.quantize_per_tensor.tensor
DEQUANTIZE_AS_CHOSEN = _decomposed.dequantize_per_tensor.tensor
_LOW, _HIGH, _EPSILON = -128, 127, 2.0**-23


def insert_dynamic(builder: Builder, layer: Layer) -> None:
    """Insert nodes in front of a layer that quantize its input by the input's own minimum and maximum."""
    builder.at(layer.node)
    value = operand(layer.node)
    chosen = builder.call(CHOOSE, value, _LOW, _HIGH, _EPSILON, torch.int8)
    scale, zero = (builder.call(operator.getitem, chosen, place) for place in (0, 1))
    numbers = (scale, zero, _LOW, _HIGH, torch.int8)
    integers = builder.call(QUANTIZE_AS_CHOSEN, value, *numbers)
    layer.node.update_arg(0, builder.call(DEQUANTIZE_AS_CHOSEN, integers, *numbers))


def drop_dynamic(core: GraphModule) -> int:
    """Remove dynamic quantization nodes, for formats that mark such layers in the file instead."""
    done = 0
    for node in list(calls(core, LINEAR)):
        value = node.args[0]
        if is_call(value, DEQUANTIZE_AS_CHOSEN):
            integers = operand(value)
            assert isinstance(integers, Node)
            node.update_arg(0, operand(integers))
            done += 1
    finish(core)
    return done
