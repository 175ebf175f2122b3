"""Finds the graph rewrite that makes an artifact wrong, where the plain export of the model is right.

Every rewrite computes the same function, but a toolchain may stumble over the form that it leaves. Then the plain
export is tried, the rewrite is looked for, and the artifact without it is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgevit.graph.rewrites import NONE

Try = Callable[[tuple[str, ...]], bool]


@dataclass(frozen=True)
class Choice:
    """Rewrites with which an artifact is right.

    Attributes:
        rewrites: the rewrites to request: names, or ``none`` alone.
        culprit: the rewrite that makes it wrong, or an empty string where only several together do.
    """

    rewrites: tuple[str, ...]
    culprit: str


def without_culprit(names: Sequence[str], works: Try) -> Choice | None:
    """Find the rewrite at fault by bisection.

    Args:
        names: of the rewrites that were applied and gave a wrong artifact, in order.
        works: lowers with the rewrites named and says whether the artifact is right.

    Returns:
        None where the plain export is wrong too: then no rewrite is at fault.
    """
    if not names or not works((NONE,)):
        return None
    right, wrong = 0, len(names)  # the first `right` of them are right, the first `wrong` of them are not
    while wrong - right > 1:
        middle = (right + wrong) // 2
        if works(tuple(names[:middle])):
            right = middle
        else:
            wrong = middle
    culprit = names[right]
    others = tuple(name for name in names if name != culprit)
    if others and works(others):
        return Choice(others, culprit)
    return Choice((NONE,), culprit if not others else "")
