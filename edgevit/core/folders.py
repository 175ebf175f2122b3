"""Where edgevit finds what it ships beside its code, and keeps what it can make again; files written whole."""

from __future__ import annotations

import os
from pathlib import Path


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
    """``targets/``."""
    return shipped_folder("targets")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is either complete or as it was before.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        scratch.write_bytes(data)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
