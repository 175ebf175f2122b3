"""SHA-256 of files, folders, values and of edgevit's own code."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20
"""Bytes read at a time (1 MiB), so that a large file is never held in memory."""


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_value(value: Any) -> str:
    """Hex digest of a JSON value, key order ignored."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Hex digest of edgevit's installed sources and tables: a changed line or choice is a different builder."""
    return tree_digest(Path(__file__).parents[1])


def tree_digest(root: Path) -> str:
    """Hex digest of what decides results in a package's folder: sources, tables and weights, by name and content."""
    digest = hashlib.sha256()
    decisive = {".py", ".json", ".toml", ".safetensors"}
    for path in sorted(path for path in root.rglob("*") if path.suffix in decisive and path.is_file()):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def package_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Installed versions by distribution name; distributions that are not installed are left out."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
