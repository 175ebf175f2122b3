"""`edgevit predict`: what is in these pictures?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgevit.cli.console import Json, Quiet, examples, print_json, print_table, say_runtime


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog=examples(
            "predict build/tinyvit_digits/onnx-fp32 seven.png",
            "predict build/shvit_s4/litert-fp32 photos/*.jpg --top 3 --json",
        )
    )(predict)


def predict(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder.")],
    image: Annotated[list[Path], typer.Argument(help="Pictures.")],
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="How many classes to show.")] = 5,
    max_megapixels: Annotated[float, typer.Option(help="Larger pictures are refused.")] = 40.0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Classify pictures with a bundle, in its own runtime; Core ML's off macOS is edgevit's evaluator."""
    from edgevit.bundle.deployed import load

    deployed = load(bundle)
    found = [(path, deployed.predict(path, top, max_megapixels)) for path in image]
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
            }
        )
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
