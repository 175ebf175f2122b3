"""Solves a recipe from a captured model and calibration pictures."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from importlib import metadata
from typing import TYPE_CHECKING

import torch
from torch.fx import GraphModule

from edgevit.errors import UsageError
from edgevit.graph.fx import is_call
from edgevit.graph.qdq.base_graph import digest, quantizable
from edgevit.graph.qdq.channel_folds import GROUP_NORM, Site, sites_of
from edgevit.graph.qdq.constant_tables import table_code, tables_of
from edgevit.graph.qdq.insert import insert
from edgevit.graph.qdq.layers import CONVOLUTION, LINEAR, Layer, LayerPlan, layers_of, plan
from edgevit.quant.bridges.find import bridges_of
from edgevit.quant.gradients import layer_gradients
from edgevit.quant.operands import insert_operands
from edgevit.quant.options import Bits
from edgevit.quant.quantizers.minmax import solve as first_guesses
from edgevit.quant.registry import Quantizer
from edgevit.quant.sampling import collect
from edgevit.quant.weights import weight_codes
from edgevit.quant.workbench import Bench, make_readings
from edgevit.schema.recipe import Recipe, RecipeModel

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from edgevit.quant.calibration import Pictures

Progress = Callable[[str, int, int], None]
"""Is told (what is being done, how much of it is done, of how much)."""


def no_progress(stage: str, done: int, total: int) -> None:
    """A progress callback that does nothing: the default."""


def matching(layer: Layer, patterns: Collection[str]) -> str | None:
    """The first pattern that matches a layer's module, a module around it, or its name."""
    names = (layer.name, layer.module)
    hits = (p for p in patterns for name in names if fnmatchcase(name, p) or fnmatchcase(name, f"{p}.*"))
    return next(hits, None)


def kept_layers(core: GraphModule, patterns: Collection[str]) -> dict[str, str]:
    """Layers that a pattern keeps in floating point, by name, with that pattern.

    Raises:
        UsageError: a pattern matches no layer.
    """
    layers = layers_of(core)
    for pattern in patterns:
        if not any(matching(layer, [pattern]) for layer in layers):
            known = sorted({layer.module for layer in layers if layer.module})
            raise UsageError(
                f"--keep-fp16 {pattern} matches no layer",
                where="layers are " + ", ".join(known[:4]) + (", ..." if len(known) > 4 else ""),
                cure="give a module path or a layer's name, with wildcards",
            )
    found = ((layer.name, matching(layer, patterns)) for layer in layers)
    return {name: f"asked for: {pattern}" for name, pattern in found if pattern}


def _channel_axes(sites: dict[str, Site]) -> dict[str, int]:
    """For each point whose channels can be changed, the axis of its channels."""
    return {name: 1 if is_call(site.maker, CONVOLUTION, GROUP_NORM) else -1 for name, site in sites.items()}


def _usable_sites(core: GraphModule, found: LayerPlan) -> dict[str, Site]:
    """Sites whose value and reading layers are all quantized."""
    layers, points = {layer.node for layer in found.layers}, set(found.points)
    makers = layers | {node for node in core.graph.nodes if not is_call(node, CONVOLUTION, LINEAR)}
    return {
        site.value.name: site
        for site in sites_of(core)
        if site.value in points and site.maker in makers and all(one.node in layers for one in site.consumers)
    }


def quantized_graph(core: GraphModule, recipe: Recipe, *, check: bool = True) -> GraphModule:
    """Insert a recipe's rounding into a graph, in place, including codes that no runtime can execute."""
    insert(core, recipe, check=check)
    insert_operands(core, recipe.operands)
    return core


@dataclass(frozen=True)
class CanonicalModel:
    """The canonical float graph of a model, rebuilt for each use: recipes are solved and tried on copies of it.

    Attributes:
        make: builds a fresh copy, free to edit.
        model: the model's description in a recipe.
    """

    make: Callable[[], GraphModule]
    model: RecipeModel


def source_of_program(program: ExportedProgram, name: str, size: tuple[int, int], classes: int) -> CanonicalModel:
    """The canonical model of a captured program."""
    model = RecipeModel(name=name, size=size, classes=classes, graph=digest(quantizable(program)))
    return CanonicalModel(lambda: quantizable(program), model)


def blank_recipe(source: CanonicalModel, core: GraphModule, quantizer: str, bits: Bits, kept: dict[str, str]) -> Recipe:
    """A recipe without codes for activations and weights; tables have theirs."""
    return Recipe(
        edgevit=metadata.version("edgevit"),
        torch=torch.__version__.partition("+")[0],
        model=source.model,
        quantizer=quantizer,
        weight_bits=bits.weights,
        activation_bits=bits.activations,
        dynamic=bits.dynamic,
        kept=kept,
        tables={node.name: table_code(value) for node, value in tables_of(core)},
        modules={layer.name: layer.module for layer in layers_of(core)},
    )


@torch.no_grad()
def solve_weights(source: CanonicalModel, bits: Bits, keep: Collection[str] = ()) -> Recipe:
    """Quantize weights alone; for a dynamic recipe only those of linear layers.

    Raises:
        UsageError: a pattern of ``keep`` matches nothing, or there is nothing to quantize.
    """
    core = source.make()
    kept = kept_layers(core, keep)
    if bits.dynamic:
        convolutions = (layer for layer in layers_of(core) if layer.is_convolution)
        kept |= {layer.name: "a convolution: dynamic quantization is for linear layers" for layer in convolutions}
    layers = [layer for layer in layers_of(core) if layer.name not in kept]
    if not layers:
        raise UsageError("there is no layer to quantize so", cure="choose --precision w8, or int8 with --calib DIR")
    codes = weight_codes(layers, bits.weights)
    return blank_recipe(source, core, "least-error", bits, kept).model_copy(update={"weights": codes})


@torch.no_grad()
def solve_recipe(
    source: CanonicalModel,
    quantizer: Quantizer,
    pictures: Pictures,
    *,
    bits: Bits | None = None,
    keep: Collection[str] = (),
    kept: dict[str, str] | None = None,
    exportable: bool = False,
    progress: Progress = no_progress,
) -> Recipe:
    """Quantize weights and activations with one quantizer.

    Args:
        source: the canonical float model.
        quantizer: the name of the method.
        pictures: to calibrate on.
        bits: of weights and activations, 8 and 8 if not given.
        keep: module paths or layer names that stay in floating point, with wildcards.
        kept: further layers that do, with the reason for each.
        exportable: leave out what no runtime can execute.
        progress: called with the current stage of the work.

    Raises:
        UsageError: a pattern of ``keep`` matches nothing.
        CheckFailed: the model gives values that are not finite.
    """
    bits = bits or Bits()
    core = source.make()
    left = kept_layers(core, keep) | (kept or {})
    found, total = plan(core, left), len(pictures)
    base = blank_recipe(source, core, quantizer.name, bits, left)
    sites = _usable_sites(core, found)
    samples = collect(core, found, pictures, _channel_axes(sites), _advance(progress, "calibrating", total))
    bench = Bench(
        fresh=source.make,
        core=core,
        plan=found,
        sites=sites,
        samples=samples,
        pictures=pictures,
        weight_bits=bits.weights,
        activation_bits=bits.activations or 8,
        exportable=exportable,
        readings=make_readings(found, samples),
        tell=lambda text: progress(text, 0, 0),
    )
    if quantizer.gradients:
        first_guesses(bench)
        guess = base.model_copy(update={"weights": bench.weights, "activations": bench.activations})
        bridges = bridges_of(core)
        samples.gradients, whole = layer_gradients(
            core,
            insert(source.make(), guess, check=False),
            found,
            pictures,
            _advance(progress, "gradients", total),
            {node.name for bridge in bridges for node in bridge.readers if node.name in bench.weights},
        )
        readings = make_readings(found, samples)
        bench = replace(bench, readings=readings, weights={}, activations={}, bridges=bridges, whole=whole)
    quantizer.solve(bench)
    return base.model_copy(
        update={
            "calibration": pictures.info,
            "folds": tuple(bench.folds),
            "weights": bench.weights,
            "activations": bench.activations,
            "operands": bench.operands,
        }
    )


def _advance(progress: Progress, stage: str, total: int) -> Callable[[int], None]:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(stage, done, total)

    return advance
