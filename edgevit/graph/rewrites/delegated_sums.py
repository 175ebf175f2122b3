"""Means over tokens and sums over the last axis as products with a constant row.

XNNPACK takes means over the two axes of an image only, and keeps these axes; ExecuTorch computes every
other one on a portable kernel between two delegate calls. Exact within fp32 rounding.
"""

from __future__ import annotations

from math import prod

import torch
from torch.fx import GraphModule, Node

from edgevit.graph.builder import Builder, replace_calls
from edgevit.graph.fx import argument, aten, is_float32, operand, shape
from edgevit.graph.rewrites import Rewrite


def _axes(node: Node, rank: int) -> list[int]:
    return sorted(axis % rank for axis in argument(node, "dim") or ())


def _mean(make: Builder, node: Node) -> Node | None:
    """Over everything between the batch and the channels of [B, ..., C], or over an image, whose axes stay at first."""
    size, result = shape(node.args[0]), shape(node)
    if size is None or result is None or len(size) < 3 or not is_float32(node, node.args[0]):
        return None
    if len(size) == 4 and _axes(node, 4) == [2, 3] and not argument(node, "keepdim"):
        return make.reshape(make.call(aten.mean.dim, operand(node), [2, 3], True), result)
    if _axes(node, len(size)) != list(range(1, len(size) - 1)):
        return None
    tokens = prod(size[1:-1])
    turned = make.permute(make.reshape(operand(node), (size[0], tokens, size[-1])), [0, 2, 1])
    return make.reshape(make.call(aten.linear.default, turned, make.table((1, tokens), 1 / tokens)), result)


def _sum(make: Builder, node: Node) -> Node | None:
    size, result = shape(node.args[0]), shape(node)
    if size is None or result is None or not is_float32(node, node.args[0]):
        return None
    if len(size) < 2 or _axes(node, len(size)) != [len(size) - 1]:
        return None
    return make.reshape(make.call(aten.linear.default, operand(node), make.table((1, size[-1]), 1.0)), result)


_FORMS = {aten.mean.dim: _mean, aten.sum.dim_IntList: _sum}


@torch.no_grad()
def edit(graph_module: GraphModule) -> int:
    """Rewrite every such mean and sum; returns how many."""
    return replace_calls(graph_module, _FORMS)


REWRITE = Rewrite(
    "delegated_sums",
    __doc__.splitlines()[0],
    order=91,
    backends=frozenset({"executorch"}),
    edit=edit,
    half=False,
)
