"""Finds plugins: objects that installed packages announce as entry points, edgevit's own among them."""

from __future__ import annotations

from importlib import metadata
from typing import Any


def announced(group: str) -> dict[str, Any]:
    """All objects announced in an entry-point group, loaded, by name in alphabetical order."""
    points = sorted(metadata.entry_points(group=group), key=lambda point: point.name)
    return {point.name: point.load() for point in points}
