"""Decides which members to wait for: a circuit breaker for each member, without clocks or sockets of its own.

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
"""Deadlines missed in a row after which a member is a suspect, see the module."""
PROBE_S = 0.5
"""Seconds between two probes of a suspect."""


@dataclass
class Health:
    """The coordinator's record of one member.

    Attributes:
        state: current state.
        misses: deadlines missed in a row.
        last_probe: when it was last probed as a suspect.
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
        """Record that its token appeared, with the plan's bundles or others; a fresh token clears suspicion."""
        if self._was_there and right:
            self.rejoined += 1
        self._was_there |= right
        self._enter("healthy" if right else "another plan")

    def leaves(self) -> None:
        """Record that its token is gone."""
        self._enter("absent")

    def _enter(self, state: MemberState) -> None:
        self.state, self.misses = state, 0

    def role(self, now: float) -> RequestRole:
        """Whether to ask, probe or skip it in one request; a probe is counted."""
        if self.state == "healthy":
            return "ask"
        if self.state == "suspect" and now - self.last_probe >= PROBE_S:
            self.last_probe = now
            return "probe"
        return "skip"

    def answers(self, took: float, compute: float, in_time: bool) -> None:
        """Record a valid answer in time."""
        self.compute = compute
        if not in_time:
            return
        self.latency, self.misses = took, 0
        if self.state == "suspect":
            self._enter("healthy")

    def misses_one(self, now: float) -> None:
        """Record a missed deadline or an invalid answer."""
        self.misses += 1
        if self.state == "healthy" and self.misses >= TRIP:
            self._enter("suspect")
            self.last_probe = now
