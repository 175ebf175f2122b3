"""`edgevit targets`: what --target takes."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from edgevit.cli.console import Json, examples, print_json, print_table, stdout


def register(app: typer.Typer) -> None:
    """Add the command ``targets`` to the command line."""
    app.command(epilog=examples("targets", "targets raspberry-pi-5 --json"))(targets)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(one)}" for key, one in value.items())
    return ", ".join(map(_text, value)) if isinstance(value, list) else str(value)


def targets(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A backend, runtime or device.")] = None,
    json: Json = False,
) -> None:
    """List backends, runtimes and devices, or show one."""
    from edgevit.schema.target import devices, resolve_target, runtimes

    if name:
        runtime = resolve_target(name)
        device = devices().get(name)
        document = {"runtime": runtime.model_dump(mode="json")} | (
            {"device": device.model_dump(mode="json")} if device else {}
        )
        if json:
            print_json(document)
            return
        for kind, values in document.items():
            stdout().print(kind, style="bold")
            for key, value in values.items():
                if value not in ("", None, [], {}):
                    stdout().print(f"  {key}: {_text(value)}")
        return
    if json:
        print_json(
            {
                "runtimes": [runtime.model_dump(mode="json") for runtime in runtimes().values()],
                "devices": [device.model_dump(mode="json") for device in devices().values()],
            }
        )
        return
    print_table(
        ["runtime", "backend", "version", "precisions", "runs here", "what"],
        [
            [
                r.name + (" *" if r.default else ""),
                r.backend,
                r.version,
                " ".join(r.precisions),
                "yes" if r.runs_here else "no",
                r.title,
            ]
            for r in runtimes().values()
        ],
    )
    stdout().print("* what the backend's own name stands for\n", style="dim")
    print_table(
        ["device", "kind", "runtimes, the first is the default", "reached by"],
        [[d.name, d.kind, " ".join(d.runtimes), d.reach] for d in devices().values()],
    )
