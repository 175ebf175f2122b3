"""`edgevit fleet status`: which members are present, with which bundles, how fast and how busy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgevit.errors import BadFile, DeviceUnreachable, UsageError
from edgevit.fleet.clients import FleetClient, MemberStatus, member_states
from edgevit.fleet.config import Security, check_address, client_config
from edgevit.fleet.reach import why_not_connected
from edgevit.fleet.running import FleetOptions, RunningFleet, read_fleet_of
from edgevit.schema.plan import read_plan


def fleet_status(
    folder: Path,
    *,
    address: str | None = None,
    security: Security | None = None,
    fleet_file: Path | None = None,
    wait: float = 3.0,
    notice: Callable[[str], None] = lambda text: None,
) -> list[MemberStatus]:
    """Query the status of every member of a plan.

    Goes through the coordinator where one runs; otherwise listens in its place until the members have come.

    Args:
        folder: the plan's.
        address: HOST:PORT of the coordinator, None for the fleet's file's.
        security: certificates, transport, or neither.
        fleet_file: None for the plan's own.
        wait: seconds for members to come.
        notice: called with one line about each event.

    Raises:
        BadFile: no plan, or a certificate that would not be accepted.
        UsageError: the address cannot be used.
        DeviceUnreachable: the coordinator that runs does not answer.
    """
    plan, security = read_plan(folder), security or Security()
    fleet = read_fleet_of(folder, fleet_file)
    address = address or fleet.listen
    check_address(address, security)
    try:
        client = FleetClient(fleet, address, security, plan=fleet_file or folder, explain=False)
    except DeviceUnreachable:
        options = FleetOptions(address=address, security=security, fleet=fleet_file)
        with _in_its_place(folder, options, address, notice) as running:
            running.wait_for(len(plan.members()), wait)
            return member_states(running)
    with client:
        return [MemberStatus(**one) for one in client.status()["members"]]


def _in_its_place(folder: Path, options: FleetOptions, address: str, notice: Callable[[str], None]) -> RunningFleet:
    """Run a temporary coordinator, where none accepts this client.

    Raises:
        DeviceUnreachable: the address is another machine's, or what listens there refuses this client.
    """
    try:
        return RunningFleet(folder, options, notice)
    except BadFile:
        raise
    except UsageError as error:
        why = why_not_connected(client_config(address, options.security))
        raise DeviceUnreachable(
            f"the coordinator at {address} cannot be reached, and its place cannot be taken here",
            where=f"{why}\n{error.where}" if why else error.where,
            cure="edgevit fleet run PLAN on that machine is the coordinator; --connect HOST:PORT names another",
        ) from error
