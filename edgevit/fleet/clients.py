"""Client access to a running coordinator: status and single-image inference.

Members are asked by the coordinator only; a client never talks to them.
"""

from __future__ import annotations

import json
import struct
import time
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.data.images import MAX_MEGAPIXELS
from edgevit.errors import DeviceUnreachable, EdgevitError, UsageError
from edgevit.fleet.config import CLIENT, Security, client_config, leave, open_session
from edgevit.fleet.frames import Frame
from edgevit.fleet.health import MemberState
from edgevit.fleet.reach import why_not_connected
from edgevit.fleet.trust import check_role
from edgevit.fleet.wire import Encoding, Malformed, client_key, digest_of, status_key
from edgevit.schema.plan import Fleet

if TYPE_CHECKING:
    from edgevit.fleet.outcomes import Answer
    from edgevit.fleet.running import RunningFleet

_ASK_S = 1.0
"""Seconds that a member has to report its status; all members are asked at once."""
_STATUS_S = 10.0
"""Seconds that the coordinator has for a client's status query; it asks its members meanwhile, `_ASK_S` each."""
_HEADER = struct.Struct("<4s8s16s")
_KIND = b"EVc1"


@dataclass(frozen=True)
class MemberStatus:
    """The state of one member of a plan.

    Attributes:
        member: its name.
        state: ``healthy``, ``absent``, ``another plan``, or ``suspect``: present, but not answering.
        round_trip_ms: of the status query, in milliseconds.
        latency_ms: of its last answer about an image, as the coordinator measured it.
        rejoined: how often it came back.
        said: its own status report.
        why: reason why it is not healthy, as far as the coordinator can know; or that it runs twice.
    """

    member: str
    state: MemberState
    round_trip_ms: float | None = None
    latency_ms: float | None = None
    rejoined: int = 0
    said: dict[str, Any] = field(default_factory=dict)
    why: str = ""


def member_states(running: RunningFleet) -> list[MemberStatus]:
    """Query the status of every present member, in parallel."""
    there = [name for name, one in running.health.items() if one.state != "absent"]
    with ThreadPoolExecutor(max(1, len(there))) as pool:
        reports = dict(
            zip(there, pool.map(lambda name: _ask(running.session, running.fleet.name, name), there), strict=True)
        )
    found, absences = [], running.absences()
    for name, health in running.health.items():
        took, document, twice = reports.get(name, (None, {}, ""))
        state: MemberState = "suspect" if health.state == "healthy" and took is None else health.state
        latency = None if health.latency is None else round(health.latency * 1e3, 3)
        found.append(
            MemberStatus(name, state, took, latency, health.rejoined, document, twice or absences.get(name, ""))
        )
    return found


def _ask(session: Any, fleet: str, member: str) -> tuple[float | None, dict[str, Any], str]:
    """Query one member: (round trip in milliseconds, its report, a note where several answer to its name)."""
    import zenoh

    start, took, reports = time.monotonic(), None, []
    every = {"target": zenoh.QueryTarget.ALL, "consolidation": zenoh.ConsolidationMode.NONE}
    for reply in session.get(status_key(fleet, member), timeout=_ASK_S, **every):
        if reply.ok is not None:
            took = took or round((time.monotonic() - start) * 1e3, 3)
            try:
                report = json.loads(bytes(reply.ok.payload))
            except ValueError:
                continue
            if isinstance(report, dict):
                reports.append(report)
    places = {f"{one.get('host', '')} (process {one.get('pid', '')})" for one in reports}
    twice = f"{member}: runs more than once, on {' and '.join(sorted(places))}: stop one" if len(places) > 1 else ""
    return (took, reports[0], twice) if reports else (None, {}, "")


def answer_document(running: RunningFleet, name: str, answer: Answer, top: int) -> dict[str, Any]:
    """One answer as a dictionary for JSON; times in milliseconds."""
    return {
        "image": name,
        "classes": [
            {"index": one.index, "label": one.label, "score": round(one.score, 6)} for one in running.best(answer, top)
        ],
        "method": answer.method,
        "members": answer.members,
        "latency_ms": round(answer.latency * 1e3, 3),
        "compute_ms": _milliseconds(answer.compute),
        "waited_ms": _milliseconds(answer.waited),
    }


def _milliseconds(seconds: dict[str, float]) -> dict[str, float]:
    return {member: round(value * 1e3, 3) for member, value in seconds.items()}


class ClientEndpoint:
    """The coordinator's endpoint for clients: answers status queries and single images."""

    def __init__(self, running: RunningFleet) -> None:
        import zenoh

        self._running, self._pool = running, ThreadPoolExecutor(2, "door")
        fleet, callback = running.fleet.name, zenoh.handlers.Callback
        self._held = [
            running.session.declare_queryable(client_key(fleet, "status"), callback(self._status, indirect=False)),
            running.session.declare_queryable(client_key(fleet, "infer"), callback(self._infer, indirect=False)),
        ]

    def _status(self, query: Any) -> None:
        self._pool.submit(self._say_status, query)

    def _say_status(self, query: Any) -> None:
        with query:
            tally = self._running.tally
            members = [asdict(one) for one in member_states(self._running)]
            document = {"members": members, "tally": tally.document()}
            query.reply(client_key(self._running.fleet.name, "status"), json.dumps(document).encode())

    def _infer(self, query: Any) -> None:
        """Handle an image query on the engine's thread: hand it over, and reply once the answer is there."""
        try:
            frame = _frame(bytes(query.payload or b""), bytes(query.attachment or b""))
        except Malformed as error:
            with query:
                query.reply_err(str(error).encode())
            return
        self._running.ask(frame).add_done_callback(lambda done: self._answered(query, done))

    def _answered(self, query: Any, done: Future[Answer]) -> None:
        try:
            self._pool.submit(self._say_answer, query, done.result())
        except (CancelledError, RuntimeError):  # the fleet is being closed
            query.drop()

    def _say_answer(self, query: Any, answer: Answer) -> None:
        with query:
            top = len(self._running.plan.labels)
            document = answer_document(self._running, "", answer, top)
            query.reply(client_key(self._running.fleet.name, "infer"), json.dumps(document).encode())

    def close(self) -> None:
        """Stop serving clients: withdraw the endpoints and drop requests that wait."""
        for one in self._held:
            one.undeclare()
        self._pool.shutdown(wait=False, cancel_futures=True)


def _frame(payload: bytes, attachment: bytes) -> Frame:
    try:
        kind, encoding, digest = _HEADER.unpack(attachment)
    except struct.error as error:
        raise Malformed("not a request") from error
    name = encoding.rstrip(b"\0").decode("ascii", "replace")
    if kind != _KIND or name not in ("raw", "jpeg", "png") or digest != digest_of(payload):
        raise Malformed("not a request")
    if len(payload) > MAX_MEGAPIXELS * 3e6:
        raise Malformed("the image is too large")
    return Frame("", payload, name)


class FleetClient:
    """Connects to a fleet that another process runs; use it as a context manager.

    Raises:
        BadFile: the client's certificate would not be accepted.
        DeviceUnreachable: nothing listens there, or the certificates are refused.
    """

    def __init__(
        self, fleet: Fleet, address: str, security: Security, *, plan: Path | None = None, explain: bool = True
    ) -> None:
        """Connect to the coordinator.

        Args:
            fleet: only its name is used.
            address: HOST:PORT of the coordinator.
            security: certificates, transport, or neither.
            plan: for what is said about certificates.
            explain: whether to find out why the connection fails, which takes two seconds more.
        """
        self._fleet, self._address = fleet.name, address
        if security.certs is not None:
            check_role(security.certs, CLIENT, plan=plan)
        config = client_config(address, security)
        try:
            self._session = open_session(config, f"reaching the coordinator at {address}")
        except UsageError as error:
            raise DeviceUnreachable(
                f"the coordinator at {address} cannot be reached",
                where=why_not_connected(config) if explain else error.where,
                cure="edgevit fleet run PLAN is the coordinator",
            ) from error

    def status(self) -> dict[str, Any]:
        """States of all members, and counts of requests.

        Raises:
            DeviceUnreachable: the coordinator does not answer.
        """
        return self._get("status", _STATUS_S)

    def ask(self, payload: bytes, encoding: Encoding, timeout: float) -> dict[str, Any]:
        """The answer to one image, as `answer_document` has it.

        Raises:
            DeviceUnreachable: the coordinator does not answer.
        """
        header = _HEADER.pack(_KIND, encoding.encode(), digest_of(payload))
        return self._get("infer", timeout, payload=payload, attachment=header)

    def _get(self, what: str, timeout: float, **further: Any) -> dict[str, Any]:
        for reply in self._session.get(client_key(self._fleet, what), timeout=timeout, **further):
            if reply.ok is not None:
                return json.loads(bytes(reply.ok.payload))
            raise EdgevitError(f"the coordinator refused: {bytes(reply.err.payload).decode(errors='replace')}")
        raise DeviceUnreachable(
            f"the coordinator at {self._address} does not answer", cure="edgevit fleet run PLAN is the coordinator"
        )

    def close(self) -> None:
        """Close the connection to the fleet."""
        leave(self._session.close)

    def __enter__(self) -> FleetClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
