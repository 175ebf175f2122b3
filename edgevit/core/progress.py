"""Progress events that long-running work reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Stage = Literal["waiting", "loading", "lowering", "judging", "done", "cached", "rejected", "failed", "note"]


@dataclass(frozen=True)
class Event:
    """One progress event of one target.

    Attributes:
        target: the bundle's folder name, or the model's name for what all targets share.
        stage: what is happening now; ``note`` is no step, but something that the user should know.
        detail: one line of text to show.
    """

    target: str
    stage: Stage
    detail: str = ""


Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """A listener that discards every event: the default where no progress is shown."""
