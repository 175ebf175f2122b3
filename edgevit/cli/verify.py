"""`edgevit verify`: the verdict again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgevit.cli.console import Json, Quiet, examples, print_json, print_table, stderr
from edgevit.cli.options import ClassesOption, LabelsOption, SeedOption, SizeOption, WeightsOption, model_options

if TYPE_CHECKING:
    from edgevit.bundle.read import Bundle
    from edgevit.core.manifest import VerdictInfo


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog=examples(
            "verify build/tinyvit_digits/onnx-fp32",
            "verify build/shvit_s4/* --reference shvit_s4 --weights shvit_s4.pth --images photos",
        ),
    )(verify)


def verify(
    bundle: Annotated[list[Path], typer.Argument(help="Bundle folders.")],
    reference: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Compare with this PyTorch model, not with the golden outputs.")
    ] = None,
    weights: WeightsOption = "pretrained",
    num_classes: ClassesOption = None,
    labels: LabelsOption = None,
    size: SizeOption = None,
    seed: SeedOption = 0,
    images: Annotated[Path | None, typer.Option(metavar="DIR", help="Further pictures; needs --reference.")] = None,
    bisect: Annotated[
        bool, typer.Option("--bisect", help="If it fails, find the first operator that departs; needs --reference.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check a bundle's files, its preprocessing, and that it still computes what PyTorch computed.

    Exit status 3 if any bundle fails.
    """
    from edgevit.bundle.read import read_bundle
    from edgevit.errors import UsageError
    from edgevit.verify.check import verify_bundle

    if (bisect or images) and reference is None:
        raise UsageError(
            f"--{'bisect' if bisect else 'images'} needs PyTorch's answers", cure="name the model: --reference MODEL"
        )
    bundles = [read_bundle(path) for path in bundle]
    loaded = None
    if reference is not None:
        from edgevit.models.load import load_model

        loaded = load_model(reference, **model_options(weights, num_classes, labels, size, seed))
    verdicts = []
    for one in bundles:
        verdict = verify_bundle(one, reference=loaded.module if loaded else None, images=images)
        if verdict.status == "failed" and bisect and loaded:
            from edgevit.verify.bisect import bisect_bundle

            verdict = verdict.model_copy(update={"reasons": (*verdict.reasons, bisect_bundle(one, loaded).sentence())})
        verdicts.append(verdict)
    _report(bundles, verdicts, json, quiet)
    if any(verdict.status == "failed" for verdict in verdicts):
        raise typer.Exit(3)


def _report(bundles: list[Bundle], verdicts: list[VerdictInfo], json: bool, quiet: bool) -> None:
    pairs = list(zip(bundles, verdicts, strict=True))
    if json:
        print_json({"verdicts": [_document(bundle, verdict) for bundle, verdict in pairs]})
        return
    print_table(
        ["bundle", "verdict", "error", "limit", "discrimination", "top-1", "runtime"],
        [_row(bundle, verdict) for bundle, verdict in pairs],
        right=("error", "limit", "discrimination"),
    )
    for bundle, verdict in pairs:
        for reason in verdict.reasons if not quiet or verdict.status == "failed" else ():
            stderr().print(f"{bundle.path}: {reason}", markup=False)


def _document(bundle: Bundle, verdict: VerdictInfo) -> dict[str, Any]:
    return {"bundle": str(bundle.path), **verdict.model_dump(mode="json")}


def _row(bundle: Bundle, verdict: VerdictInfo) -> list[str]:
    colour = {"passed": "green", "failed": "red", "not_run": "yellow"}[verdict.status]

    def number(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    return [
        str(bundle.path),
        f"[{colour}]{verdict.status.replace('_', ' ')}[/]",
        number(verdict.error, ".1e"),
        number(verdict.tolerance, "g"),
        number(verdict.discrimination, ".3g"),
        {True: "equal", False: "differs", None: "–"}[verdict.top1_equal],
        verdict.runtime,
    ]
