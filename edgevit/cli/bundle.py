"""`edgevit bundle`: show a bundle, check its files, print its bill of materials."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgevit.cli.console import Json, examples, print_json, print_table, size_text, stdout

BundleArgument = Annotated[Path, typer.Argument(help="A bundle folder.")]


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(help="Show a bundle, check its files, print its bill of materials.", no_args_is_help=True)
    group.command(
        epilog=examples("bundle show build/shvit_s4/onnx-fp32", "bundle show build/shvit_s4/onnx-fp32 --json")
    )(show)
    group.command(epilog=examples("bundle check build/shvit_s4/onnx-fp32", "bundle check download --json"))(check)
    group.command(
        epilog=examples("bundle sbom build/shvit_s4/onnx-fp32", "bundle sbom build/shvit_s4/onnx-fp32 > sbom.json")
    )(sbom)
    app.add_typer(group, name="bundle")


def show(path: BundleArgument, json: Json = False) -> None:
    """Print the manifest and the files."""
    from edgevit.bundle.read import read_bundle

    manifest = read_bundle(path).manifest
    if json:
        print_json({"bundle": str(path), "manifest": manifest.model_dump(mode="json", exclude_none=True)})
        return
    stdout().print(
        (path / "README.md").read_text(encoding="utf-8") if (path / "README.md").is_file() else manifest.model.name,
    )
    print_table(
        ["file", "size", "sha256"],
        [[f.path, size_text(f.bytes), f.sha256[:16]] for f in manifest.files or ()],
        right=("size",),
    )


def check(path: BundleArgument, json: Json = False) -> None:
    """Check every file's size and hash; nothing is executed."""
    from edgevit.bundle.read import read_bundle

    files = read_bundle(path).manifest.files or ()
    if json:
        print_json({"bundle": str(path), "ok": True, "files": len(files)})
    else:
        stdout().print(f"{path}: {len(files)} files, all as the manifest says")


def sbom(path: BundleArgument) -> None:
    """Print the CycloneDX bill of materials (JSON)."""
    from edgevit.bundle.read import read_bundle
    from edgevit.bundle.sbom import FILE

    typer.echo((read_bundle(path).path / FILE).read_text(encoding="utf-8"), nl=False)
