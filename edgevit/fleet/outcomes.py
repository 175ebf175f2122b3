"""The outcome of each image: answers, and counts in which every request appears once for every member."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Outcome = Literal[
    "answered", "late", "gone", "absent", "suspect", "another plan", "busy", "expired", "corrupt", "failed", "shed"
]
"""What became of one member for one request; every request has exactly one for every member."""
Method = Literal["fused", "scores", "none"]


@dataclass(frozen=True)
class Answer:
    """The answer to one image.

    Attributes:
        number: of the request.
        shares: [classes] probabilities; None where no member answered.
        method: ``fused`` by the trained head, by the members' own ``scores``, or ``none``.
        members: the outcome of each member.
        latency: seconds from asking to the answer.
        compute: seconds that each member says it computed.
        waited: seconds that the image waited at each member before that.
    """

    number: int
    shares: NDArray[np.float32] | None
    method: Method
    members: dict[str, Outcome]
    latency: float
    compute: dict[str, float] = field(default_factory=dict)
    waited: dict[str, float] = field(default_factory=dict)

    @property
    def answered(self) -> tuple[str, ...]:
        """The members whose features are in it."""
        return tuple(name for name, outcome in self.members.items() if outcome == "answered")


@dataclass
class Tally:
    """Counts of outcomes: each request counts once in ``requests``, and once in ``members`` for every member.

    Attributes:
        requests: number of requests, those shed included.
        complete: answered by every member of the plan.
        partial: answered by some members.
        none: answered by no member.
        shed: refused at once, because they could not have been answered in time.
        members: by member and outcome.
        late: answers that came after their request was over, by member; none was used.
    """

    requests: int = 0
    complete: int = 0
    partial: int = 0
    none: int = 0
    shed: int = 0
    members: dict[str, Counter[Outcome]] = field(default_factory=dict)
    late: Counter[str] = field(default_factory=Counter)

    def count(self, answer: Answer) -> None:
        """Add one answer to the counts."""
        self.requests += 1
        outcomes = list(answer.members.values())
        if "shed" in outcomes:
            self.shed += 1
        elif all(outcome == "answered" for outcome in outcomes):
            self.complete += 1
        elif "answered" in outcomes:
            self.partial += 1
        else:
            self.none += 1
        for name, outcome in answer.members.items():
            self.members.setdefault(name, Counter())[outcome] += 1

    def document(self) -> dict[str, Any]:
        """The counts as a dictionary for JSON, under the names that the command line prints."""
        return {
            "images": self.requests,
            "complete": self.complete,
            "partial": self.partial,
            "none": self.none,
            "shed": self.shed,
            "late_answers": dict(self.late),
            "members": {name: dict(one) for name, one in self.members.items()},
        }

    def adds_up(self) -> bool:
        """Whether each request was counted exactly once."""
        whole = self.complete + self.partial + self.none + self.shed == self.requests
        return whole and all(sum(one.values()) == self.requests for one in self.members.values())
