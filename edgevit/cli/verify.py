"""`edgevit verify`: the verdict again."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgevit.cli._skipped import Skipped
from edgevit.cli.console import (
    Json,
    Quiet,
    coloured,
    examples,
    headed,
    print_json,
    print_table,
    say_notes,
    stderr,
    stdout,
)
from edgevit.cli.options import ClassesOption, LabelsOption, SeedOption, SizeOption, WeightsOption, model_options

if TYPE_CHECKING:
    from rich.text import Text

    from edgevit.bundle.read import Bundle
    from edgevit.models.load import LoadedModel
    from edgevit.schema.choices import OutputKind
    from edgevit.schema.manifest import Manifest, VerdictInfo
    from edgevit.verify.hazards import HazardReport


def register(app: typer.Typer) -> None:
    """Add the command ``verify`` to the command line."""
    app.command(
        epilog=examples(
            "verify build/tinyvit_digits/coreml-fp16 --hazards",
            "verify mine.mlpackage --reference shvit_s4 --weights shvit_s4.pth --images photos",
        ),
    )(verify)


def verify(
    artifact: Annotated[
        list[Path], typer.Argument(metavar="BUNDLE|FILE...", help="Bundle folders, or model files with --reference.")
    ],
    reference: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Compare with this PyTorch model, not with the golden outputs.")
    ] = None,
    weights: WeightsOption = "pretrained",
    num_classes: ClassesOption = None,
    labels: LabelsOption = None,
    size: SizeOption = None,
    seed: SeedOption = 0,
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Further pictures; needs --reference or --hazards.")
    ] = None,
    bisect: Annotated[
        bool, typer.Option("--bisect", help="If it fails, find the first operator that departs; needs --reference.")
    ] = False,
    hazards: Annotated[
        bool, typer.Option("--hazards", help="Find the operations of a Core ML program at which fp16 goes wrong.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check a bundle's files, its preprocessing, and that it still computes what PyTorch computed.

    A lone model file is compared with a PyTorch model. Exit status 3 if any fails, or if --hazards
    finds that results of an fp16 program overflow.
    """
    from edgevit.errors import UsageError

    if bisect and reference is None:
        raise UsageError("--bisect needs PyTorch's answers", cure="name the model: --reference MODEL")
    if images and reference is None and not hazards:
        raise UsageError("--images needs PyTorch's answers", cure="name the model: --reference MODEL")
    skipped = Skipped()
    loaded = None
    if reference is not None:
        from edgevit.models.load import load_model

        output: OutputKind = "features" if _all_features(artifact) else "logits"
        loaded = load_model(reference, **model_options(weights, num_classes, labels, size, seed), output=output)
        say_notes(loaded.notes, quiet or json)
    checked = [_check(path, loaded, images, bisect, hazards, skipped) for path in artifact]
    export = _export_options(weights, num_classes, labels, size, seed)
    _report(checked, export, skipped, json, quiet)
    if any(one.verdict.status == "failed" or (one.hazards and one.hazards.broken) for one in checked):
        raise typer.Exit(3)
    skipped.leave()


def _export_options(
    weights: str, num_classes: int | None, labels: Path | None, size: int | None, seed: int
) -> list[str]:
    """The options that `export` needs to make the same model again."""
    given: dict[str, Any] = {"--weights": weights if weights != "pretrained" else None, "--num-classes": num_classes}
    given |= {"--labels": labels, "--size": size, "--seed": seed or None}
    return [part for name, value in given.items() if value is not None for part in (name, str(value))]


def _all_features(artifacts: list[Path]) -> bool:
    """Whether the reference needs no classifier: there may be none in its weights."""
    from edgevit.bundle.read import bundle_at

    bundles = [bundle_at(path) for path in artifacts]
    return all(bundle is not None and bundle.manifest.output.kind == "features" for bundle in bundles)


@dataclass(frozen=True)
class _Checked:
    """The result for one artifact: path, manifest, verdict, and hazards if they were requested."""

    path: Path
    model: str
    manifest: Manifest | None
    verdict: VerdictInfo
    hazards: HazardReport | None


def _check(
    path: Path, loaded: LoadedModel | None, images: Path | None, bisect: bool, hazards: bool, skipped: Skipped
) -> _Checked:
    from edgevit.bundle.read import bundle_at
    from edgevit.errors import UsageError

    bundle = bundle_at(path)
    if bundle is not None:
        return _check_bundle(bundle, loaded, images, bisect, hazards, skipped)
    from edgevit.backends.base import backend_of

    backend_of(path)
    if loaded is None:
        raise UsageError(
            f"{path.name} is a lone file: nothing says what it should compute", cure="name the model: --reference MODEL"
        )
    if bisect:
        raise UsageError("--bisect needs a bundle", where=str(path), cure="edgevit export writes one")
    from edgevit.verify.file import verify_file
    from edgevit.verify.hazards import file_hazards

    found = verify_file(path, loaded, images=images, skip=skipped.add)
    report = file_hazards(path, found.inputs) if hazards else None
    return _Checked(path, loaded.spec.name, None, found.verdict, report)


def _check_bundle(
    bundle: Bundle, loaded: LoadedModel | None, images: Path | None, bisect: bool, hazards: bool, skipped: Skipped
) -> _Checked:
    from edgevit.verify.bundle import verify_bundle
    from edgevit.verify.hazards import bundle_hazards

    with_images = images if loaded else None
    verdict = verify_bundle(bundle, reference=loaded.module if loaded else None, images=with_images, skip=skipped.add)
    if verdict.status == "failed" and bisect and loaded:
        from edgevit.verify.bisect import bisect_bundle

        verdict = verdict.model_copy(update={"reasons": (*verdict.reasons, bisect_bundle(bundle, loaded).sentence())})
    skip = (lambda name, error: None) if with_images else skipped.add  # of these the verdict has told already
    report = bundle_hazards(bundle, images, skip=skip) if hazards else None
    return _Checked(bundle.path, bundle.manifest.model.name, bundle.manifest, verdict, report)


def _report(checked: list[_Checked], export: list[str], skipped: Skipped, json: bool, quiet: bool) -> None:
    if json:
        print_json({"verdicts": [_document(one) for one in checked], "skipped": skipped.document()})
        return
    print_table(
        ["artifact", "verdict", "error", "limit", "discrimination", "top-1", "runtime"],
        [_row(one.path, one.verdict) for one in checked],
        right=("error", "limit", "discrimination"),
    )
    for one in checked:
        for reason in one.verdict.reasons if not quiet or one.verdict.status == "failed" else ():
            stderr().print(f"{one.path}: {reason}")
        if one.hazards is not None:
            _report_hazards(one, one.hazards, export)


def _report_hazards(one: _Checked, report: HazardReport, export: list[str]) -> None:
    as_what = "as the program rounds" if report.half else "as its fp16 version would round"
    stdout().print(
        f"\n{one.path}: {len(report.hazards)} fp16 hazards in {report.operations} operations "
        f"on {report.inputs} pictures, {as_what}",
    )
    if not report.hazards:
        return
    print_table(
        ["hazard", "operator", "operation", "module", "value", "limit"],
        [[h.kind, h.operator, h.operation, h.module or "–", f"{h.value:.3g}", f"{h.limit:g}"] for h in report.hazards],
        right=("value", "limit"),
    )
    stderr().print(
        headed(
            "→",
            "green",
            shlex.join(export_again(one.model, one.manifest, report.keep(), export, one.path / "labels.txt")),
        )
    )


def export_again(
    model: str,
    manifest: Manifest | None,
    keep: tuple[str, ...],
    given: list[str],
    labels: Path | None = None,
) -> list[str]:
    """The export command that makes the same model with more of it in fp32.

    Args:
        model: its name.
        manifest: of the bundle that was looked at; says what it takes and gives, and what was kept before.
        keep: patterns for ``--keep-fp32``.
        given: options that this command had for the model; where there are none, the manifest's.
        labels: the bundle's file of them.
    """
    target, kept = "coreml", keep
    options = [*given]
    if manifest is not None:
        weights, size = manifest.model.weights, manifest.preprocess.size
        target = manifest.target.runtime
        kept = tuple(dict.fromkeys((*manifest.target.keep_fp32, *keep)))
        if not given and weights.kind != "pretrained":
            options += ["--weights", "random" if weights.kind == "random" else weights.source]
        if "--size" not in options and size[0] == size[1] and size != _own_size(model):
            options += ["--size", str(size[0])]
        options += _own_head(model, manifest, labels) if not given else []
        options += ["--input", manifest.input.kind] if manifest.input.kind != "image" else []
        options += ["--output", manifest.output.kind] if manifest.output.kind != "probabilities" else []
        options += [part for name in manifest.target.rewrites for part in ("--rewrites", name)]
    patterns = [part for pattern in kept for part in ("--keep-fp32", pattern)]
    return ["edgevit", "export", model, *options, "-t", target, "--precision", "fp16", *patterns]


def _own_head(model: str, manifest: Manifest, labels: Path | None) -> list[str]:
    """The options that give a model the bundle's classes, where they are not its usual ones."""
    from edgevit.errors import EdgevitError
    from edgevit.models.registry import find_model

    try:
        usual = find_model(model).num_classes
    except EdgevitError:
        return []
    if manifest.output.kind == "features" or manifest.output.classes == usual:
        return []
    return ["--num-classes", str(manifest.output.classes)] + (["--labels", str(labels)] if labels else [])


def _own_size(model: str) -> tuple[int, int] | None:
    """The default input size (H, W) of a model in pixels; None where the name is not known."""
    from edgevit.errors import EdgevitError
    from edgevit.models.registry import find_model

    try:
        return find_model(model).preprocessing.size
    except EdgevitError:
        return None


def _document(one: _Checked) -> dict[str, Any]:
    document = {"bundle": str(one.path), **one.verdict.model_dump(mode="json")}
    if one.hazards is not None:
        document["hazards"] = {
            "half": one.hazards.half,
            "operations": one.hazards.operations,
            "inputs": one.hazards.inputs,
            "found": [asdict(hazard) for hazard in one.hazards.hazards],
            "keep_fp32": list(one.hazards.keep()),
        }
    return document


def _row(path: Path, verdict: VerdictInfo) -> list[str | Text]:
    colour = {"passed": "green", "failed": "red", "not_run": "yellow"}[verdict.status]

    def number(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    return [
        str(path),
        coloured(verdict.status.replace("_", " "), colour),
        number(verdict.error, ".1e"),
        number(verdict.tolerance, ".2g"),
        number(verdict.discrimination, ".3g"),
        {True: "equal", False: "differs", None: "–"}[verdict.top1_equal],
        verdict.runtime,
    ]
