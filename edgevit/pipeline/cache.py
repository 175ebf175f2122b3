"""What edgevit keeps to save time: finished bundles by everything that went into them, and all other kinds."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from edgevit.bundle.read import Bundle, read_bundle
from edgevit.core.files import cache_folder, is_orphan, scratch_name
from edgevit.errors import EdgevitError, UnknownName

_BUNDLES = "bundles"
_KEY = re.compile(r"[0-9a-f]{64}")
"""The names that edgevit gives to cache folders; anything else in the cache is not edgevit's."""


@dataclass(frozen=True)
class CacheEntry:
    """One bundle in the export cache: its key, folder, size in bytes and time of last use."""

    key: str
    path: Path
    bytes: int
    modified: float


def entries() -> list[CacheEntry]:
    """All cached bundles, the latest first."""
    root = cache_folder() / _BUNDLES
    found = [
        CacheEntry(path.name, path, _size(path), path.stat().st_mtime)
        for path in (root.iterdir() if root.is_dir() else [])
        if _KEY.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
    ]
    return sorted(found, key=lambda entry: entry.modified, reverse=True)


def find(key: str) -> Bundle | None:
    """The intact bundle stored under a key; a damaged one is removed."""
    path = cache_folder() / _BUNDLES / key
    if not path.is_dir():
        return None
    try:
        bundle = read_bundle(path)
    except EdgevitError:
        shutil.rmtree(path, ignore_errors=True)
        return None
    os.utime(path, (time.time(), time.time()))
    return bundle


def store(key: str, folder: Path) -> None:
    """Keep a copy of a finished bundle; a full or read-only cache is not an error."""
    root = cache_folder() / _BUNDLES
    scratch = root / scratch_name(key)
    try:
        root.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder, scratch)
        if not (root / key).exists():
            scratch.rename(root / key)
    except OSError:
        pass
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@dataclass(frozen=True)
class CacheArea:
    """One kind of thing that edgevit keeps and can make or fetch again.

    Attributes:
        name: as in ``edgevit cache clear NAME``, and the folder's name.
        what: for people.
        paths: what edgevit put there; other names are somebody else's.
    """

    name: str
    what: str
    paths: tuple[Path, ...]

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(_size(path) for path in self.paths)


_AREAS = {
    _BUNDLES: ("finished bundles", _KEY),
    "split": ("teachers' answers and trained sub-models of splits", re.compile(r"(pool|sub)-[0-9a-f]{32}")),
    "runtimes": ("runtimes for devices, fetched", re.compile(r".+\.(tar\.gz|tar\.json|json)")),
    "web": ("runtimes for browsers, fetched", re.compile(r".+-\d[^/]*")),
    "logs": ("logs of crashes", re.compile(r"crash-\d{8}-\d{6}-\d+\.log")),
}
"""Folders of the cache, what they hold, and the names that edgevit gives there."""


def areas() -> list[CacheArea]:
    """Everything in the cache, by kind; kinds of which there is nothing are among them."""
    found = []
    for name, (what, named) in _AREAS.items():
        root = cache_folder() / name
        inside = sorted(root.iterdir()) if root.is_dir() else []
        ours = tuple(
            path for path in inside if not path.is_symlink() and (named.fullmatch(path.name) or is_orphan(path.name))
        )
        found.append(CacheArea(name, what, ours))
    return found


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.rglob("*") if f.is_file())


def clear(names: Collection[str] = (_BUNDLES,)) -> int:
    """Remove what edgevit keeps of some kinds, and what processes that have ended left; returns the bytes freed.

    What edgevit did not put there stays.

    Raises:
        UnknownName: there is no such kind.
    """
    for name in names:
        if name not in _AREAS:
            raise UnknownName("part of the cache", name, _AREAS, listing="edgevit cache show")
    freed = 0
    for area in areas():
        if area.name in names:
            freed += area.bytes
            for path in area.paths:
                path.unlink(missing_ok=True) if path.is_file() else shutil.rmtree(path, ignore_errors=True)
    return freed
