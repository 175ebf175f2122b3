"""Whom to wait for: a breaker for each member, without clocks or sockets of its own.

A member whose token is there is asked. One that misses two deadlines in a row becomes a suspect: it is no longer
waited for, only probed twice a second beside the requests, and comes back with the first answer in time. An answer
that comes late is a miss: it must not clear the suspicion, or a slow member makes every second request slow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MemberState = Literal["absent", "another plan", "healthy", "suspect"]
RequestRole = Literal["ask", "probe", "skip"]
TRIP = 2
PROBE_S = 0.5


@dataclass
class Health:
    """What the coordinator knows of one member.

    Attributes:
        state: now.
        misses: deadlines missed in a row.
        last_probe: when it was last asked as a suspect.
        latency: of its last answer in time, seconds.
        compute: of its last answer, as it says itself, seconds.
        rejoined: how often it came back.
    """

    state: MemberState = "absent"
    misses: int = 0
    last_probe: float = 0.0
    latency: float | None = None
    compute: float | None = None
    rejoined: int = 0
    _was_there: bool = False

    def arrives(self, right: bool) -> None:
        """Its token appeared, with the right bundles or others; a fresh token clears suspicion."""
        if self._was_there and right:
            self.rejoined += 1
        self._was_there |= right
        self._enter("healthy" if right else "another plan")

    def leaves(self) -> None:
        """Its token is gone."""
        self._enter("absent")

    def _enter(self, state: MemberState) -> None:
        self.state, self.misses = state, 0

    def role(self, now: float) -> RequestRole:
        """What to do with it for one request; a probe is counted."""
        if self.state == "healthy":
            return "ask"
        if self.state == "suspect" and now - self.last_probe >= PROBE_S:
            self.last_probe = now
            return "probe"
        return "skip"

    def answers(self, took: float, compute: float, in_time: bool) -> None:
        """A valid answer came."""
        self.compute = compute
        if not in_time:
            return
        self.latency, self.misses = took, 0
        if self.state == "suspect":
            self._enter("healthy")

    def misses_one(self, now: float) -> None:
        """It was waited for in vain, or what came was not valid."""
        self.misses += 1
        if self.state == "healthy" and self.misses >= TRIP:
            self._enter("suspect")
            self.last_probe = now
