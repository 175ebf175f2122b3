"""Rows of tokens as matrices: [..., N, C] as [M, C] through linear layers, norms and what stands between them.

ONNX Runtime turns a linear layer over more than two axes into a reshape, a `Gemm` and a reshape back, and
copies at every reshape whose source is read again, as a residual's is. A region of layers, norms, sums and
activations over values of one shape is computed on matrices, with reshapes at its borders only; LiteRT's
converter merges more transpositions around such regions. Exact.
"""

from __future__ import annotations

from math import prod
from typing import Any

from torch.fx import GraphModule, Node

from edgevit.graph.builder import Builder
from edgevit.graph.fx import LEAVES_GUARD, argument, aten, constant, finish, is_call, operand, shape
from edgevit.graph.rewrites import Rewrite

_LAYERS = (aten.linear.default, aten.layer_norm.default)
_POINTWISE = (
    aten.gelu.default,
    aten.relu.default,
    aten.silu.default,
    aten.sigmoid.default,
    aten.tanh.default,
    aten.hardswish.default,
    aten.hardsigmoid.default,
    aten.leaky_relu.default,
)
_BINARY = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor)


def _rows(node: Node) -> tuple[int, ...] | None:
    """All axes of a value but its last, where there are several."""
    size = shape(node)
    return size[:-1] if size is not None and len(size) > 2 else None


def _flattens(graph_module: GraphModule, node: Node) -> bool:
    """Whether a call treats every row alike and by itself."""
    rows = _rows(node)
    if rows is None or node.meta.get(LEAVES_GUARD) or not is_call(node, *_LAYERS, *_POINTWISE, *_BINARY):
        return False
    if is_call(node, aten.layer_norm.default) and len(argument(node, "normalized_shape")) != 1:
        return False
    if not is_call(node, *_BINARY):
        return _rows(operand(node)) == rows
    return all(
        not isinstance(value, Node) or _rows(value) == rows or _is_row(graph_module, value, node)
        for value in node.args[:2]
    )


def _is_row(graph_module: GraphModule, value: Node, node: Node) -> bool:
    size = shape(value)
    return constant(graph_module, value) is not None and size is not None and size == (shape(node) or ())[-1:]


def _regions(graph_module: GraphModule) -> list[list[Node]]:
    """Connected calls over values with equal rows, those around at least one linear layer."""
    home: dict[Node, list[Node]] = {}
    for node in graph_module.graph.nodes:
        if not _flattens(graph_module, node):
            continue
        region = home[node] = [node]
        for source in node.all_input_nodes:
            other = home.get(source)
            if other is not None and other is not region and _rows(source) == _rows(node):
                small, large = sorted((region, other), key=len)
                large.extend(small)
                home.update(dict.fromkeys(small, large))
                region = large
    unique = {id(region): region for region in home.values()}
    return [one for one in unique.values() if any(is_call(node, aten.linear.default) for node in one)]


def _flatten(builder: Builder, region: set[Node], order: list[Node]) -> None:
    flat: dict[Node, Node] = {}

    def matrix(value: Any) -> Any:
        if not isinstance(value, Node) or _rows(value) is None:
            return value
        if value not in flat:
            size = shape(value) or ()
            flat[value] = builder.reshape(value, (prod(size[:-1]), size[-1]))
        return flat[value]

    for node in order:
        builder.at(node)
        operands = 2 if is_call(node, *_BINARY) else 1
        arguments = (*map(matrix, node.args[:operands]), *node.args[operands:])
        flat[node] = builder.call(node.target, *arguments, **node.kwargs)
    for node in order:
        if any(user not in region for user in node.users):
            back = builder.at(node).reshape(flat[node], shape(node) or ())
            node.replace_all_uses_with(back)


def edit(graph_module: GraphModule) -> int:
    """Flatten every such region; returns how many."""
    place = {node: index for index, node in enumerate(graph_module.graph.nodes)}
    regions = _regions(graph_module)
    builder = Builder(graph_module)
    for region in regions:
        _flatten(builder, set(region), sorted(region, key=place.__getitem__))
    finish(graph_module)
    return len(regions)


REWRITE = Rewrite("flat_tokens", __doc__.splitlines()[0], order=93, backends=frozenset({"onnx", "litert"}), edit=edit)
