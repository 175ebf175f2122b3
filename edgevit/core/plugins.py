"""What packages announce as entry points: edgevit's own parts, and those of others."""

from __future__ import annotations

from importlib import metadata
from typing import Any


def announced(group: str) -> dict[str, Any]:
    """Everything announced in a group, loaded, by name in the alphabet's order."""
    points = sorted(metadata.entry_points(group=group), key=lambda point: point.name)
    return {point.name: point.load() for point in points}
