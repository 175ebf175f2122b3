"""All output of the command line: text on standard error and output, or one JSON document.

Names, paths, labels and messages are data: they are printed as they are, never as markup, and with control characters
made visible. What is coloured is coloured by `coloured`, `warn` and `note`, not by marks inside a text.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgevit.errors import EdgevitError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

SCHEMA_VERSION = 1
_UNSEEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters (a terminal obeys them), marks that reverse the direction of text, and bytes that are no text."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")]


def examples(*commands: str) -> str:
    """The epilog of a help page: example commands, one on each line."""
    return "Examples:\n\n" + "\n\n".join(f"  edgevit {command}" for command in commands)


def literal(text: object) -> str:
    """A text in one line, with control characters escaped as in Python."""
    return _visible(str(text)).replace("\n", "\\n")


def _visible(text: str) -> str:
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape", "backslashreplace").decode("ascii"), text)


def _console(*, to_stderr: bool, width: int | None = None, soft_wrap: bool = True) -> Console:
    from rich.console import Console

    class Literal(Console):
        """A console that prints strings without interpreting markup."""

        def print(self, *objects: Any, **options: Any) -> None:
            """As rich's, without markup in strings; line ends are kept."""
            super().print(*(_visible(one) if isinstance(one, str) else one for one in objects), **options)

    return Literal(stderr=to_stderr, markup=False, emoji=False, highlight=False, soft_wrap=soft_wrap, width=width)


def stdout() -> Console:
    """A console on standard output, where results are printed; progress and warnings go to standard error."""
    return _console(to_stderr=False)


def stderr() -> Console:
    """A console on standard error, for everything but results."""
    return _console(to_stderr=True)


def coloured(text: object, colour: str) -> Text:
    """A text in a colour, for a cell of a table or a line."""
    from rich.text import Text

    return Text(literal(text), style=colour)


def headed(head: str, colour: str, text: object) -> Text:
    """One line: a coloured word followed by plain text."""
    from rich.text import Text

    return Text.assemble((head, colour), f" {literal(text)}")


def warn(text: str) -> None:
    """Print one line of warning on standard error."""
    stderr().print(headed("warning:", "yellow", text))


def note(text: str) -> None:
    """Print one line of information on standard error."""
    stderr().print(headed("note:", "yellow", text))


def json_text(document: dict[str, Any], indent: int | None = None) -> str:
    """A JSON document as text that standard output can take, whatever its encoding."""
    text = json.dumps(document, indent=indent, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return json.dumps(document, indent=indent)
    return text


def print_json(document: dict[str, Any]) -> None:
    """Print one JSON document with its schema version first."""
    sys.stdout.write(json_text({"schema_version": SCHEMA_VERSION, **document}, indent=2) + "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str | Text]], right: Sequence[str] = ()) -> None:
    """A plain table: aligned columns, one header line, nothing else; see `coloured` for cells that are not plain."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(
            Text(literal(column)), justify="right" if column in right else "left", no_wrap=column == columns[0]
        )
    for row in rows:
        table.add_row(*(one if isinstance(one, Text) else Text(literal(one)) for one in row))
    wide = _console(to_stderr=False, soft_wrap=False)
    if not wide.is_terminal:
        wide = _console(to_stderr=False, soft_wrap=False, width=200)
    wide.print(table)


def print_error(error: EdgevitError) -> None:
    """Print an error in three lines: what, where, what to do."""
    console = stderr()
    console.print(headed("error:", "bold red", error.message))
    for line in error.where.splitlines():
        console.print(f"  {literal(line)}", style="dim")
    if error.cure:
        console.print(headed("  →", "green", error.cure))


def say_notes(notes: Sequence[str], quiet: bool) -> None:
    """What a person should know of how a model was loaded, e.g. that averaged weights were taken; a line each."""
    for text in () if quiet else notes:
        note(text)


def say_runtime(runtime: str, quiet: bool) -> None:
    """One line on what executed the model."""
    if not quiet:
        stderr().print(f"executed by {runtime}", style="dim")


def error_document(error: EdgevitError) -> dict[str, Any]:
    """An error as a dictionary, for ``--json``."""
    return {"code": error.code, "message": error.message, "where": error.where, "cure": error.cure}


@contextmanager
def counted(total: int | None, title: str, quiet: bool) -> Iterator[Any]:
    """Context manager: a progress bar on a terminal; yields a function that advances it."""
    console = stderr()
    if quiet or not console.is_terminal:
        yield lambda done: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(literal(title), total=total)
        yield lambda done: progress.advance(task, done)


def quantity(value: float, unit: str = "") -> str:
    """A count in short form: 12345678 as ``12.3 M``, empty for 0."""
    if not value:
        return "–"
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.2f} {suffix}{unit}"
    return f"{value:g} {unit}".rstrip()


def size_text(count: int) -> str:
    """A number of bytes in kB or MB (powers of ten) with one decimal, e.g. ``1.5 MB``."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
