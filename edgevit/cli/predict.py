"""`edgevit predict`: what is in these pictures?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgevit.cli._skipped import Skipped
from edgevit.cli.console import Json, Quiet, examples, print_json, print_table, say_runtime
from edgevit.errors import BadFile


def register(app: typer.Typer) -> None:
    """Add the command ``predict`` to the command line."""
    app.command(
        epilog=examples(
            "predict build/tinyvit_digits/onnx-fp32 seven.png",
            "predict build/shvit_s4/litert-fp32 photos --top 3 --json",
        )
    )(predict)


def predict(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder.")],
    image: Annotated[list[Path], typer.Argument(metavar="PICTURE|FOLDER...", help="Pictures, or folders of pictures.")],
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="How many classes to show.")] = 5,
    max_megapixels: Annotated[float, typer.Option(help="Larger pictures are refused.")] = 40.0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Classify pictures with a bundle, in its own runtime; Core ML's off macOS is edgevit's evaluator.

    A picture that cannot be read is named and left out; exit status 2 at the end.
    """
    from edgevit.bundle.loaded import load
    from edgevit.data.folders import picture_paths

    deployed, skipped = load(bundle), Skipped()
    found = []
    for path in [path for given in image for path in (picture_paths(given) if given.is_dir() else [given])]:
        try:
            found.append((path, deployed.predict(path, top, max_megapixels)))
        except BadFile as error:
            skipped.add(str(path), error)
    if not found:
        skipped.raise_only()
    kind = deployed.bundle.manifest.output.kind
    if json:
        print_json(
            {
                "bundle": str(bundle),
                "runtime": deployed.runtime,
                "kind": kind,
                "predictions": [
                    {
                        "image": str(path),
                        "classes": [{"index": p.index, "label": p.label, "score": p.score} for p in best],
                    }
                    for path, best in found
                ],
                "skipped": skipped.document(),
            }
        )
        skipped.leave()
        return
    rows = [
        [str(path) if rank == 0 else "", p.label, f"{p.score:.1%}" if kind == "probabilities" else f"{p.score:.3f}"]
        for path, best in found
        for rank, p in enumerate(best)
    ]
    print_table(
        ["image", "class", "probability" if kind == "probabilities" else "logit"], rows, right=("probability", "logit")
    )
    say_runtime(deployed.runtime, quiet)
    skipped.leave()
