"""Codes for values inside of operators: the operands of attention products and the inputs of LayerNorm.

Papers quantize these; the runtimes have no integer kernels for them that take a solver's codes. They can be
evaluated here, not exported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from edgevit.graph.fx import argument, aten, constant, finish, is_call
from edgevit.graph.qdq.codes import fake_code, rounding
from edgevit.graph.qdq.layers import source_of
from edgevit.quant.sampling import Advance
from edgevit.schema.recipe import Code

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from edgevit.quant.calibration import Pictures

ATTENTION = aten.scaled_dot_product_attention.default
PRODUCTS = (aten.matmul.default, aten.bmm.default)
NORM = aten.layer_norm.default
_SOFTMAX = (aten.softmax.int, aten._softmax.default)
_SAMPLES = 4096
"""Values kept of one operand and picture, beside its extremes."""
_ROWS = 64
"""Rows kept of a LayerNorm's input and picture."""


def attention_weights(query: Tensor, key: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """``softmax(q k^T scale + mask)``."""
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    scores = query @ key.transpose(-2, -1) * factor
    return (scores if mask is None else scores + mask).softmax(-1)


def _attend(codes: Mapping[str, Code]) -> Callable[..., Tensor]:
    def attend(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,  # noqa: ARG001 - as torch has it
        is_causal: bool = False,  # noqa: ARG001
        *,
        scale: float | None = None,
        enable_gqa: bool = False,  # noqa: ARG001
    ) -> Tensor:
        given = {"query": query, "key": key, "value": value}
        rounded = {name: fake_code(one, codes[name]) if name in codes else one for name, one in given.items()}
        weights = attention_weights(rounded["query"], rounded["key"], attn_mask, scale)
        if "probabilities" in codes:
            weights = fake_code(weights, codes["probabilities"])
        return weights @ rounded["value"]

    return attend


def is_probability(core: GraphModule, node: Node) -> bool:
    """Whether the first operand of a product is a matrix of attention weights."""
    first = node.args[0]
    return isinstance(first, Node) and constant(core, first) is None and is_call(source_of(first), *_SOFTMAX)


def operators_of(core: GraphModule) -> list[Node]:
    """Attention calls, products of two computed values, and LayerNorms, in graph order."""
    found = []
    for node in core.graph.nodes:
        computed = is_call(node, *PRODUCTS) and all(constant(core, one) is None for one in node.args[:2])
        if computed or is_call(node, ATTENTION, NORM):
            found.append(node)
    return found


def insert_operands(core: GraphModule, operands: Mapping[str, Mapping[str, Code]]) -> None:
    """Insert rounding inside of operators, in place; the graph can then only be run in PyTorch."""
    for node in list(core.graph.nodes):
        codes = operands.get(node.name)
        if not codes:
            continue
        if is_call(node, ATTENTION):
            node.target = _attend(codes)
            continue
        for place, name in enumerate(("input", "other")):
            if name in codes:
                with core.graph.inserting_before(node):
                    rounded = core.graph.call_function(rounding(codes[name]), (node.args[place],))
                node.update_arg(place, rounded)
    finish(core)


class _Operands(Interpreter):
    """Runs a graph and keeps a sample of what chosen operators read."""

    def __init__(self, core: GraphModule, found: dict[str, dict[str, list[Tensor]]]) -> None:
        super().__init__(core)
        self._found = found

    def run_node(self, n: Node) -> Any:
        """One operator, after keeping the chosen part of what it reads."""
        if n.name in self._found:
            for name, value in self._read(n).items():
                self._found[n.name].setdefault(name, []).append(value)
        return super().run_node(n)

    def _read(self, node: Node) -> dict[str, Tensor]:
        values = [self.env[one] for one in node.args if isinstance(one, Node) and one in self.env]
        if is_call(node, NORM):
            rows = values[0].reshape(-1, values[0].shape[-1])
            return {"input": rows[:: max(1, len(rows) // _ROWS)].clone()}
        if not is_call(node, ATTENTION):
            return {"input": _some(values[0]), "other": _some(values[1])}
        mask = argument(node, "attn_mask")
        added = self.env[mask] if isinstance(mask, Node) else None
        weights = attention_weights(values[0], values[1], added, argument(node, "scale"))
        named = dict(zip(("query", "key", "value"), values, strict=False))
        return {name: _some(one) for name, one in {**named, "probabilities": weights}.items()}


def _some(values: Tensor) -> Tensor:
    flat = values.flatten()
    return torch.cat([flat[:: max(1, flat.numel() // _SAMPLES)], flat.aminmax().min[None], flat.aminmax().max[None]])


@torch.no_grad()
def sample_operands(
    core: GraphModule, pictures: Pictures, advance: Advance = lambda done: None
) -> dict[str, dict[str, Tensor]]:
    """A sample of what each chosen operator reads, by its name: flat, or [rows, channels] for LayerNorm."""
    found: dict[str, dict[str, list[Tensor]]] = {node.name: {} for node in operators_of(core)}
    for inputs in pictures.inputs():
        _Operands(core, found).run(inputs)
        advance(1)
    return {name: {key: torch.cat(parts) for key, parts in one.items()} for name, one in found.items()}
