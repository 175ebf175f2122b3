"""The export cache: finished bundles by the digest of everything that went into them."""

from __future__ import annotations

import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from edgevit.bundle.read import Bundle, read_bundle
from edgevit.core.files import cache_folder, is_orphan, scratch_name
from edgevit.errors import EdgevitError

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
        CacheEntry(path.name, path, sum(f.stat().st_size for f in path.rglob("*") if f.is_file()), path.stat().st_mtime)
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


def clear() -> int:
    """Remove all cached bundles and the leftovers of ended processes; returns the bytes freed.

    Files that edgevit did not put there stay.

    What edgevit did not put there stays.
    """
    found = entries()
    root = cache_folder() / _BUNDLES
    orphans = [path for path in (root.iterdir() if root.is_dir() else []) if is_orphan(path.name)]
    for path in [*(entry.path for entry in found), *orphans]:
        shutil.rmtree(path, ignore_errors=True)
    return sum(entry.bytes for entry in found)
