"""Obtains the recipe of a quantized export: read from a file or solved, and checked for the requested precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgevit.core.progress import Event, Listener
from edgevit.errors import UsageError
from edgevit.pipeline.options import ExportOptions
from edgevit.schema.choices import QUANTIZED
from edgevit.schema.manifest import QuantizationInfo
from edgevit.schema.recipe import LogCode, Recipe, TwinUniformCode, UniformCode, read_recipe

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from edgevit.models.load import LoadedModel

BITS = {"int8": "w8a8", "int8-dynamic": "w8a8-dynamic", "w8": "w8", "w4": "w4"}
"""What each precision is as ``--bits``."""


def precision_of(recipe: Recipe) -> str | None:
    """The precision that a recipe is for, or None where no runtime computes with its numbers of bits."""
    if recipe.dynamic:
        return "int8-dynamic"
    if recipe.activation_bits is None:
        return {8: "w8", 4: "w4"}.get(recipe.weight_bits)
    return "int8" if (recipe.weight_bits, recipe.activation_bits) == (8, 8) else None


def _unexportable(recipe: Recipe) -> str:
    """The parts of a recipe that no runtime executes, as shown to the user; empty where it can be exported."""
    codes = [*recipe.activations.values(), *(code for one in recipe.operands.values() for code in one.values())]
    kinds = {
        "twin-uniform codes": any(isinstance(code, TwinUniformCode) for code in codes),
        "logarithmic codes": any(isinstance(code, LogCode) for code in codes),
        "power-of-two factors": any(code.kind == "power-of-two-factor" for code in codes),
        "codes inside of attention and norms": bool(recipe.operands),
    }
    return ", ".join(name for name, found in kinds.items() if found)


def check_exportable(recipe: Recipe, precision: str) -> None:
    """Refuse a recipe that no file format can hold.

    Raises:
        UsageError: says what of it, and the nearest choice that can be exported.
    """
    why = _unexportable(recipe)
    again = f"edgevit quantize {recipe.model.name} --quantizer {recipe.quantizer}"
    if why:
        raise UsageError(
            f"the recipe can only be simulated: no runtime executes {why}",
            where=f"quantizer {recipe.quantizer}",
            cure=f"{again} --exportable leaves that out; or --quantizer qhyvit, all of which can be exported",
        )
    own = precision_of(recipe)
    if own is None:
        raise UsageError(
            f"no runtime computes with {recipe.weight_bits}-bit weights and {recipe.activation_bits}-bit activations",
            where="such a recipe can be simulated: edgevit evaluate MODEL DATASET --recipe FILE",
            cure=f"{again} --bits w8a8 is the nearest that can be exported",
        )
    if own != precision:
        raise UsageError(
            f"the recipe is for --precision {own}, not {precision}",
            cure=f"choose --precision {own}, or quantize again with --bits {BITS[precision]}",
        )
    assert all(isinstance(code, UniformCode) for code in recipe.activations.values())


def checked_recipe(options: ExportOptions) -> Recipe | None:
    """The recipe that options name, once they are known to go together; read here and nowhere else.

    Returns:
        None where no recipe is named.

    Raises:
        UsageError: says which.
    """
    if options.precision not in QUANTIZED:
        asked = {"--recipe": options.recipe, "--calib": options.calib, "--keep-fp16": options.keep_fp16}
        for name, given in {**asked, "--floor": options.floor}.items():
            if given:
                raise UsageError(f"{name} is for quantized exports", cure="add --precision int8")
        return None
    recipe = None
    if options.recipe is not None:
        if options.calib is not None or options.keep_fp16:
            raise UsageError(
                "a recipe says already what was calibrated and kept",
                cure="leave out --calib and --keep-fp16, or quantize again with them",
            )
        recipe = read_recipe(options.recipe)
        check_exportable(recipe, options.precision)
    if options.floor is not None and options.evaluate is None:
        raise UsageError("--floor needs pictures", cure="add --evaluate digits:test, or a folder of classes")
    if options.recipe is None and options.precision == "int8" and options.calib is None:
        raise UsageError(
            "int8 needs the ranges of activations",
            cure="add --recipe FILE from edgevit quantize, or --calib DIR (digits:train for a bundled model)",
        )
    return recipe


def solved_recipe(
    options: ExportOptions, program: ExportedProgram, loaded: LoadedModel, listen: Listener
) -> Recipe | None:
    """The recipe of an export that names none, solved on the pictures it names; None for floating point.

    Raises:
        UsageError: it cannot be exported so.
        BadFile: the pictures cannot be used.
    """
    if options.precision not in QUANTIZED:
        return None
    from edgevit.quant.options import QuantizeOptions, parse_bits
    from edgevit.quant.quantize import quantize_program

    def progress(stage: str, done: int, total: int) -> None:
        listen(Event(options.model, "loading", f"{stage} {done}/{total}" if total else stage))

    wanted = QuantizeOptions(
        calib=options.calib if options.precision == "int8" else None,
        quantizer=options.quantizer,
        bits=parse_bits(BITS[options.precision]),
        keep=options.keep_fp16,
        exportable=True,
    )
    return quantize_program(program, loaded, wanted, progress=progress).recipe


def describe_recipe(recipe: Recipe) -> QuantizationInfo:
    """What the manifest says of a recipe."""
    return QuantizationInfo(
        quantizer=recipe.quantizer,
        weight_bits=recipe.weight_bits,
        activation_bits=recipe.activation_bits,
        dynamic=recipe.dynamic,
        layers=len(recipe.weights),
        kept=len(recipe.kept),
        recipe=recipe.digest,
        calibration=recipe.calibration,
        agreement=recipe.agreement,
    )
