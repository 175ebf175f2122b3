"""The one place that prints: for people on stderr and stdout, for programs as one JSON document."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgevit.errors import EdgevitError

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA_VERSION = 1

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")]


def examples(*commands: str) -> str:
    """The end of a help page: what to type, one line each."""
    return "Examples:\n\n" + "\n\n".join(f"  edgevit {command}" for command in commands)


def stdout() -> Console:
    """Where results go."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


def stderr() -> Console:
    """Where everything else goes."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(document: dict[str, Any]) -> None:
    """One document, its schema version first."""
    sys.stdout.write(json.dumps({"schema_version": SCHEMA_VERSION, **document}, indent=2, ensure_ascii=False) + "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> None:
    """A plain table: aligned columns, one header line, nothing else."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", no_wrap=column == columns[0])
    for row in rows:
        table.add_row(*row)
    wide = Console(highlight=False)
    if not wide.is_terminal:
        wide = Console(highlight=False, width=200)
    wide.print(table)


def print_error(error: EdgevitError) -> None:
    """Three lines: what, where, what to do."""
    from rich.markup import escape

    console = stderr()
    console.print(f"[bold red]error:[/] {escape(error.message)}")
    for line in error.where.splitlines():
        console.print(f"  {escape(line)}", style="dim")
    if error.cure:
        console.print(f"  [green]→[/] {escape(error.cure)}")


def say_runtime(runtime: str, quiet: bool) -> None:
    """One line on what executed the model."""
    if not quiet:
        stderr().print(f"executed by {runtime}", style="dim", markup=False)


def error_document(error: EdgevitError) -> dict[str, Any]:
    """An error as plain values."""
    return {"code": error.code, "message": error.message, "where": error.where, "cure": error.cure}


@contextmanager
def counted(total: int | None, title: str, quiet: bool) -> Iterator[Any]:
    """A progress bar on a terminal; yields a function that advances it."""
    console = stderr()
    if quiet or not console.is_terminal:
        yield lambda done: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=total)
        yield lambda done: progress.advance(task, done)


def quantity(value: float, unit: str = "") -> str:
    """12345678 as 12.3 M; nothing for 0."""
    if not value:
        return "–"
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.2f} {suffix}{unit}"
    return f"{value:g} {unit}".rstrip()


def size_text(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
