"""`edgevit quantize`: one recipe for all formats."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgevit.cli._skipped import Skipped
from edgevit.cli.console import Json, Quiet, examples, literal, print_json, print_table, stderr, warn
from edgevit.cli.options import (
    CalibOption,
    ClassesOption,
    EvaluateOption,
    FloorOption,
    KeepFp16Option,
    LabelsOption,
    QuantizerOption,
    SeedOption,
    SizeOption,
    WeightsOption,
    model_options,
)

if TYPE_CHECKING:
    from edgevit.quant.quantize import Quantized
    from edgevit.quant.solve import Progress


def register(app: typer.Typer) -> None:
    """Add the command ``quantize`` to the command line."""
    app.command(
        epilog=examples(
            "quantize tinyvit_digits --calib digits:train --evaluate digits:test -o tinyvit.json",
            "quantize mobilevitv2_100 --calib photos --quantizer hyq --floor 0.98 --report layers.html -o v2.json",
        ),
    )(quantize)


def quantize(
    model: Annotated[str, typer.Argument(help="A name from `edgevit models`, or any other that `export` takes.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="RECIPE", help="The recipe to write, a JSON file.")],
    calib: CalibOption = None,
    quantizer: QuantizerOption = "qhyvit",
    bits: Annotated[
        str, typer.Option(metavar="wXaY|wX|w8a8-dynamic", help="Of weights and activations, or of weights only.")
    ] = "w8a8",
    images: Annotated[int, typer.Option(help="Pictures to calibrate on.")] = 32,
    calib_seed: Annotated[int, typer.Option(help="Of the choice of pictures.")] = 0,
    keep_fp16: KeepFp16Option = None,
    auto_mixed: Annotated[
        str | None,
        typer.Option(
            metavar="size=X|latency=X",
            help="Keep the most sensitive layers in floating point, for at most X times the size or latency.",
        ),
    ] = None,
    exportable: Annotated[
        bool, typer.Option("--exportable", help="Leave out what no runtime can execute, whatever the paper has.")
    ] = False,
    evaluate: EvaluateOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Evaluate on the first so many pictures only.")] = None,
    floor: FloorOption = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every layer's sensitivity as one HTML page.")
    ] = None,
    max_unreadable: Annotated[
        float, typer.Option(min=0, max=1, help="Share of pictures that may be skipped because they cannot be read.")
    ] = 0.1,
    weights: WeightsOption = "pretrained",
    num_classes: ClassesOption = None,
    labels: LabelsOption = None,
    size: SizeOption = None,
    seed: SeedOption = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Solve the scales of a quantized model once, for all formats, and measure what it does."""
    from edgevit.pipeline.quantize import quantize as run_quantize
    from edgevit.quant.options import QuantizeOptions, parse_bits, parse_budget

    options = QuantizeOptions(
        calib=calib,
        quantizer=quantizer,
        bits=parse_bits(bits),
        images=images,
        seed=calib_seed,
        keep=tuple(keep_fp16 or ()),
        exportable=exportable,
        budget=parse_budget(auto_mixed) if auto_mixed else None,
        most_unreadable=max_unreadable,
        floor=floor,
        evaluate=evaluate,
        limit=limit,
    )
    skipped = Skipped()
    with following(quiet or json) as progress:
        found = run_quantize(
            model,
            options,
            out,
            report=report,
            progress=progress,
            warn=warn,
            skip=skipped.add,
            **model_options(weights, num_classes, labels, size, seed),
        )
    if json:
        print_json(_document(found, out, report))
    else:
        _show(found, out, report)
    skipped.leave()


@contextmanager
def following(quiet: bool) -> Iterator[Progress]:
    """Context manager: shows progress as a bar on a terminal, one line for each stage elsewhere."""
    console = stderr()
    if quiet:
        yield lambda stage, done, total: None
        return
    if not console.is_terminal:
        told: set[str] = set()

        def say(stage: str, done: int, total: int) -> None:  # noqa: ARG001
            name = stage.partition(",")[0]
            if name not in told:
                told.add(name)
                console.print(name, style="dim")

        yield say
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("loading", total=None)
        yield lambda stage, done, total: bar.update(
            task, description=literal(stage), completed=done, total=total or None
        )


def _document(found: Quantized, out: Path, report: Path | None) -> dict[str, Any]:
    recipe = found.recipe
    return {
        "recipe": str(out),
        "report": str(report) if report else None,
        "quantizer": recipe.quantizer,
        "weight_bits": recipe.weight_bits,
        "activation_bits": recipe.activation_bits,
        "layers": len(recipe.weights),
        "folds": len(recipe.folds),
        "kept": {recipe.modules.get(name) or name: why for name, why in recipe.kept.items()},
        "calibration": recipe.calibration.model_dump(mode="json") if recipe.calibration else None,
        "agreement": recipe.agreement.model_dump(mode="json") if recipe.agreement else None,
        "sensitivity": [one.to_dict() for one in found.layers],
    }


def _show(found: Quantized, out: Path, report: Path | None) -> None:
    recipe, agreement = found.recipe, found.recipe.agreement
    bits = f"W{recipe.weight_bits}" + (f"A{recipe.activation_bits}" if recipe.activation_bits else "")
    row = [recipe.model.name, recipe.quantizer, bits, f"{len(recipe.weights)} of {len(recipe.modules)}"]
    columns = ["model", "quantizer", "bits", "layers"]
    if agreement is not None:
        columns += ["measured on", "same answer as float"]
        row += [f"{agreement.images} of {agreement.dataset}", f"{agreement.top1:.2%}"]
        if agreement.accuracy is not None and agreement.float_accuracy is not None:
            columns += ["accuracy", "float"]
            row += [f"{agreement.accuracy:.2%}", f"{agreement.float_accuracy:.2%}"]
    print_table(columns, [row])
    for one in sorted(found.layers, key=lambda one: -one.divergence)[:3]:
        stderr().print(f"sensitive: {one.module or one.name}, {one.divergence:.2g} nats alone", style="dim")
    pages = f" and {report}" if report else ""
    stderr().print(f"wrote {out}{pages}", style="dim")
