"""Sends an image to all members, gathers features until a deadline, fuses them, and accounts for every member.

Policy only: framing, delivery, membership and security are the engine's. All of it runs on one event loop; the
engine's threads hand over and nothing else.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgevit.core.fusion import FusionHead
from edgevit.fleet.health import Health
from edgevit.fleet.outcomes import Answer, Outcome, Tally
from edgevit.fleet.wire import (
    BUSY,
    EXPIRED,
    FOLLOW_S,
    OTHER_PLAN,
    Encoding,
    Malformed,
    Request,
    all_alive,
    digest_of,
    infer_key,
    member_digest,
    nudge_key,
    read_alive,
    read_reply,
)
from edgevit.schema.plan import Plan

WINDOW = 4
"""Images in progress at once. docs/fleet.md measures 98.6 % of what the slowest member can compute with it."""
_LEAST_PROBE_S = 1.0
"""Seconds that a probe of a suspect may take at least, even where an image's deadline is shorter."""
_REPAIR_S, _LOSSY_S = 0.01, 30.0
"""Seconds beyond twice the usual time that show a repaired loss, and for which the link then counts as lossy."""
_NOT_ASKED: dict[str, Outcome] = {"absent": "absent", "another plan": "another plan", "suspect": "suspect"}
_SERVICE_WEIGHT = 0.1
"""Weight of the newest measurement in the moving averages of service time and of each member's network time."""
_CAUTION = 0.75
"""Share of the time left that a request may be expected to take."""


@dataclass
class _Flight:
    """One request in progress."""

    number: int
    sent: float
    ends: float
    waiting: set[str]
    outcomes: dict[str, Outcome]
    done: asyncio.Future[None]
    features: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    compute: dict[str, float] = field(default_factory=dict)
    waited: dict[str, float] = field(default_factory=dict)

    def settle(self, member: str, outcome: Outcome) -> None:
        """Record the outcome of one member; the last one ends the request."""
        self.outcomes[member] = outcome
        self.waiting.discard(member)
        if not self.waiting:
            self.end()

    def end(self) -> None:
        """End the request with whatever has arrived."""
        if not self.done.done():
            self.done.set_result(None)


class Coordinator:
    """Queries the members of a plan through one zenoh session.

    Attributes:
        health: of each member, updated with every request.
        tally: of all requests so far.
    """

    def __init__(
        self,
        session: Any,
        fleet: str,
        plan: Plan,
        head: FusionHead,
        *,
        window: int = WINDOW,
        method: Literal["fused", "scores"] = "fused",
        quic: bool = False,
        notice: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._session, self._fleet, self._plan, self._head = session, fleet, plan, head
        self._digests = {name: member_digest(plan, name) for name in plan.members()}
        self._widths = {name: sum(one.features for one in plan.of(name)) for name in plan.members()}
        self._method, self._quic, self._notice = method, quic, notice
        self._slots, self._window, self._queued = asyncio.Semaphore(window), window, 0
        self._service = 0.0
        self._numbers = itertools.count(time.time_ns())
        self._flights: dict[int, _Flight] = {}
        self._loop = asyncio.get_running_loop()
        self._usual: dict[str, float] = {}
        self._twice: set[str] = set()
        self._lossy_until = 0.0
        self._inbox: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._woken = False
        self._probes = ThreadPoolExecutor(2, "probe")
        self._arrived, self._nudge_key = asyncio.Event(), nudge_key(fleet)
        self._tokens: dict[str, set[str]] = {name: set() for name in plan.members()}
        self.health = {name: Health() for name in plan.members()}
        self.tally = Tally(members={name: Counter() for name in plan.members()})
        self._watch = self._watch_members()

    def _watch_members(self) -> Any:
        import zenoh

        def seen(sample: Any) -> None:
            there = sample.kind == zenoh.SampleKind.PUT
            self._hand_over(self._on_token, *read_alive(str(sample.key_expr)), there)

        handler = zenoh.handlers.Callback(seen, indirect=False)
        return self._session.liveliness().declare_subscriber(all_alive(self._fleet), handler, history=True)

    def _hand_over(self, call: Callable[..., None], *values: Any) -> None:
        """Pass a message from any thread to the event loop, which is woken once per batch."""
        self._inbox.append((call, values))
        if self._woken:
            return
        self._woken = True
        try:
            self._loop.call_soon_threadsafe(self._empty_inbox)
        except RuntimeError:  # after its end nobody needs to know
            if not self._loop.is_closed():
                raise

    def _empty_inbox(self) -> None:
        self._woken = False  # before the first look: what comes later wakes the loop again
        while self._inbox:
            call, values = self._inbox.popleft()
            call(*values)

    def _on_token(self, member: str, digest: str, there: bool) -> None:
        health = self.health.get(member)
        if health is None:
            return
        right, tokens = self._digests[member].hex(), self._tokens[member]
        before = right in tokens
        tokens.add(digest) if there else tokens.discard(digest)
        if there and digest == right:
            health.arrives(True)
            self._notice(f"{member} is there")
            self._arrived.set()
        elif right not in tokens and tokens:
            # one that was killed may leave its token behind until its lease ends
            health.arrives(False)
            self._notice(f"{member} is there with bundles of another plan")
        elif not tokens:
            health.leaves()
        if before and right not in tokens:
            self._notice(f"{member} is gone")
            for flight in self._flights.values():
                if member in flight.waiting:
                    flight.settle(member, "gone")

    async def wait_for(self, members: int, timeout: float) -> bool:
        """Wait until ``members`` members are present; False where the time is over first."""
        ends = time.monotonic() + timeout
        while sum(one.state == "healthy" for one in self.health.values()) < members:
            self._arrived.clear()
            left = ends - time.monotonic()
            if left <= 0:
                return False
            try:
                await asyncio.wait_for(self._arrived.wait(), left)
            except TimeoutError:
                return False
        return True

    async def infer(self, image: bytes, encoding: Encoding, deadline: float, *, shed: bool = False) -> Answer:
        """Ask about one image.

        Args:
            image: as it travels.
            encoding: of the image.
            deadline: seconds within which there is an answer, whoever is missing.
            shed: refuse at once what cannot be answered in time, in place of waiting for a free slot; for a camera,
                whose next image is worth more. The deadline then includes the wait; otherwise it starts after it.
        """
        start = time.monotonic()
        number = next(self._numbers)
        expected = self._service * (1 + (self._queued + 1) / self._window)
        crowded = expected > _CAUTION * deadline or self._queued >= self._window
        if shed and self._slots.locked() and crowded:
            return self._finish(self._refused(number, start))
        self._queued += 1
        try:
            await self._slots.acquire()
        finally:
            self._queued -= 1
        try:
            now = time.monotonic()
            ends = start + deadline if shed else now + deadline
            if shed and _CAUTION * (ends - now) < self._service:
                self._service *= 1 - _SERVICE_WEIGHT / 2
                return self._finish(self._refused(number, start))
            answer = await self._fly(number, image, encoding, now, ends, blame=ends - now >= _CAUTION * deadline)
            took = time.monotonic() - now
            self._service += (took - self._service) * (_SERVICE_WEIGHT if self._service else 1.0)
            return self._finish(answer)
        finally:
            self._slots.release()

    def _finish(self, answer: Answer) -> Answer:
        self.tally.count(answer)
        return answer

    def _refused(self, number: int, start: float) -> Answer:
        return Answer(number, None, "none", dict.fromkeys(self.health, "shed"), time.monotonic() - start)

    async def _fly(
        self, number: int, image: bytes, encoding: Encoding, now: float, ends: float, *, blame: bool
    ) -> Answer:
        flight = _Flight(number, now, ends, set(), {}, self._loop.create_future())
        self._flights[number] = flight
        try:
            self._scatter(flight, image, encoding)
            if flight.waiting:
                timers = [self._loop.call_later(max(0.0, ends - time.monotonic()), flight.end)]
                if self._is_lossy(flight):
                    timers += [self._loop.call_later(after, self._nudge) for after in FOLLOW_S]
                await flight.done
                for timer in timers:
                    timer.cancel()
            for member in tuple(flight.waiting):
                flight.settle(member, "late")
                if not blame:
                    continue  # it had waited here for most of its time
                self.health[member].misses_one(time.monotonic())
                if self.health[member].state == "suspect":
                    self._notice(f"{member} does not answer: no longer waited for")
        finally:
            del self._flights[number]
        return self._fuse(flight)

    def _scatter(self, flight: _Flight, image: bytes, encoding: Encoding) -> None:
        import zenoh

        payload, digest, lossy = zenoh.ZBytes(image), digest_of(image), self._is_lossy(flight)
        ask = []
        for member, health in self.health.items():
            role = health.role(flight.sent)
            if role == "ask":
                flight.waiting.add(member)
                ask.append(member)
            else:
                flight.outcomes[member] = _NOT_ASKED[health.state]
            if role == "probe":
                budget = max(flight.ends - flight.sent, _LEAST_PROBE_S)
                header = Request(flight.number, budget, encoding, self._digests[member], lossy).pack(digest)
                self._probes.submit(self._send, member, flight.number, payload, header, budget)
        for member in ask:
            budget = max(0.0, flight.ends - time.monotonic())
            header = Request(flight.number, budget, encoding, self._digests[member], lossy).pack(digest)
            self._send(member, flight.number, payload, header, budget)

    def _watch_link(self, member: str, now: float, network: float) -> None:
        """Treat a message that was far slower than the member's usual ones as a repaired packet loss."""
        usual = self._usual.setdefault(member, network)
        if self._quic and network > 2 * usual + _REPAIR_S:
            self._lossy_until = now + _LOSSY_S
        else:
            self._usual[member] = usual + _SERVICE_WEIGHT * (network - usual)

    def _is_lossy(self, flight: _Flight) -> bool:
        return flight.sent < self._lossy_until

    def _nudge(self) -> None:
        """Send a packet behind an image, see `FOLLOW_S`."""
        import zenoh

        self._session.put(self._nudge_key, b"", congestion_control=zenoh.CongestionControl.DROP, express=True)

    def _send(self, member: str, number: int, payload: Any, header: bytes, budget: float) -> None:
        import zenoh

        sent = time.monotonic()

        def on_reply(reply: Any) -> None:
            sample = reply.ok
            if sample is None:
                self._hand_over(self._on_error, member, number, bytes(reply.err.payload))
            else:
                extra = bytes(sample.attachment) if sample.attachment is not None else b""
                found = bytes(sample.payload)
                if extra or found:  # nothing at all is a packet that follows an answer
                    self._hand_over(self._on_reply, member, number, found, extra, sent, budget)

        try:
            self._session.get(
                infer_key(self._fleet, member),
                zenoh.handlers.Callback(on_reply, indirect=False),
                payload=payload,
                attachment=header,
                timeout=max(budget, 1e-3),
                target=zenoh.QueryTarget.ALL,
                consolidation=zenoh.ConsolidationMode.NONE,
                congestion_control=zenoh.CongestionControl.DROP,
                express=True,
            )
        except zenoh.ZError as error:
            self._hand_over(self._on_error, member, number, f"failed: {error}".encode())

    def _on_reply(self, member: str, number: int, payload: bytes, extra: bytes, sent: float, budget: float) -> None:
        now, flight = time.monotonic(), self._flights.get(number)
        try:
            width = self._widths[member]
            reply, values = read_reply(extra, payload, number=number, member=self._digests[member], features=width)
        except Malformed as error:
            self._notice(f"{member} sent something wrong: {error}")
            self._failed(member, flight, "corrupt")
            return
        self._watch_link(member, now, now - sent - reply.compute - reply.waited)
        health, in_time = self.health[member], now - sent <= budget
        back = health.state == "suspect" and in_time
        health.answers(now - sent, reply.compute, in_time)
        if back:
            self._notice(f"{member} answers again")
        if flight is None or member not in flight.waiting:
            self.tally.late[member] += flight is None
            if flight is not None and member in flight.features and member not in self._twice:
                self._twice.add(member)
                self._notice(f"{member} answers twice: it runs more than once, on two devices perhaps; stop one")
            return
        flight.features[member] = values
        flight.compute[member], flight.waited[member] = reply.compute, reply.waited
        flight.settle(member, "answered")

    def _on_error(self, member: str, number: int, error: bytes) -> None:
        kinds: dict[bytes, Outcome] = {BUSY: "busy", EXPIRED: "expired", OTHER_PLAN: "another plan"}
        if error in (b"", b"Timeout") or b"imeout" in error:
            return  # the deadline settles it
        self._failed(member, self._flights.get(number), kinds.get(error, "failed"))

    def _failed(self, member: str, flight: _Flight | None, outcome: Outcome) -> None:
        if flight is None or member not in flight.waiting:
            return
        if outcome not in ("busy", "expired"):
            self.health[member].misses_one(time.monotonic())
        flight.settle(member, outcome)

    def _fuse(self, flight: _Flight) -> Answer:
        outcomes = {name: flight.outcomes[name] for name in self.health}
        shares, method = None, "none"
        if flight.features:
            shares, method = self._shares(flight.features)[0], self._method
        return Answer(
            flight.number,
            shares,
            method,  # type: ignore[arg-type]
            outcomes,
            time.monotonic() - flight.sent,
            flight.compute,
            flight.waited,
        )

    def _shares(self, features: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """Class probabilities [1, classes] from the features of the members that answered."""
        at = dict.fromkeys(self.health, 0)
        given: list[NDArray[np.float32] | None] = []
        for one in self._plan.sub_models:
            start = at[one.member]
            at[one.member] += one.features
            there = features.get(one.member)
            given.append(None if there is None else there[None, start : start + one.features])
        return self._head.fuse(given) if self._method == "fused" else self._head.scores(given)

    async def close(self) -> None:
        """Stop watching; the session is closed by who opened it."""
        self._watch.undeclare()
        self._probes.shutdown(wait=False, cancel_futures=True)
        await asyncio.sleep(0)
