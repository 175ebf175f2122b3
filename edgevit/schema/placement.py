"""Which part of a runtime executes each operator of a model file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any


@dataclass(frozen=True)
class Placed:
    """Operators of one kind that one part of the runtime executes.

    Attributes:
        operator: its name in the file, or in the delegate.
        place: what executes it, such as ``XNNPACK``.
        delegated: whether that is the runtime's accelerated part.
        why: the reason why it is not delegated, as shown to the user.
        count: number of operators.
        macs: multiply-accumulate operations in all of them.
        integer_macs: those of them that integer kernels do.
    """

    operator: str
    place: str
    delegated: bool
    why: str = ""
    count: int = 1
    macs: int = 0
    integer_macs: int = 0


@dataclass(frozen=True)
class Placement:
    """The placement of all operators of a file.

    Attributes:
        operators: those that are not delegated first, then by their work.
        delegates: how many separate pieces the accelerated part consists of.
    """

    operators: tuple[Placed, ...]
    delegates: int

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations of one inference, of convolutions and matrix products."""
        return sum(one.macs for one in self.operators)

    @property
    def delegated_share(self) -> float | None:
        """The share of them in the accelerated part, 0 to 1; None for a file without any."""
        inside = sum(one.macs for one in self.operators if one.delegated)
        return inside / self.macs if self.macs else None

    @property
    def integer_share(self) -> float | None:
        """The share of them that integer kernels do, 0 to 1; None for a file without any."""
        return sum(one.integer_macs for one in self.operators) / self.macs if self.macs else None

    def to_dict(self) -> dict[str, Any]:
        """Shares and operators as a dictionary, for JSON."""
        return {
            "delegates": self.delegates,
            "macs": self.macs,
            "delegated_share": self.delegated_share,
            "integer_share": self.integer_share,
            "operators": [asdict(one) for one in self.operators],
        }


def gathered(found: Sequence[Placed], delegates: int) -> Placement:
    """A placement from single operators, grouped where they differ in nothing but their work."""

    def kind(one: Placed) -> tuple[bool, str, str, str]:
        return one.delegated, one.place, one.operator, one.why

    rows = []
    for (delegated, place, operator, why), group in groupby(sorted(found, key=kind), kind):
        members = list(group)
        count, macs = sum(one.count for one in members), sum(one.macs for one in members)
        integer_macs = sum(one.integer_macs for one in members)
        rows.append(Placed(operator, place, delegated, why, count, macs, integer_macs))
    rows.sort(key=lambda one: (one.delegated, -one.macs, -one.count, one.operator))
    return Placement(tuple(rows), delegates)
