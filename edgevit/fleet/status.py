"""`edgevit fleet status`: who is there, with which bundles, how fast and how busy."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgevit.core.plan import read_plan
from edgevit.errors import UsageError
from edgevit.fleet.config import Security, check_address, client_config, coordinator_config, open_session
from edgevit.fleet.health import State
from edgevit.fleet.running import read_fleet_of
from edgevit.fleet.wire import all_alive, member_digest, read_alive, status_key

_ASK_S = 1.0
_PAUSE_S = 0.05


@dataclass(frozen=True)
class MemberStatus:
    """One member of a plan.

    Attributes:
        member: its name.
        state: ``healthy``, ``absent``, ``another plan``, or ``suspect``: there, and does not answer.
        round_trip_ms: of the question how it is.
        said: what it answered.
    """

    member: str
    state: State
    round_trip_ms: float | None = None
    said: dict[str, Any] = field(default_factory=dict)


def fleet_status(
    folder: Path,
    *,
    address: str | None = None,
    security: Security | None = None,
    fleet_file: Path | None = None,
    wait: float = 3.0,
) -> list[MemberStatus]:
    """Ask every member of a plan how it is.

    Goes through the coordinator where one runs; otherwise listens in its place until the members have come.

    Args:
        folder: the plan's.
        address: HOST:PORT of the coordinator, None for the fleet's file's.
        security: certificates, transport, or neither.
        fleet_file: None for the plan's own.
        wait: seconds for members to come.

    Raises:
        BadFile: no plan.
        UsageError: the address cannot be used.
    """
    plan, security = read_plan(folder), security or Security()
    fleet = read_fleet_of(folder, fleet_file)
    address = address or fleet.listen
    check_address(address, security)
    try:
        session = open_session(client_config(address, security), f"reaching {address}")
    except UsageError:
        session = open_session(coordinator_config(fleet, address, security), f"listening on {address}")
    try:
        there = _tokens(session, fleet.name, len(plan.members()), wait)
        found = []
        for member in plan.members():
            digest = there.get(member)
            if digest is None:
                found.append(MemberStatus(member, "absent"))
                continue
            took, said = _ask(session, fleet.name, member)
            right = digest == member_digest(plan, member).hex()
            state: State = "another plan" if not right else "healthy" if said else "suspect"
            found.append(MemberStatus(member, state, took, said))
        return found
    finally:
        goodbye = threading.Thread(target=session.close, daemon=True)
        goodbye.start()
        goodbye.join(2)


def _tokens(session: Any, fleet: str, expected: int, wait: float) -> dict[str, str]:
    """Digests by member."""
    ends, found = time.monotonic() + wait, {}
    while True:
        for reply in session.liveliness().get(all_alive(fleet), timeout=min(_ASK_S, wait)):
            if reply.ok is not None:
                member, digest = read_alive(str(reply.ok.key_expr))
                found[member] = digest
        if len(found) >= expected or time.monotonic() > ends:
            return found
        time.sleep(_PAUSE_S)


def _ask(session: Any, fleet: str, member: str) -> tuple[float | None, dict[str, Any]]:
    start = time.monotonic()
    for reply in session.get(status_key(fleet, member), timeout=_ASK_S):
        if reply.ok is not None:
            took = (time.monotonic() - start) * 1e3
            try:
                said = json.loads(bytes(reply.ok.payload))
            except ValueError:
                said = None
            if isinstance(said, dict):
                return took, said
    return None, {}
