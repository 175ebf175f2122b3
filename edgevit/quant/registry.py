"""The description of a quantizer, and the registry that finds installed ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from edgevit.core.plugins import announced
from edgevit.errors import UnknownName

if TYPE_CHECKING:
    from edgevit.quant.workbench import Bench

GROUP = "edgevit.quantizers"


@dataclass(frozen=True)
class Quantizer:
    """One post-training method.

    Attributes:
        name: as in ``--quantizer``.
        summary: one line for lists and reports.
        paper: where it was published.
        solve: decides every code on a bench.
        gradients: whether it needs gradients of the loss.
        simulated: the part of the method that no runtime executes, one line; an empty string where all of it can be
            exported.
    """

    name: str
    summary: str
    paper: str
    solve: Callable[[Bench], None]
    gradients: bool = False
    simulated: str = ""


@lru_cache(maxsize=1)
def quantizers() -> dict[str, Quantizer]:
    """All installed quantizers, edgevit's own and those of other packages."""
    return announced(GROUP)


def find_quantizer(name: str) -> Quantizer:
    """The quantizer of that name.

    Raises:
        UnknownName: it is not installed.
    """
    known = quantizers()
    if name not in known:
        raise UnknownName("quantizer", name, known)
    return known[name]
