"""Inserts a recipe's Q/DQ nodes into a graph.

The nodes are torch's own ``quantized_decomposed`` operators: a value is quantized once and dequantized by
each of its readers; a weight is an int8 constant that is dequantized along its first axis; a bias lies on the
grid of 32-bit integers that the kernels have for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
import torch.ao.quantization.fx._decomposed  # registers the operators
from torch.fx import Node

from edgevit.errors import BadFile
from edgevit.graph.builder import Builder
from edgevit.graph.fx import argument, calls, constant, finish, is_call
from edgevit.graph.qdq.base_graph import digest
from edgevit.graph.qdq.channel_folds import apply_folds
from edgevit.graph.qdq.codes import rounding, weight_integers
from edgevit.graph.qdq.constant_tables import round_tables
from edgevit.graph.qdq.dynamic import insert_dynamic
from edgevit.graph.qdq.layers import SHAPE_OPERATORS, Layer, LayerPlan, layers_of, plan
from edgevit.schema.recipe import Code, Recipe, UniformCode

if TYPE_CHECKING:
    from torch.fx import GraphModule

_decomposed = torch.ops.quantized_decomposed
QUANTIZE, DEQUANTIZE = _decomposed.quantize_per_tensor.default, _decomposed.dequantize_per_tensor.default
QUANTIZE_CHANNELS = _decomposed.quantize_per_channel.default
DEQUANTIZE_CHANNELS = _decomposed.dequantize_per_channel.default


def check_fits(core: GraphModule, recipe: Recipe) -> None:
    """Refuse a recipe that was solved for another graph.

    Raises:
        BadFile: the graph's digest differs.
    """
    if digest(core) != recipe.model.graph:
        raise BadFile(
            f"the recipe was made for another {recipe.model.name}: its weights, its size or torch's capture differ",
            where=f"made with torch {recipe.torch}, here is {torch.__version__.partition('+')[0]}",
            cure="quantize this model again: edgevit quantize MODEL --calib DIR -o RECIPE",
        )


def _leads_to(node: Node, wanted: set[Node]) -> bool:
    if node in wanted:
        return True
    return is_call(node, *SHAPE_OPERATORS) and any(_leads_to(user, wanted) for user in node.users)


def emit_pair(builder: Builder, value: Node, numbers: tuple[Any, ...], users: Iterable[Node]) -> None:
    """Quantize a value once and give each of ``users`` a dequantized copy.

    Args:
        builder: of the value's graph.
        value: in floating point.
        numbers: scale, zero point, smallest and largest integer, and dtype.
        users: those readers of the value that shall read it dequantized.
    """
    integers = builder.at(value.next).call(QUANTIZE, value, *numbers)
    for user in users:
        user.replace_input_with(value, builder.at(user).call(DEQUANTIZE, integers, *numbers))


def _emit(builder: Builder, value: Node, code: Code, users: list[Node]) -> None:
    if isinstance(code, UniformCode):
        emit_pair(builder, value, (code.scale, code.zero_point, code.low, code.high, torch.int8), users)
        return
    with value.graph.inserting_after(value):
        rounded = value.graph.call_function(rounding(code), (value,))
    rounded.meta = {**value.meta}
    for user in users:
        user.replace_input_with(value, rounded)


def _quantize_values(core: GraphModule, found: LayerPlan, recipe: Recipe) -> None:
    builder = Builder(core)
    reading = {layer.node for layer in found.layers} | set(found.sums)
    for value in found.points:
        code = recipe.activations.get(value.name)
        if code is None:
            continue
        users = list(value.users)
        if value not in found.computed:
            users = [user for user in users if _leads_to(user, reading)]
        _emit(builder, value, code, users)


def _bias_on_grid(bias: torch.Tensor, source: Code | None, scale: tuple[float, ...]) -> torch.Tensor:
    """A bias rounded to multiples of input scale times weight scale, the unit of 32-bit accumulators."""
    if not isinstance(source, UniformCode):
        return bias
    step = torch.tensor(source.scale) * torch.tensor(scale)
    return (bias.float() / step).round().clamp(-(2.0**31), 2.0**31 - 128) * step


def _quantize_weight(builder: Builder, layer: Layer, recipe: Recipe) -> None:
    core, node, code = builder.graph_module, layer.node, recipe.weights[layer.name]
    weight, bias = constant(core, argument(node, "weight")), constant(core, argument(node, "bias"))
    assert weight is not None
    if len(code.scale) != len(weight):
        raise BadFile(f"the recipe has {len(code.scale)} scales for the {len(weight)} output channels of {node.name}")
    builder.at(node)
    integers = builder.constant(weight_integers(weight.float(), code))
    scale = builder.constant(torch.tensor(code.scale))
    zeros = builder.constant(torch.zeros(len(code.scale), dtype=torch.int64))
    made = builder.call(DEQUANTIZE_CHANNELS, integers, scale, zeros, 0, code.low, code.high, torch.int8)
    arguments: list[Any] = [node.args[0], made, *node.args[2:]]
    if bias is not None:
        arguments[2:3] = [builder.constant(_bias_on_grid(bias, recipe.activations.get(layer.source.name), code.scale))]
    node.args = tuple(arguments)
    node.kwargs = {key: value for key, value in node.kwargs.items() if key not in ("weight", "bias")}


def float_weights(core: GraphModule) -> int:
    """Replace dequantized weights of layers that compute in floating point by rounded float constants; returns how
    many.
    """
    builder, done = Builder(core), 0
    for node in list(calls(core, DEQUANTIZE_CHANNELS)):
        layer = next(iter(node.users))
        if is_call(layer.args[0], DEQUANTIZE):
            continue
        values = [constant(core, argument) for argument in node.args[:3]]
        weight = DEQUANTIZE_CHANNELS(*values, *node.args[3:])
        layer.replace_input_with(node, builder.at(layer).constant(weight))
        done += 1
    finish(core)
    return done


@torch.no_grad()
def insert(core: GraphModule, recipe: Recipe, *, check: bool = True) -> GraphModule:
    """Turn a canonical float graph into its quantized form, in place.

    Args:
        core: as `edgevit.graph.qdq.base_graph.quantizable` gives it.
        recipe: its scales.
        check: compare the graph's digest first.

    Raises:
        BadFile: the recipe is for another graph.
    """
    if check:
        check_fits(core, recipe)
    apply_folds(core, recipe.folds)
    round_tables(core, recipe.tables)
    found = plan(core, {layer.name for layer in layers_of(core) if layer.name not in recipe.weights})
    builder = Builder(core)
    for layer in found.layers:
        _quantize_weight(builder, layer, recipe)
        if recipe.dynamic:
            insert_dynamic(builder, layer)
    _quantize_values(core, found, recipe)
    finish(core)
    return core
