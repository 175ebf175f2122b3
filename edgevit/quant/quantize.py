"""Quantizes a loaded model: the work behind `edgevit quantize`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgevit.data.folders import Skip, refuse
from edgevit.errors import CheckFailed
from edgevit.graph.capture import capture
from edgevit.models.load import LoadedModel
from edgevit.quant.agreement import measure_agreement
from edgevit.quant.budget import spend
from edgevit.quant.calibration import Pictures, Warn, read_pictures
from edgevit.quant.options import QuantizeOptions
from edgevit.quant.registry import find_quantizer
from edgevit.quant.sensitivity import LayerSensitivity, sensitivities
from edgevit.quant.solve import (
    CanonicalModel,
    Progress,
    no_progress,
    quantized_graph,
    solve_recipe,
    solve_weights,
    source_of_program,
)
from edgevit.schema.recipe import Recipe

if TYPE_CHECKING:
    from torch.export import ExportedProgram


@dataclass(frozen=True)
class Quantized:
    """Result of `quantize`: the recipe and, if asked for, layer sensitivities.

    Attributes:
        recipe: the solved codes, with the measured agreement.
        layers: every layer's sensitivity, where it was asked for.
    """

    recipe: Recipe
    layers: tuple[LayerSensitivity, ...] = ()


def _sensitivities(
    source: CanonicalModel, recipe: Recipe, pictures: Pictures, progress: Progress
) -> list[LayerSensitivity]:
    return sensitivities(source, recipe, pictures, lambda done, total: progress("sensitivity", done, total))


def quantize_program(
    program: ExportedProgram,
    loaded: LoadedModel,
    options: QuantizeOptions,
    *,
    report: bool = False,
    progress: Progress = no_progress,
    warn: Warn = lambda text: None,
    skip: Skip = refuse,
) -> Quantized:
    """Solve a recipe for a captured model, and measure the agreement of the quantized model.

    Args:
        program: as `edgevit.graph.capture.capture` gives it.
        loaded: the model.
        options: how.
        report: measure every layer's sensitivity.
        progress: called with the current stage of the work.
        warn: called with warnings of the pictures.
        skip: called for pictures of the labelled set that cannot be read, and are left out.

    Raises:
        UsageError: the request is wrong.
        BadFile: the pictures cannot be used.
        CheckFailed: the model gives values that are not finite.
    """
    options.check()
    rule = loaded.preprocessing
    source = source_of_program(program, loaded.spec.name, rule.size, len(loaded.labels))
    pictures = None
    if options.calib is not None:
        pictures = read_pictures(
            options.calib,
            rule,
            wanted=options.images,
            seed=options.seed,
            most_unreadable=options.most_unreadable,
            warn=warn,
        )
    recipe = _solve(source, options, pictures, {}, progress)
    layers: list[LayerSensitivity] = []
    if pictures is not None and (report or options.budget):
        layers = _sensitivities(source, recipe, pictures, progress)
        if options.budget and (kept := spend(layers, options.budget)):
            recipe = _solve(source, options, pictures, kept, progress)
    if pictures is not None or options.evaluate:
        labelled = (options.evaluate, loaded.labels, rule, options.limit) if options.evaluate else None
        progress("comparing with the float model", 0, 0)
        quantized = quantized_graph(source.make(), recipe)
        recipe = recipe.model_copy(
            update={"agreement": measure_agreement(source.make(), quantized, pictures, labelled, skip=skip)}
        )
    return Quantized(recipe, tuple(layers))


def _solve(
    source: CanonicalModel,
    options: QuantizeOptions,
    pictures: Pictures | None,
    kept: dict[str, str],
    progress: Progress,
) -> Recipe:
    if options.bits.activations is None:
        return solve_weights(source, options.bits, (*options.keep, *kept))
    assert pictures is not None
    return solve_recipe(
        source,
        find_quantizer(options.quantizer),
        pictures,
        bits=options.bits,
        keep=options.keep,
        kept=kept,
        exportable=options.exportable,
        progress=progress,
    )


def quantize_loaded(
    loaded: LoadedModel,
    options: QuantizeOptions,
    *,
    report: bool = False,
    progress: Progress = no_progress,
    warn: Warn = lambda text: None,
    skip: Skip = refuse,
) -> Quantized:
    """The same as `quantize_program` for a model that is not captured yet."""
    options.check()
    if options.bits.activations is not None:
        find_quantizer(options.quantizer)
    progress("capturing the program", 0, 0)
    program = capture(loaded.module, loaded.preprocessing.size)
    return quantize_program(program, loaded, options, report=report, progress=progress, warn=warn, skip=skip)


def check_floor(recipe: Recipe, floor: float | None) -> None:
    """Refuse a recipe whose accuracy or agreement is below the required floor.

    Raises:
        CheckFailed: its accuracy, or its agreement with the float model, is below.
    """
    found = recipe.agreement
    if floor is None or found is None:
        return
    value, what = (
        (found.top1, "agreement with the float model") if found.accuracy is None else (found.accuracy, "accuracy")
    )
    if value < floor:
        raise CheckFailed(
            f"the quantized model's {what} is {value:.2%}, below the floor of {floor:.2%}",
            where=f"{found.images} pictures of {found.dataset}",
            cure="try another --quantizer, more --images or --auto-mixed latency=1.2; --report shows the worst layers",
        )
