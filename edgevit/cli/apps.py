"""`edgevit app`: start an app around a bundle."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgevit.cli.console import Json, examples, print_json, print_table, stdout

if TYPE_CHECKING:
    from edgevit.templates.template import Template

SourceArgument = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder; for the fleet app a plan's, from `edgevit split`.")
]


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(help="Start an app around a bundle: web, Raspberry Pi, Android, iOS.", no_args_is_help=True)
    group.command("list", epilog=examples("app list", "app list --json"))(show)
    group.command(epilog=examples("app new web build/tiny_vit_5m_224/onnx-fp32 my-app", "app new fleet plan my-fleet"))(
        new
    )
    group.command(
        epilog=examples(
            "app update my-app build/tiny_vit_5m_224/onnx-int8", "app update my-app build/shvit_s4/litert-fp32"
        )
    )(update)
    app.add_typer(group, name="app")


def show(json: Json = False) -> None:
    """Show the templates, what each runs, and how far it is tested."""
    from edgevit.templates.template import templates

    found = templates()
    if json:
        print_json({"templates": [{"name": one.name, **one.info.model_dump(mode="json")} for one in found.values()]})
        return
    print_table(
        ["template", "what it is", "runs", "needs", "tested"],
        [
            [one.name, one.info.title, ", ".join(one.info.backends) or one.info.takes, one.info.needs, one.info.tested]
            for one in found.values()
        ],
    )


def new(
    template: Annotated[str, typer.Argument(help="Which one; see `edgevit app list`.")],
    bundle: SourceArgument,
    out: Annotated[Path, typer.Argument(metavar="DIR", help="The app's folder; one that is in use is refused.")],
    json: Json = False,
) -> None:
    """Copy a template, put the bundle in, and say how to start it."""
    from edgevit.templates.create import new_app

    _tell(new_app(template, bundle, out), out, json)


def update(
    app: Annotated[Path, typer.Argument(metavar="DIR", help="An app that `edgevit app new` made.")],
    bundle: SourceArgument,
    json: Json = False,
) -> None:
    """Give an app another bundle; nothing else of it is touched."""
    from edgevit.templates.create import update_app

    _tell(update_app(app, bundle), app, json)


def _tell(template: Template, app: Path, json: bool) -> None:
    start = [f"cd {shlex.quote(str(app))}", *template.info.next]
    if json:
        print_json(
            {"app": str(app), "template": template.name, "place": str(app / template.info.place), "start": start}
        )
        return
    out = stdout()
    out.print(f"{app}: {template.info.title}; needs {template.info.needs}", markup=False)
    for line in start:
        out.print(f"  {line}", markup=False)
