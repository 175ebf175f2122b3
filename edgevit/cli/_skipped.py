"""Pictures that a command left out because they cannot be read: reported at once, counted at the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import typer

from edgevit.cli.console import error_document, warn
from edgevit.errors import BadFile

EXIT = 2
"""That of an unreadable file: the results are good, and they are not of all pictures."""


@dataclass
class Skipped:
    """The pictures left out so far.

    Attributes:
        pictures: names, and why each was left out.
    """

    pictures: list[tuple[str, BadFile]] = field(default_factory=list)

    def add(self, name: str, error: BadFile) -> None:
        """Record a picture and report it on standard error."""
        self.pictures.append((name, error))
        reason = error.where.removeprefix(f"{name}: ") if error.where not in ("", name) else ""
        named = error.message if name in error.message else f"{name}: {error.message}"
        warn(f"skipped {named}" + (f" ({reason})" if reason else ""))

    def once(self, name: str, error: BadFile) -> None:
        """Like `add`, for a data set that is read several times: each picture is reported once."""
        if all(name != known for known, _ in self.pictures):
            self.add(name, error)

    def document(self) -> list[dict[str, Any]]:
        """The skipped pictures and their errors as a list of plain dictionaries, for ``--json``."""
        return [{"image": name, "error": error_document(error)} for name, error in self.pictures]

    def raise_only(self) -> None:
        """Raise the one error, where one picture was all there was; see `leave` for several."""
        if len(self.pictures) == 1:
            raise self.pictures[0][1]
        if self.pictures:
            raise BadFile(
                f"none of the {len(self.pictures)} pictures can be read", where=self.pictures[0][1].message
            ) from self.pictures[0][1]

    def leave(self) -> None:
        """End the command with status 2 if pictures were left out."""
        if self.pictures:
            count = len(self.pictures)
            named = "1 picture was" if count == 1 else f"{count} pictures were"
            warn(f"{named} skipped; the result is that of the others")
            raise typer.Exit(EXIT)
