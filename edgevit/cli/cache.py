"""`edgevit cache`: see and empty what edgevit keeps to save time."""

from __future__ import annotations

from typing import Annotated

import typer

from edgevit.cli.console import Json, examples, print_json, print_table, size_text, stderr, stdout


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(help="See and empty what edgevit keeps to save time.", no_args_is_help=True)
    group.command(epilog=examples("cache show", "cache show --json"))(show)
    group.command(epilog=examples("cache clear", "cache clear split web"))(clear)
    app.add_typer(group, name="cache")


def show(json: Json = False) -> None:
    """Show what the cache holds by kind, and its bundles, the latest first."""
    from time import localtime, strftime

    from edgevit.bundle.read import read_bundle
    from edgevit.core.files import cache_folder
    from edgevit.errors import EdgevitError
    from edgevit.pipeline.cache import areas, entries

    kinds = areas()
    rows = []
    for entry in entries():
        try:
            manifest = read_bundle(entry.path, check=False).manifest
            name, target = manifest.model.name, f"{manifest.target.runtime} {manifest.target.precision}"
        except EdgevitError:
            name, target = "damaged", ""
        rows.append(
            {
                "key": entry.key,
                "model": name,
                "target": target,
                "bytes": entry.bytes,
                "used": strftime("%Y-%m-%d %H:%M", localtime(entry.modified)),
            }
        )
    if json:
        kept = {kind.name: {"entries": len(kind.paths), "bytes": kind.bytes} for kind in kinds}
        print_json({"folder": str(cache_folder()), "kinds": kept, "bundles": rows})
        return
    stdout().print(f"{cache_folder()}: {size_text(sum(kind.bytes for kind in kinds))}", markup=False)
    print_table(
        ["kind", "holds", "entries", "size"],
        [[kind.name, kind.what, str(len(kind.paths)), size_text(kind.bytes)] for kind in kinds],
        right=("entries", "size"),
    )
    if rows:
        print_table(
            ["model", "target", "size", "last used"],
            [[str(r["model"]), str(r["target"]), size_text(int(str(r["bytes"]))), str(r["used"])] for r in rows],
            right=("size",),
        )


def clear(
    kinds: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KIND]...", help="As `cache show` names them, or `all`; finished bundles if not given."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Remove what can be made or fetched again: finished bundles, or the kinds named."""
    from edgevit.pipeline.cache import areas
    from edgevit.pipeline.cache import clear as run_clear

    every = [kind.name for kind in areas()]
    chosen = every if kinds and "all" in kinds else kinds or every[:1]
    freed = run_clear(chosen)
    left = [kind for kind in areas() if kind.paths]
    if json:
        print_json({"freed_bytes": freed, "left_bytes": {kind.name: kind.bytes for kind in left}})
        return
    stdout().print(f"freed {size_text(freed)}")
    for kind in left:
        stderr().print(f"{kind.what} stay ({size_text(kind.bytes)}): edgevit cache clear {kind.name}", style="dim")
