"""`edgevit evaluate`: accuracy of a model or a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgevit.cli._skipped import Skipped
from edgevit.cli.console import Json, Quiet, counted, examples, print_json, print_table, say_notes, say_runtime
from edgevit.cli.options import ClassesOption, LabelsOption, SeedOption, SizeOption, WeightsOption, model_options
from edgevit.core.disk import explained_disk_errors
from edgevit.core.files import write_whole
from edgevit.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the command ``evaluate`` to the command line."""
    app.command(
        epilog=examples(
            "evaluate build/tinyvit_digits/onnx-fp32 digits:test",
            "evaluate tinyvit_digits digits:test --predictions torch.csv",
        )
    )(evaluate)


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL|BUNDLE", help="A bundle folder, or a model name for PyTorch.")],
    dataset: Annotated[str, typer.Argument(help="digits:train, digits:test, or a folder with one sub-folder a class.")],
    weights: WeightsOption = "pretrained",
    num_classes: ClassesOption = None,
    labels: LabelsOption = None,
    size: SizeOption = None,
    seed: SeedOption = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many pictures.")] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Of a model name: quantized as `edgevit quantize` wrote it, simulated."),
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write index,truth,prediction of every picture as CSV.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure accuracy on labelled pictures.

    Pictures that cannot be read are named and left out; exit status 2 at the end.
    """
    from edgevit.bundle.loaded import load
    from edgevit.bundle.read import is_bundle
    from edgevit.verify.evaluate import evaluate_bundle, evaluate_model, torch_title

    if recipe is not None and is_bundle(Path(model)):
        raise UsageError("a bundle is quantized already", cure="leave out --recipe, or name the model")
    skipped = Skipped()
    with counted(limit, "evaluating", quiet or json) as advance:
        if is_bundle(Path(model)):
            deployed = load(Path(model))
            found = evaluate_bundle(deployed, dataset, limit=limit, advance=advance, skip=skipped.add)
            runtime = deployed.runtime
        else:
            from edgevit.models.load import load_model

            loaded = load_model(model, **model_options(weights, num_classes, labels, size, seed))
            say_notes(loaded.notes, quiet or json)
            if recipe is not None:
                from edgevit.quant.simulate import simulated
                from edgevit.schema.recipe import read_recipe

                loaded = simulated(loaded, read_recipe(recipe))
            found = evaluate_model(loaded, dataset, limit=limit, advance=advance, skip=skipped.add)
            runtime = torch_title()
    if predictions:
        lines = [
            "index,truth,prediction",
            *(f"{i},{t},{p}" for i, (t, p) in enumerate(zip(found.truth, found.predictions, strict=True))),
        ]
        with explained_disk_errors(predictions):
            write_whole(predictions, ("\n".join(lines) + "\n").encode())
    if json:
        document = {"model": model, "dataset": dataset, "runtime": runtime}
        print_json({**document, "accuracy": found.accuracy, "count": found.count, "skipped": skipped.document()})
        skipped.leave()
        return
    print_table(
        ["model", "data set", "pictures", "accuracy"],
        [[model, dataset, str(found.count), f"{found.accuracy:.2%}"]],
        right=("pictures", "accuracy"),
    )
    say_runtime(runtime, quiet)
    skipped.leave()
