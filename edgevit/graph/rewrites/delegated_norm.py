"""LayerNorm, GroupNorm of one group and means of tokens in operators that XNNPACK takes.

ExecuTorch has no delegated LayerNorm: each one ends a delegate call, runs on a portable kernel of one
thread, and starts the next. A mean over the last axis is a linear layer of one output with the weights
1 / C, one over channels a 1x1 convolution; centring, squaring and scaling are delegated as they are.
Exact within fp32 rounding. Squares overflow in fp16 where the fused kernel sums in fp32, so programs
in half precision keep the norm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgevit.graph.fx import add_constant, argument, aten, calls, finish, shape
from edgevit.graph.rewrites import Rewrite


class _Maker:
    """Puts operators before a node; every table of equal weights exists once."""

    def __init__(self, graph_module: GraphModule) -> None:
        self._graph_module = graph_module
        self._tables: dict[tuple[tuple[int, ...], float], str] = {}
        self.node: Node

    def call(self, target: Any, *args: Any) -> Node:
        """One operator."""
        with self.node.graph.inserting_before(self.node):
            return self.node.graph.call_function(target, args)

    def table(self, size: tuple[int, ...], value: float) -> Node:
        """A constant of one value."""
        if (size, value) not in self._tables:
            made = add_constant(self._graph_module, self.node, torch.full(size, value))
            self._tables[size, value] = str(made.target)
            return made
        with self.node.graph.inserting_before(self.node):
            return self.node.graph.get_attr(self._tables[size, value])

    def mean_weights(self, *size: int) -> Node:
        """A table of that size whose values sum to 1."""
        return self.table(size, 1 / torch.Size(size).numel())

    def normalised(self, x: Node, mean: Callable[[Node], Node], epsilon: float) -> Node:
        """``(x - mean(x)) / sqrt(mean of squares + epsilon)``."""
        centred = self.call(aten.sub.Tensor, x, mean(x))
        variance = mean(self.call(aten.mul.Tensor, centred, centred))
        scale = self.call(aten.rsqrt.default, self.call(aten.add.Tensor, variance, self.table((1,), epsilon)))
        return self.call(aten.mul.Tensor, centred, scale)

    def affine(self, x: Node, weight: Any, bias: Any, size: list[int]) -> Node:
        """``x * weight + bias``, each laid out to ``size`` where it is there."""
        for target, value in ((aten.mul.Tensor, weight), (aten.add.Tensor, bias)):
            if value is not None:
                laid = value if list(shape(value) or ()) == size else self.call(aten.reshape.default, value, size)
                x = self.call(target, x, laid)
        return x


def _layer_norm(make: _Maker, node: Node) -> Node | None:
    sizes, x = argument(node, "normalized_shape"), node.args[0]
    if len(sizes) != 1:
        return None
    weights = make.mean_weights(1, sizes[0])
    mean = lambda value: make.call(aten.linear.default, value, weights)  # noqa: E731
    plain = make.normalised(x, mean, argument(node, "eps"))  # type: ignore[arg-type]
    return make.affine(plain, argument(node, "weight"), argument(node, "bias"), list(sizes))


def _group_norm(make: _Maker, node: Node) -> Node | None:
    x = node.args[0]
    size = shape(x)
    if argument(node, "num_groups") != 1 or size is None or len(size) != 4:
        return None
    weights = make.mean_weights(1, size[1], 1, 1)

    def mean(value: Node) -> Node:
        spatial = make.call(aten.mean.dim, value, [2, 3], True)
        return make.call(aten.conv2d.default, spatial, weights)

    plain = make.normalised(x, mean, argument(node, "eps"))  # type: ignore[arg-type]
    return make.affine(plain, argument(node, "weight"), argument(node, "bias"), [1, size[1], 1, 1])


def _token_mean(make: _Maker, node: Node) -> Node | None:
    x, result = node.args[0], shape(node)
    size, axes = shape(x), argument(node, "dim")
    if size is None or len(size) != 3 or axes is None or [axis % 3 for axis in axes] != [1]:
        return None
    turned = make.call(aten.permute.default, x, [0, 2, 1])
    mean = make.call(aten.linear.default, turned, make.mean_weights(1, size[1]))
    return make.call(aten.reshape.default, mean, list(result or ()))


_FORMS = {
    aten.layer_norm.default: _layer_norm,
    aten.group_norm.default: _group_norm,
    aten.mean.dim: _token_mean,
}


@torch.no_grad()
def edit(graph_module: GraphModule) -> int:
    """Rewrite every such norm and mean; returns how many."""
    make, done = _Maker(graph_module), 0
    for node in calls(graph_module, *_FORMS):
        make.node = node
        found = _FORMS[node.target](make, node)  # type: ignore[index]
        if found is not None:
            found.meta.update({key: value for key, value in node.meta.items() if key != "module_path"})
            node.replace_all_uses_with(found)
            done += 1
    finish(graph_module)
    return done


REWRITE = Rewrite(
    "delegated_norm",
    __doc__.splitlines()[0],
    order=90,
    backends=frozenset({"executorch"}),
    edit=edit,
    half=False,
)
