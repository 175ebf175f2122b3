"""`edgevit doctor`: what is missing here, and the one command that mends it."""

from __future__ import annotations

import typer

from edgevit.cli.console import Json, coloured, examples, print_json, print_table


def register(app: typer.Typer) -> None:
    """Add the command ``doctor`` to the command line."""
    app.command(epilog=examples("doctor", "doctor --json"))(doctor)


def doctor(json: Json = False) -> None:
    """Check Python, toolchains, runtimes, memory, disk and cache.

    Exit status 5 if bundles can neither be exported nor run here.
    """
    from edgevit.pipeline.doctor import checkup, useful

    findings = checkup()
    if json:
        print_json({"checks": [finding.to_dict() for finding in findings]})
    else:
        colours = {"ok": "green", "untested": "yellow", "missing": "yellow", "wrong": "red"}
        print_table(
            ["check", "state", "found", "to mend it"],
            [[f.name, coloured(f.state, colours[f.state]), f.found, f.cure] for f in findings],
        )
    if not useful(findings):
        raise typer.Exit(5)
