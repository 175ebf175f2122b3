"""Graph rewrites, one file each, applied by pattern to any captured model.

A rewrite file defines ``REWRITE``. Most edit the graph in place (``edit``); those that only
replace one ATen call by others give ``rules`` and are applied while the graph is traced again.
Every rewrite computes the same function, within fp32 rounding.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module, resources
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from edgevit.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from torch.fx import GraphModule

ALL_BACKENDS = frozenset({"coreml", "litert", "executorch", "executorch-coreml", "onnx"})
"""Backends, and variants of theirs that want other rewrites."""


NONE, ALL = "none", "all"


@dataclass(frozen=True)
class Rewrite:
    """One exact graph rewrite.

    Attributes:
        name: as in the manifest.
        summary: one line for lists and reports.
        order: rewrites run in ascending order.
        backends: the backends it is applied for.
        edit: changes the graph in place and returns how often it matched.
        rules: returns the replacement for each ATen operator.
        half: whether it is fit for programs in half precision.
        full: whether it is fit for programs in full precision.
    """

    name: str
    summary: str
    order: int
    backends: frozenset[str] = ALL_BACKENDS
    edit: Callable[[GraphModule], int] | None = None
    rules: Callable[[], Mapping[Any, Callable[..., Any]]] | None = field(default=None)
    half: bool = True
    full: bool = True


@lru_cache(maxsize=1)
def rewrites() -> tuple[Rewrite, ...]:
    """All rewrites in the order in which they run."""
    found = [import_module(f"{__name__}.{module.name}").REWRITE for module in iter_modules(__path__)]
    return tuple(sorted(found, key=lambda rewrite: (rewrite.order, rewrite.name)))


def check_rewrites(asked: Sequence[str]) -> None:
    """Refuse names that no rewrite has.

    Raises:
        UnknownName: one does not exist.
        UsageError: ``none`` or ``all`` beside others.
    """
    known = [one.name for one in rewrites()]
    for name in asked:
        if name not in (*known, NONE, ALL):
            raise UnknownName("rewrite", name, known, listing="docs/rewrites.md lists them")
        if name in (NONE, ALL) and len(asked) > 1:
            raise UsageError(f"--rewrites {name} stands alone")


@lru_cache(maxsize=1)
def _choice() -> dict[str, dict[str, list[str]]]:
    """For each format and family the rewrites that were measured to slow it down (tools/bench/rewrites.py)."""
    text = (resources.files(__name__) / "choice.json").read_text(encoding="utf-8")
    found: dict[str, dict[str, list[str]]] = json.loads(text)
    return found


def rewrites_for(
    backend: str, variant: str = "", *, family: str = "", half: bool = False, asked: Sequence[str] = ()
) -> tuple[Rewrite, ...]:
    """The rewrites applied for one model and backend: all that the backend wants, except those measured to slow the
    family.

    Args:
        backend: its name.
        variant: of its lowering, an empty string for the plain one.
        family: of the model; without one, only the backend decides.
        half: the program will be in half precision.
        asked: names that take the place of this choice; ``none``, ``all``, or nothing.
    """
    name = f"{backend}-{variant}" if variant else backend
    fit = tuple(one for one in rewrites() if (one.half if half else one.full))
    if not asked:
        slow = _choice().get(name, {}).get(family, [])
        return tuple(one for one in fit if name in one.backends and one.name not in slow)
    return fit if ALL in asked else tuple(one for one in fit if one.name in asked)
