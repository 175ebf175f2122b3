"""Progress of an export: live on a terminal, one line for each step elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from edgevit.cli.console import literal, stderr
from edgevit.core.progress import Event, Listener, ignore

_ENDED = ("done", "cached", "rejected", "failed")


@contextmanager
def listening(quiet: bool) -> Iterator[Listener]:
    """Context manager: a listener that shows the progress of each target."""
    console = stderr()
    if quiet:
        yield ignore
    elif console.is_terminal:
        yield from _live()
    else:
        started, lock = time.monotonic(), threading.Lock()

        def say(event: Event) -> None:
            with lock:
                detail = f": {event.detail}" if event.detail else ""
                console.print(
                    f"{time.monotonic() - started:6.1f} s  {event.target} {event.stage}{detail}", markup=False
                )

        yield say


def _live() -> Iterator[Listener]:
    from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(finished_text=" "),
        TextColumn("{task.description:28}", markup=False),
        TextColumn("{task.fields[stage]}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=stderr(), transient=True) as progress:
        tasks: dict[str, TaskID] = {}
        lock = threading.Lock()

        def show(event: Event) -> None:
            with lock:
                if event.stage == "note":
                    progress.console.print(f"note: {event.detail}", markup=False, soft_wrap=True)
                    return
                if event.target not in tasks:
                    tasks[event.target] = progress.add_task(literal(event.target), total=1, stage="")
                ended = event.stage in _ENDED
                stage = event.stage if ended else literal(event.detail or event.stage)
                progress.update(tasks[event.target], stage=stage, completed=1 if ended else 0)

        yield show
