"""`edgevit export`: one model to one bundle a target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgevit.cli.console import (
    Json,
    Quiet,
    coloured,
    error_document,
    examples,
    note,
    print_error,
    print_json,
    print_table,
    size_text,
    warn,
)
from edgevit.cli.from_options import from_options
from edgevit.pipeline.options import ExportOptions

if TYPE_CHECKING:
    from rich.text import Text

    from edgevit.pipeline.export import ExportResult


LEAST_DELEGATED = 0.95
"""Share of the multiply-accumulate operations; below it, `export` warns."""


def register(app: typer.Typer) -> None:
    """Add the command ``export`` to the command line."""
    app.command(
        epilog=examples(
            "export tinyvit_digits -t coreml -t litert -t executorch -t onnx",
            "export shvit_s4 -t onnx --precision int8 --calib photos --weights shvit_s4.pth -o dist",
        ),
    )(export)


@from_options(ExportOptions)
def export(
    options: ExportOptions,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written, and stop.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Export a model, run what was written, compare it with PyTorch, and keep it only if it is right."""
    if dry_run:
        _plan(options, json)
        return
    from edgevit.cli.progress import listening
    from edgevit.pipeline.export import export as run_export

    with listening(quiet or json) as listen:
        results = run_export(options, listen)
    _report(results, json, quiet)
    failed = [result.error for result in results if result.error]
    if failed:
        raise typer.Exit(max(error.exit_code for error in failed))


def _plan(options: Any, json: bool) -> None:
    from edgevit.models.registry import find_model
    from edgevit.pipeline.cache import find
    from edgevit.pipeline.describe import cache_key, model_folder, resolve_targets
    from edgevit.pipeline.export import check_destinations
    from edgevit.pipeline.recipes import checked_recipe
    from edgevit.schema.target import folder_name

    find_model(options.model)
    rows, wanted, recipe = [], resolve_targets(options), checked_recipe(options)
    check_destinations(options, wanted)
    for runtime in wanted:
        key = cache_key(options, runtime, recipe) if options.cache else None
        path = options.out / model_folder(options.model) / folder_name(runtime, options.precision)
        rows.append(
            {"target": runtime.name, "bundle": str(path), "cached": bool(key and find(key)), "replaces": path.exists()}
        )
    if json:
        print_json({"plan": rows})
        return
    print_table(
        ["target", "bundle", "from cache", "replaces"],
        [
            [row["target"], row["bundle"], "yes" if row["cached"] else "no", "yes" if row["replaces"] else "no"]
            for row in rows
        ],
    )


def _report(results: list[ExportResult], json: bool, quiet: bool) -> None:
    if json:
        print_json({"results": [_document(result) for result in results]})
    elif not quiet or any(result.ok for result in results):
        print_table(
            ["target", "verdict", "error", "limit", "discrimination", "size", "seconds", "peak memory", "bundle"],
            [_row(result) for result in results],
            right=("error", "limit", "discrimination", "size", "seconds", "peak memory"),
        )
    for result in results:
        if result.error:
            print_error(result.error)
    if not json:
        for result in results:
            if result.manifest and result.manifest.lowering and result.manifest.lowering.note:
                warn(f"{result.target}: {result.manifest.lowering.note}")
    if not quiet and not json:
        _warn_of_fallbacks(results)
    waiting = [
        r for r in results if r.ok and r.manifest and r.manifest.verdict and r.manifest.verdict.status == "not_run"
    ]
    if waiting and not quiet and not json:
        for result in waiting:
            assert result.manifest is not None and result.manifest.verdict is not None
            note(f"{result.target} was not executed: {result.manifest.verdict.reasons[0]}")


def _warn_of_fallbacks(results: list[ExportResult]) -> None:
    """Name the files whose work is not all done by the runtime's accelerated part."""
    for result in results:
        share = result.manifest.lowering.delegated_share if result.manifest and result.manifest.lowering else None
        if result.ok and share is not None and share < LEAST_DELEGATED:
            warn(
                f"only {share:.0%} of the multiply-accumulates of {result.target} are delegated; "
                f"edgevit inspect {result.path} names the rest"
            )


def artifact_bytes(result: ExportResult) -> int:
    """Size of the model file or package."""
    if result.manifest is None or result.manifest.files is None:
        return 0
    entry = result.manifest.entry
    return sum(file.bytes for file in result.manifest.files if file.path == entry or file.path.startswith(entry + "/"))


def _row(result: ExportResult) -> list[str | Text]:
    manifest = result.manifest
    if manifest is None or manifest.verdict is None or manifest.lowering is None:
        return [result.target, coloured("conversion failed", "red"), "", "", "", "", "", "", ""]
    verdict, lowering = manifest.verdict, manifest.lowering
    colours = {"passed": "green", "failed": "red", "not_run": "yellow"}
    word = verdict.status.replace("_", " ")
    return [
        result.target,
        coloured(word, colours[verdict.status]),
        f"{verdict.error:.1e}" if verdict.error is not None else "–",
        f"{verdict.tolerance:.1e}" if verdict.tolerance is not None else "–",
        f"{verdict.discrimination:.3g}" if verdict.discrimination is not None else "–",
        size_text(artifact_bytes(result)),
        "cached" if result.cached else f"{lowering.seconds:.1f}",
        size_text(lowering.peak_memory_bytes),
        str(result.path),
    ]


def _document(result: ExportResult) -> dict[str, Any]:
    manifest = result.manifest
    return {
        "target": result.target,
        "ok": result.ok,
        "path": str(result.path) if result.path else None,
        "cached": result.cached,
        "bytes": artifact_bytes(result),
        "verdict": manifest.verdict.model_dump(mode="json") if manifest and manifest.verdict else None,
        "lowering": manifest.lowering.model_dump(mode="json") if manifest and manifest.lowering else None,
        "error": error_document(result.error) if result.error else None,
    }
