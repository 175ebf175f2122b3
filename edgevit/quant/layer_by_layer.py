"""Solves codes layer after layer, each on the results of the quantized layers before it (EasyQuant, section 3.2).

All pictures go through the graph in step, one operator at a time, so that one pass is enough.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from edgevit.graph.qdq.codes import fake_code, fake_weight, uniform_code
from edgevit.graph.qdq.layers import Layer, readers
from edgevit.quant.metrics import Metric
from edgevit.quant.observers import omse
from edgevit.quant.sampling import ROWS, VALUES, Values, input_rows
from edgevit.quant.search import Grid, Reading, candidate_codes, search_value, search_weight
from edgevit.quant.workbench import Bench, fixed_code, largest_weights
from edgevit.schema.recipe import Code


class _Run(Interpreter):
    """The forward pass of one picture, advanced one node at a time."""

    def layer(self, layer: Layer, code: Code, weight: Tensor) -> Any:
        """A layer with its input and weight rounded."""
        args, kwargs = self.fetch_args_kwargs_from_env(layer.node)
        return layer.node.target(fake_code(args[0], code), weight, *args[2:], **kwargs)  # type: ignore[operator]


def _waits(bench: Bench, point: Node) -> bool:
    """Whether all readers of a point are layers, so that the first of them may decide its code."""
    layers = {layer.node for layer in bench.plan.layers}
    users = [user for user, _ in readers(point)]
    return bool(users) and all(user in layers for user in users)


def _range_code(bench: Bench, point: Node, seen: list[Tensor]) -> Code:
    values = Values()
    for one in seen:
        values.see(one, -(-VALUES // len(seen)), None)
    low, high = omse(values, bench.activation_bits)
    return fixed_code(point, bench.activation_bits) or uniform_code(low, high, bench.activation_bits, symmetric=True)


def _solve_layer(bench: Bench, layer: Layer, inputs: list[Tensor], grid: Grid, metric: Metric) -> None:
    wanted, bits = -(-ROWS // len(inputs)), bench.activation_bits
    rows = torch.cat([input_rows(layer, x, wanted, picture) for picture, x in enumerate(inputs)])
    known = bench.readings[layer.name]
    reading = Reading(layer.name, rows, known.weight, known.rounded, known.expected)
    source = layer.source.name
    for _ in range(grid.rounds):
        if source not in bench.activations:
            fixed = fixed_code(layer.source, bits)
            codes = candidate_codes(float(rows.min()), float(rows.max()), bits, grid, symmetric=True)
            bench.activations[source] = fixed or search_value([reading], codes, metric)[0]
        quantized = fake_code(rows, bench.activations[source])
        bench.set_weight(layer, search_weight(reading, quantized, bench.weight_bits, grid, metric))


@torch.no_grad()
def solve_in_order(bench: Bench, grid: Grid, metric: Metric) -> None:
    """Decide every code in the order of execution: symmetric, one scale each.

    Args:
        bench: the model and its samples; receives the codes.
        grid: multiples of the whole range; its rounds are taken layer by layer.
        metric: what is minimised, against what each layer gives in the float network.
    """
    largest_weights(bench)
    layers = {layer.node: layer for layer in bench.plan.layers}
    points, waiting = set(bench.plan.points), {point for point in bench.plan.points if _waits(bench, point)}
    runs = [_Run(bench.core) for _ in bench.pictures.pixels]
    for run, inputs in zip(runs, bench.pictures.inputs(), strict=True):
        run.args_iter = iter([inputs])
    for node in bench.core.graph.nodes:
        if node.op == "output":
            break
        layer = layers.get(node)
        if layer is not None:
            bench.tell(f"searching scales of {layer.module or node.name}")
            _solve_layer(bench, layer, [run.env[node.args[0]] for run in runs], grid, metric)
            code, weight = bench.activations[layer.source.name], fake_weight(layer.weight, bench.weights[layer.name])
            for run in runs:
                run.env[node] = run.layer(layer, code, weight)
        else:
            for run in runs:
                run.env[node] = run.run_node(node)
        if node in points and node in bench.plan.computed and node not in waiting:
            _decide_now(bench, node, runs)
        for run in runs:
            for done in run.user_to_last_uses.get(node, []):
                run.env.pop(done, None)


def _decide_now(bench: Bench, point: Node, runs: list[_Run]) -> None:
    code = bench.activations[point.name] = _range_code(bench, point, [run.env[point] for run in runs])
    for run in runs:
        run.env[point] = fake_code(run.env[point], code)
