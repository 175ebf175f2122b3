"""Propagates quantization through layout operators, which runtimes would otherwise compute in floating point.

A value that is quantized is quantized again, with the same numbers, behind every operator that only moves it,
and in front of every concatenation whose result is quantized. Quantizing commutes with moving, so that no value
changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.fx import Node

from edgevit.graph.builder import Builder
from edgevit.graph.fx import aten, calls, finish, is_call, operand
from edgevit.graph.qdq.insert import DEQUANTIZE, QUANTIZE, emit_pair
from edgevit.graph.qdq.layers import RELUS, SHAPE_OPERATORS

if TYPE_CHECKING:
    from torch.fx import GraphModule

_CONCATENATE = aten.cat.default


def _is_tensor(node: Node) -> bool:
    return isinstance(node.meta.get("val"), torch.Tensor)


def carry(core: GraphModule, *, requantizes: bool = True) -> int:
    """Propagate integers through views, permutations, splits and concatenations.

    Args:
        core: edited in place.
        requantizes: whether the toolchain preserves a quantize that directly follows a dequantize with other
            parameters. Where it does not, a ReLU is put between them if the code has no negative values; otherwise the
            concatenation stays in floating point.

    Returns:
        How many Q/DQ pairs it took.
    """
    builder, made = Builder(core), 0
    for node in list(core.graph.nodes):
        if is_call(node, *SHAPE_OPERATORS) and _is_tensor(node) and node.users:
            source = operand(node)
            while is_call(source, *SHAPE_OPERATORS) and not _is_tensor(source):
                source = operand(source)  # a split's pieces are read through it
            if is_call(source, DEQUANTIZE):
                emit_pair(builder, node, tuple(source.args[1:]), list(node.users))
                made += 1
    made += _concatenations(core, builder, requantizes)
    finish(core)
    return made


def _concatenations(core: GraphModule, builder: Builder, requantizes: bool) -> int:
    """Quantize the inputs of a concatenation with the parameters of its result."""
    made = 0
    for quantizing in list(calls(core, QUANTIZE)):
        joined = operand(quantizing)
        if not is_call(joined, _CONCATENATE) or len(joined.users) != 1:
            continue
        numbers = tuple(quantizing.args[1:])
        clips = not requantizes and numbers[1] == numbers[2]
        if not requantizes and not clips and any(is_call(part, DEQUANTIZE) for part in joined.all_input_nodes):
            continue
        parts = []
        for part in joined.args[0]:  # type: ignore[union-attr]
            if clips and is_call(part, DEQUANTIZE):
                part = builder.at(joined).call(RELUS[0], part)
            integers = builder.at(joined).call(QUANTIZE, part, *numbers)
            parts.append(builder.call(DEQUANTIZE, integers, *numbers))
            made += 1
        joined.args = (parts, *joined.args[1:])
    return made


def drop_clipped_relus(core: GraphModule) -> int:
    """Remove a ReLU whose result is quantized from zero up: clamping to the code does the same."""
    done = 0
    for quantizing in list(calls(core, QUANTIZE)):
        node = operand(quantizing)
        if is_call(node, *RELUS) and len(node.users) == 1 and quantizing.args[2] == quantizing.args[3]:
            node.replace_all_uses_with(operand(node))
            done += 1
    finish(core)
    return done
