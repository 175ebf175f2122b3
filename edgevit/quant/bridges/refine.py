"""Refines the codes of a bridge block by the error of its last layers while all of its layers are quantized.

Q-HyViT (section III-C): of a bridge block, ``O`` in ``E[dO^T diag((dL/dO)^2) dO]`` is what the whole block gives, its
layers applied in sequence with the earlier ones quantized.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from edgevit.graph.fx import argument, constant
from edgevit.graph.qdq.channel_folds import apply_folds
from edgevit.graph.qdq.codes import fake_code, fake_weight, on_grid
from edgevit.graph.qdq.layers import Layer, layers_of
from edgevit.quant.bridges.find import Bridge
from edgevit.quant.gradients import WHOLE
from edgevit.quant.metrics import fisher
from edgevit.quant.search import Grid, candidate_codes, loss_of, weight_code
from edgevit.quant.workbench import Bench, fixed_code
from edgevit.schema.recipe import Code, WeightCode

if TYPE_CHECKING:
    from torch.fx import GraphModule

Choice = Callable[[], None]
"""Puts one candidate into the bench."""
_WEIGHT_MULTIPLES = (0.8, 0.9, 1.1, 1.2)
"""Factors by which a layer's weight scales are varied, all channels together."""


@dataclass(frozen=True)
class _Block:
    """The data needed to run one bridge block repeatedly.

    Attributes:
        core: the graph with all folds made.
        nodes: between its makers and its readers, in order, both included.
        makers: layers.
        readers: layers.
        environments: values of the float run, for some pictures.
        gradients: of the loss by each reader's result, for the same pictures.
    """

    core: GraphModule
    nodes: tuple[Node, ...]
    makers: tuple[Layer, ...]
    readers: tuple[Layer, ...]
    environments: tuple[dict[Node, Any], ...]
    gradients: dict[str, list[Tensor]]


class _Quantized(Interpreter):
    """Runs some nodes of a graph with the codes of a bench."""

    def __init__(self, block: _Block, bench: Bench) -> None:
        super().__init__(block.core)
        self._bench = bench
        self._layers = {layer.node: layer for layer in (*block.makers, *block.readers)}

    def run_node(self, n: Node) -> Any:
        """One operator, a layer with its input and weight rounded to the bench's codes."""
        layer = self._layers.get(n)
        if layer is None:
            result = super().run_node(n)
        else:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            x = fake_code(args[0], self._bench.activations[layer.source.name])
            weight = constant(self.module, argument(n, "weight"))  # type: ignore[arg-type]
            assert weight is not None
            rounded = fake_weight(weight, self._bench.weights[layer.name])
            result = n.target(x, rounded, *args[2:], **kwargs)  # type: ignore[operator]
        code = self._bench.activations.get(n.name)
        is_result = any(n is layer.result for layer in self._layers.values())
        return fake_code(result, code) if is_result and code is not None and n not in self._reader_nodes() else result

    def _reader_nodes(self) -> set[Node]:
        return {layer.node for layer in self._layers.values() if layer.name in self._bench.whole}


def _between(core: GraphModule, makers: set[Node], readers: set[Node]) -> tuple[Node, ...]:
    below = set(makers)
    for node in core.graph.nodes:
        if any(source in below for source in node.all_input_nodes):
            below.add(node)
    above = set(readers)
    for node in reversed(core.graph.nodes):
        if any(user in above for user in node.users):
            above.add(node)
    return tuple(node for node in core.graph.nodes if node in below and node in above)


def _block(bench: Bench, bridge: Bridge) -> _Block | None:
    core = bench.fresh()
    apply_folds(core, bench.folds)
    layers = {layer.name: layer for layer in layers_of(core) if layer.name in bench.weights}
    makers = tuple(layers[node.name] for node in bridge.makers if node.name in layers)
    readers = tuple(layers[node.name] for node in bridge.readers if node.name in layers)
    if not makers or not readers:
        return None
    environments = []
    for inputs in islice(bench.pictures.inputs(), WHOLE):
        run = Interpreter(core, garbage_collect_values=False)
        run.run(inputs)
        environments.append(run.env)
    nodes = _between(core, {layer.node for layer in makers}, {layer.node for layer in readers})
    needed = {source for node in nodes for source in node.all_input_nodes} | set(nodes)
    kept = tuple({node: value for node, value in env.items() if node in needed} for env in environments)
    return _Block(core, nodes, makers, readers, kept, {one.name: bench.whole[one.name] for one in readers})


def _loss(bench: Bench, block: _Block) -> float:
    """Fisher-weighted error of the block's results."""
    total = 0.0
    for picture, environment in enumerate(block.environments):
        run = _Quantized(block, bench)
        run.env = dict(environment)
        for node in block.nodes:
            run.env[node] = run.run_node(node)
        for layer in block.readers:
            error = (run.env[layer.node] - environment[layer.node]) * block.gradients[layer.name][picture]
            total += float(error.square().sum())
    return total


def _outside(bench: Bench, block: _Block, point: str) -> float:
    """The loss that a point's code causes in layers outside of the block that read it, in the unit of the block's
    loss.
    """
    inside = {layer.name for layer in (*block.makers, *block.readers)}
    readings = [one for one in bench.readers(point) if one.name not in inside]
    code = bench.activations[point]
    return loss_of(readings, code, fisher) * (readings[0].rows.shape[0] if readings else 0)


def _try(bench: Bench, block: _Block, choices: Iterable[Choice], undo: Choice, point: str) -> None:
    """Apply the choice with the smallest loss, or none where none is better."""
    best, kept = _loss(bench, block) + _outside(bench, block, point), undo
    for choose in choices:
        choose()
        loss = _loss(bench, block) + _outside(bench, block, point)
        if loss < best:
            best, kept = loss, choose
    kept()


def _refine_value(bench: Bench, block: _Block, point: Node, grid: Grid, schemes: tuple[bool, ...]) -> None:
    if fixed_code(point, bench.activation_bits) or bench.is_shared(point):
        return
    values, before = bench.values(point.name), bench.activations[point.name]

    def choosing(code: Code) -> Choice:
        return lambda: bench.activations.update({point.name: code})

    codes = [
        code
        for symmetric in schemes
        for code in candidate_codes(values.low, values.high, bench.activation_bits, grid, symmetric=symmetric)
    ]
    _try(bench, block, map(choosing, codes), choosing(before), point.name)


def _refine_weight(bench: Bench, block: _Block, layer: Layer) -> None:
    before = bench.weights[layer.name]
    scale = torch.tensor(before.scale)

    def choosing(code: WeightCode) -> Choice:
        return lambda: bench.weights.update({layer.name: code})

    codes = (weight_code(on_grid(scale * multiple), before.bits) for multiple in _WEIGHT_MULTIPLES)
    _try(bench, block, map(choosing, codes), choosing(before), layer.source.name)


@torch.no_grad()
def refine_bridge(bench: Bench, bridge: Bridge, grid: Grid, schemes: tuple[bool, ...]) -> None:
    """Search the codes of one bridge block again, judged by the error of the block's own result.

    Args:
        bench: with codes for everything.
        bridge: the block.
        grid: multiples of the whole range.
        schemes: symmetric or not, or both to choose from.
    """
    block = _block(bench, bridge)
    if block is None:
        return
    layers = {layer.name: layer for layer in bench.plan.layers}
    points: dict[str, Node] = {}
    for layer in (*block.makers, *block.readers):
        known = layers[layer.name]
        points.setdefault(known.source.name, known.source)
        if layer in block.makers:
            points.setdefault(known.result.name, known.result)
    for point in points.values():
        _refine_value(bench, block, point, grid, schemes)
    for layer in block.makers:
        _refine_weight(bench, block, layer)
