"""Where edgevit keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$EDGEVIT_CACHE``, else the platform's cache folder for edgevit."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get("EDGEVIT_CACHE") or user_cache_dir("edgevit"))
