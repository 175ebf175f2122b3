"""Attention as bmm, mask, softmax, bmm on 3-D tensors, the form XNNPACK delegates whole.

`scaled_dot_product_attention` decomposes into a softmax guarded against fully masked rows
(eq, any, where) that ExecuTorch leaves outside its delegate. A constant additive mask without
minus infinity needs no guard. A product of matrices with more than one batch axis is one with one,
without the copies by which it would be expanded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import prod

from torch.fx import GraphModule, Node

from edgevit.graph.builder import Builder, replace_calls
from edgevit.graph.fx import argument, aten, constant, operand, shape
from edgevit.graph.rewrites import Rewrite


def _flat(make: Builder, x: Node) -> Node:
    *lead, rows, columns = shape(x) or ()
    return make.reshape(x, (prod(lead), rows, columns))


def _product(make: Builder, left: Node, right: Node, lead: Sequence[int]) -> Node:
    made = make.call(aten.bmm.default, left, right)
    return make.reshape(made, (*lead, *(shape(made) or ())[1:]))


def _guarded(make: Builder, mask: object) -> bool:
    """Whether a mask can leave a row without anything to attend to, or is not known to be one to add."""
    known = constant(make.graph_module, mask)
    return mask is not None and (known is None or not known.is_floating_point() or not bool(known.isfinite().all()))


def _attention(make: Builder, node: Node) -> Node | None:
    """softmax(q k^T * scale + mask) v for [..., N, D] operands with equal leading axes."""
    query, key, value = (operand(node, place) for place in range(3))
    sizes = [shape(one) for one in (query, key, value)]
    size, mask, scale = sizes[0], argument(node, "attn_mask"), argument(node, "scale")
    if size is None or len(size) < 3 or any(other is None or other[:-2] != size[:-2] for other in sizes):
        return None
    if argument(node, "is_causal") or argument(node, "dropout_p") or _guarded(make, mask):
        return None
    factor = 1 / math.sqrt(size[-1]) if scale is None else scale
    scaled = query if factor == 1 else make.call(aten.mul.Tensor, query, factor)
    turned = make.call(aten.transpose.int, _flat(make, key), 1, 2)
    scores = make.call(aten.bmm.default, _flat(make, scaled), turned)
    flat = shape(scores) or ()
    if mask is not None:
        laid = make.reshape(scores, (*size[:-1], flat[-1]))
        scores = make.reshape(make.call(aten.add.Tensor, laid, mask), flat)
    weights = make.call(aten.softmax.int, scores, -1)
    return _product(make, weights, _flat(make, value), size[:-2])


def _matmul(make: Builder, node: Node) -> Node | None:
    left, right = operand(node), operand(node, 1)
    first, second = shape(left), shape(right)
    if first is None or second is None or len(first) < 3 or first[:-2] != second[:-2]:
        return None
    return _product(make, _flat(make, left), _flat(make, right), first[:-2])


_FORMS = {aten.scaled_dot_product_attention.default: _attention, aten.matmul.default: _matmul}


def edit(graph_module: GraphModule) -> int:
    """Rewrite every such attention and product; returns how many."""
    return replace_calls(graph_module, _FORMS)


REWRITE = Rewrite(
    "plain_attention",
    __doc__.splitlines()[0],
    order=100,
    backends=frozenset({"executorch"}),
    edit=edit,
)
