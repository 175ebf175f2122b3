"""Paths of shipped data and of the cache; atomic file writes."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
from pathlib import Path

_LITTER = frozenset({".ds_store", ".localized", ".directory", "thumbs.db", "ehthumbs.db", "desktop.ini"})
_SCRATCH = re.compile(r"\..+\.edgevit-(?P<host>[0-9a-f]{8})-(?P<pid>\d+)")


def is_system_litter(name: str) -> bool:
    """Whether a file name is one of those that macOS, Windows or Linux desktops leave in folders."""
    return name.startswith("._") or name.lower() in _LITTER


def _host() -> str:
    """An identifier of this machine or container: process numbers have no meaning on another that shares the disk."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def scratch_name(name: str) -> str:
    """A name beside ``name`` for a file that this process has not finished writing."""
    return f".{name}.edgevit-{_host()}-{os.getpid()}"


def is_orphan(name: str) -> bool:
    """Whether a name is a `scratch_name` of a process on this machine that has ended."""
    import psutil

    match = _SCRATCH.fullmatch(name)
    return match is not None and match["host"] == _host() and not psutil.pid_exists(int(match["pid"]))


def cache_folder() -> Path:
    """``$EDGEVIT_CACHE``, else the platform's cache folder for edgevit."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get("EDGEVIT_CACHE") or user_cache_dir("edgevit"))


def shipped_folder(name: str) -> Path:
    """``targets/`` or ``apps/``, as shipped inside the package or in a checkout."""
    package = Path(__file__).parents[1]
    shipped = package / f"_{name}"
    return shipped if shipped.is_dir() else package.parent / name


def targets_folder() -> Path:
    """The folder ``targets/``, which holds target descriptions and the runners for devices."""
    return shipped_folder("targets")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file atomically: it is either complete or as it was before.

    A link is followed: what it points to is written. A pipe, a terminal or ``/dev/stdout`` is written to as it is.

    Raises:
        OSError: it cannot be written.
    """
    if path.is_relative_to("/dev") or (path.exists() and not path.is_file() and not path.is_dir()):
        path.write_bytes(data)
        return
    path = path.resolve()
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(scratch_name(path.name))
    try:
        scratch.write_bytes(data)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
