"""Writes a bundle atomically: it is either complete or absent."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgevit.core.digest import sha256_file
from edgevit.core.disk import explained_disk_errors
from edgevit.core.files import is_orphan, scratch_name
from edgevit.schema.manifest import FileEntry, Manifest

MANIFEST = "manifest.json"
REJECTED = ".rejected"


@contextmanager
def staging(destination: Path) -> Iterator[Path]:
    """Context manager: a scratch folder beside ``destination`` that is removed at the end.

    Folders left by a process that was killed are removed first.
    """
    parent = destination.parent
    with explained_disk_errors(parent):
        parent.mkdir(parents=True, exist_ok=True)
        _remove_orphans(parent)
        scratch = parent / scratch_name(destination.name)
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
    try:
        with explained_disk_errors(parent):
            yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _remove_orphans(parent: Path) -> None:
    for child in parent.iterdir():
        if is_orphan(child.name):
            shutil.rmtree(child, ignore_errors=True)


def file_entries(folder: Path) -> tuple[FileEntry, ...]:
    """Size and hash of every file of a bundle but its manifest, sorted by path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    return tuple(
        FileEntry(path=path.relative_to(folder).as_posix(), bytes=path.stat().st_size, sha256=sha256_file(path))
        for path in paths
    )


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Add the file list and write ``manifest.json``; returns the completed manifest."""
    complete = manifest.model_copy(update={"files": file_entries(folder)})
    (folder / MANIFEST).write_text(complete.to_json(), encoding="utf-8")
    return complete


def publish(folder: Path, destination: Path, check: Callable[[Path], None]) -> None:
    """Move a finished folder into place, replacing an older one of the same name.

    Args:
        folder: the finished one.
        destination: its final path.
        check: refuses what must not be replaced, as in `edgevit.bundle.replace`; asked again here, since what lay there
            may have changed while the new one was made.

    Raises:
        UsageError: the check refuses; the older one is as it was.
    """
    check(destination)
    old = destination.with_name(scratch_name(f"{destination.name}.old"))
    if destination.exists():
        destination.rename(old)
    try:
        folder.rename(destination)
    except OSError:
        if old.exists():
            old.rename(destination)
        raise
    shutil.rmtree(old, ignore_errors=True)
