"""`edgevit fleet serve`: runs one member until it is stopped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from edgevit.errors import UnknownName, UsageError
from edgevit.fleet.config import Security, check_address, leave, member_config, open_session
from edgevit.fleet.member import ComputeFeatures, Counts, load_compute, serving
from edgevit.fleet.reach import Connection
from edgevit.fleet.running import read_fleet_of
from edgevit.fleet.trust import Credentials, check_role
from edgevit.schema.plan import read_plan

_WARN_EVERY_S = 86_400.0
"""Seconds between two warnings that a certificate ends soon: a day."""
_LOOK_S = 0.5
"""A signal that one of the engine's threads receives does not wake the thread that waits; it has to look."""


def serve(
    folder: Path,
    member: str,
    *,
    address: str | None = None,
    security: Security | None = None,
    fleet_file: Path | None = None,
    compute: ComputeFeatures | None = None,
    stop: threading.Event | None = None,
    notice: Callable[[str], None] = lambda text: None,
) -> None:
    """Load a member's bundles, dial the coordinator, and answer until told to stop.

    A coordinator that is not there yet, or goes away, is dialled again for ever.

    Args:
        folder: the plan's; other members' bundles need not be there.
        member: its name.
        address: HOST:PORT of the coordinator, None for the fleet's file's.
        security: certificates, transport, or neither.
        fleet_file: None for the plan's own.
        compute: computes features in place of the member's bundles.
        stop: ends it.
        notice: called with one line about each event.

    Raises:
        UnknownName: the plan has no such member.
        BadFile: no plan, no bundle, or a certificate that would not be accepted; also later, once that has ended.
        CheckFailed: a bundle is not the plan's, or computes something else here.
        UsageError: the address would be dialled without protection.
    """
    plan, security = read_plan(folder, head=False), security or Security()
    fleet = read_fleet_of(folder, fleet_file)
    if member not in plan.members():
        raise UnknownName("member", member, plan.members())
    address = address or fleet.listen
    check_address(address, security)
    _trusted(member, security, fleet_file or folder)  # before bundles are loaded, which may take a while
    loaded = compute or load_compute(folder, plan, member)
    if fleet.of(member) is None:
        raise UsageError(f"the fleet's file has no member {member!r}", where=str(fleet_file or folder))
    notice(f"{member}: {len(plan.of(member))} sub-model(s) loaded and checked")
    config, stop = member_config(fleet, member, address, security), stop or threading.Event()
    counts = Counts()
    try:
        while not stop.is_set():
            # Also once a certificate has ended: new files that were copied meanwhile are taken, or it is refused.
            trusted = _trusted(member, security, fleet_file or folder)
            session = open_session(config, f"dialling {address}")
            at_work = serving(session, fleet.name, plan, member, loaded, notice=notice, counts=counts)
            connection = Connection(session, address, config, f"{member}: ready", notice)
            try:
                at_work.open()
                connection.open(time.monotonic())
                _stay(stop, connection, trusted, notice)
            finally:
                leave(connection.close, at_work.close, session.close)
    finally:
        notice(f"{member}: answered {counts.answered}")


def _trusted(member: str, security: Security, plan: Path) -> Credentials | None:
    return check_role(security.certs, member, plan=plan) if security.certs is not None else None


def _stay(
    stop: threading.Event, connection: Connection, trusted: Credentials | None, notice: Callable[[str], None]
) -> None:
    """Wait until stopped or until the certificate has ended; warns of its end once a day."""
    warned = -_WARN_EVERY_S
    while not stop.wait(_LOOK_S):
        now = time.monotonic()
        connection.look(now)
        if trusted is None:
            continue
        if now - warned >= _WARN_EVERY_S and (warning := trusted.warning()):
            notice(f"warning: {warning}")
            warned = now
        if trusted.ended():
            return
