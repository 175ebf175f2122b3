"""Gradients of the loss with respect to every layer's result: the diagonal of the Fisher information.

The loss is the Kullback-Leibler divergence between the answers of the model quantized with first guesses and of
the float model (Q-HyViT, equation 7; PTQ4ViT, section 4.2). Rounding passes gradients straight through.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.nn import functional

from edgevit.graph.fx import first_output
from edgevit.graph.qdq.codes import fake_uniform
from edgevit.graph.qdq.insert import DEQUANTIZE, QUANTIZE
from edgevit.graph.qdq.layers import Layer, LayerPlan
from edgevit.quant.sampling import ROWS, Advance, output_rows

if TYPE_CHECKING:
    from edgevit.quant.calibration import Pictures


class _StraightThrough(Interpreter):
    """Runs a quantized graph with straight-through gradients and keeps the results of layers."""

    def __init__(self, core: GraphModule, layers: set[str]) -> None:
        super().__init__(core)
        self._layers = layers
        self.results: dict[str, Tensor] = {}

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Execute one operator; a Q/DQ pair rounds, and passes gradients on inside of its range."""
        if target is QUANTIZE:
            values, scale, zero, low, high = args[:5]
            inside = values.clamp((low - zero) * scale, (high - zero) * scale)
            return inside + (fake_uniform(values.detach(), scale, zero, low, high) - inside.detach())
        return args[0] if target is DEQUANTIZE else super().call_function(target, args, kwargs)

    def run_node(self, n: Node) -> Any:
        """One operator; a layer's result is kept, and keeps its gradient."""
        result = super().run_node(n)
        if n.name in self._layers:
            result = result if result.requires_grad else result.requires_grad_()
            result.retain_grad()
            self.results[n.name] = result
        return result


WHOLE = 4
"""Pictures of which whole gradients are kept."""


def layer_gradients(
    core: GraphModule,
    quantized: GraphModule,
    plan: LayerPlan,
    pictures: Pictures,
    advance: Advance = lambda done: None,
    whole: Collection[str] = (),
) -> tuple[dict[str, Tensor], dict[str, list[Tensor]]]:
    """Gradients for the rows of each layer that `edgevit.quant.sampling.collect` keeps: [R, groups, O].

    Args:
        core: the float graph.
        quantized: the same with first guesses.
        plan: what is quantized.
        pictures: one backward pass each.
        advance: called after each picture.
        whole: names of layers whose whole gradients are wanted too, for the first `WHOLE` pictures.

    Returns:
        Rows by layer, and whole gradients by layer.
    """
    kept: dict[str, list[Tensor]] = {name: [] for name in whole}
    found: dict[str, list[Tensor]] = {layer.name: [] for layer in plan.layers}
    wanted = -(-ROWS // len(pictures))
    names = {layer.name for layer in plan.layers}
    for picture, inputs in enumerate(pictures.inputs()):
        with torch.no_grad():
            expected = first_output(core(inputs)).softmax(-1)
        with torch.enable_grad():
            run = _StraightThrough(quantized, names)
            answer = first_output(run.run(inputs))
            functional.kl_div(answer.log_softmax(-1), expected, reduction="batchmean").backward()  # type: ignore[no-untyped-call]
        for layer in plan.layers:
            found[layer.name].append(_gradient_rows(layer, run.results[layer.name], wanted, picture))
        if picture < WHOLE:
            for name, parts in kept.items():
                parts.append(_gradient(run.results[name]))
        advance(1)
    return {name: torch.cat(parts) for name, parts in found.items()}, kept


def _gradient(result: Tensor) -> Tensor:
    return torch.zeros_like(result) if result.grad is None else result.grad


def _gradient_rows(layer: Layer, result: Tensor, wanted: int, picture: int) -> Tensor:
    return output_rows(layer, _gradient(result), wanted, picture)
