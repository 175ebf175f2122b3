"""`edgevit cache`: see and empty the build cache."""

from __future__ import annotations

import typer

from edgevit.cli.console import Json, examples, print_json, print_table, size_text, stdout


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(help="See and empty the build cache.", no_args_is_help=True)
    group.command(epilog=examples("cache show", "cache show --json"))(show)
    group.command(epilog=examples("cache clear", "cache clear --json"))(clear)
    app.add_typer(group, name="cache")


def show(json: Json = False) -> None:
    """List the cached bundles, the latest first."""
    from time import localtime, strftime

    from edgevit.bundle.read import read_bundle
    from edgevit.core.files import cache_folder
    from edgevit.errors import EdgevitError
    from edgevit.pipeline.cache import entries

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
        print_json({"folder": str(cache_folder()), "bundles": rows})
        return
    stdout().print(
        f"{cache_folder()}: {len(rows)} bundles, {size_text(sum(entry.bytes for entry in entries()))}", markup=False
    )
    if rows:
        print_table(
            ["model", "target", "size", "last used"],
            [[str(r["model"]), str(r["target"]), size_text(int(str(r["bytes"]))), str(r["used"])] for r in rows],
            right=("size",),
        )


def clear(json: Json = False) -> None:
    """Remove every cached bundle."""
    from edgevit.pipeline.cache import clear as run_clear

    freed = run_clear()
    if json:
        print_json({"freed_bytes": freed})
    else:
        stdout().print(f"freed {size_text(freed)}")
