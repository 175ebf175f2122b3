"""Bridge blocks: where a convolutional image becomes tokens (Q-HyViT, section III-A).

They are found in the graph. An image [1, C, H, W] that a convolution made is laid out anew by an operator that only
moves values, so that its rows or columns are no longer there, and then reaches attention or a layer of tokens. The
first such place at every resolution is a bridge: its block is the layers that make the image and those that first
read the tokens. Later places at the same resolution go between tokens and images that are known already.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch.fx import Node

from edgevit.graph.fx import aten, constant, is_call, operand, shape
from edgevit.graph.qdq.layers import CONVOLUTION, LINEAR, RELUS, SHAPE_OPERATORS

if TYPE_CHECKING:
    from torch.fx import GraphModule

_NORMS = (aten.layer_norm.default, aten.group_norm.default)
_POINTWISE = (
    *RELUS,
    aten.gelu.default,
    aten.silu.default,
    aten.silu_.default,
    aten.hardswish.default,
    aten.hardswish_.default,
    aten.sigmoid.default,
    aten.clone.default,
)
_WITH_CONSTANT = (aten.add.Tensor, aten.mul.Tensor, aten.sub.Tensor, aten.cat.default)
_ATTENTION = (
    aten.scaled_dot_product_attention.default,
    aten.matmul.default,
    aten.bmm.default,
    aten.softmax.int,
)
Sides = tuple[int, int]


@dataclass(frozen=True)
class Bridge:
    """One bridge block.

    Attributes:
        resolution: (H, W) of the image.
        makers: the layers that produce the image.
        readers: the layers that first read its tokens; empty where attention does at once.
    """

    resolution: Sides
    makers: tuple[Node, ...]
    readers: tuple[Node, ...]


def _image(node: Node) -> Sides | None:
    """(H, W) of a value that is an image of more than one pixel, or None."""
    size = shape(node)
    if size is None or len(size) != 4 or size[0] != 1 or size[2] * size[3] < 2:
        return None
    return size[2], size[3]


def _makers(node: Node, found: dict[Node, bool] | None = None) -> list[Node]:
    """The nearest image convolutions above a value, found through sums, norms and activations."""
    found = {} if found is None else found
    if is_call(node, CONVOLUTION):
        return [node]
    if node in found or not is_call(node, *_NORMS, *_POINTWISE, *_WITH_CONSTANT, aten.avg_pool2d.default):
        return []
    found[node] = True
    return [maker for source in node.all_input_nodes for maker in _makers(source, found)]


def _tokens(core: GraphModule, node: Node, image: Node, seen: set[Node]) -> Iterator[Node]:
    """The first readers that compute with the tokens: layers of tokens, and attention."""
    for user in node.users:
        if user in seen:
            continue
        seen.add(user)
        if is_call(user, LINEAR, *_ATTENTION):
            yield user
        elif is_call(user, CONVOLUTION):
            if shape(user.args[0]) != shape(image):
                yield user
        elif shape(user) != shape(image) and (
            is_call(user, *SHAPE_OPERATORS, *_NORMS, *_POINTWISE) or _adds_constant(core, user, node)
        ):
            yield from _tokens(core, user, image, seen)


def _adds_constant(core: GraphModule, user: Node, node: Node) -> bool:
    others = [one for one in user.all_input_nodes if one is not node]
    return is_call(user, *_WITH_CONSTANT) and all(_is_constant(core, one) for one in others)


def _is_constant(core: GraphModule, node: Node) -> bool:
    while is_call(node, *SHAPE_OPERATORS, aten.expand.default):
        node = node.all_input_nodes[0]
    return constant(core, node) is not None


def _lays_out_anew(user: Node, image: Node) -> bool:
    if not is_call(user, *SHAPE_OPERATORS):
        return False
    size, before = shape(user), shape(image)
    return size is not None and before is not None and size[-2:] != before[-2:]


def bridges_of(core: GraphModule) -> list[Bridge]:
    """Every bridge block of a graph, in graph order."""
    found: dict[Sides, Bridge] = {}
    tokens: set[Sides | None] = set()
    for node in core.graph.nodes:
        sides = _image(node)
        if sides is None or sides in found or sides in tokens or is_call(node, *SHAPE_OPERATORS):
            continue
        makers = _makers(node)
        if not makers:
            continue
        readers: list[Node] = []
        for user in node.users:
            if _lays_out_anew(user, node):
                readers += _tokens(core, user, node, set())
        if readers:
            layers = tuple(one for one in readers if is_call(one, LINEAR, CONVOLUTION))
            found[sides] = Bridge(sides, tuple(dict.fromkeys(makers)), tuple(dict.fromkeys(layers)))
            tokens |= {_image(operand(one)) for one in layers if is_call(one, CONVOLUTION)}
    return list(found.values())
