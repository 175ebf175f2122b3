"""`edgevit devices`: what can be reached, and what it has."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from edgevit.cli._measuring import Accelerator, SSHConfigOption, connected, reach_options
from edgevit.cli.console import Json, examples, print_json, print_table, size_text, stdout
from edgevit.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the command ``devices`` to the command line."""
    app.command(epilog=examples("devices", "devices ssh://pi@raspberrypi.local --clean"))(devices)


def devices(
    uri: Annotated[str | None, typer.Argument(metavar="[URI]", help="Ask this device what it is.")] = None,
    clean: Annotated[bool, typer.Option("--clean", help="Remove all that edgevit put on it.")] = False,
    ssh_config: SSHConfigOption = None,
    json: Json = False,
) -> None:
    """List devices that can be reached, or ask one what it is and which runtimes it has."""
    if uri is None:
        if clean:
            raise UsageError("--clean needs a device", cure="edgevit devices URI --clean")
        _list(json)
        return
    from edgevit.devices.shell.device import ShellDevice

    reach = reach_options(False, ssh_config, Accelerator.CPU, False, 60, json)
    with connected(uri, reach) as device:
        if clean:
            freed = device.clean()
            if json:
                print_json({"uri": uri, "freed_bytes": freed})
            else:
                stdout().print(f"removed {size_text(freed)} from {uri}", markup=False)
            return
        events = device.probe(imports=True) if isinstance(device, ShellDevice) else device.probe()
    _describe(uri, events, json)


def _list(json: bool) -> None:
    from edgevit.devices.base import kinds

    found = [one for kind in kinds().values() for one in kind.discover()]
    if json:
        print_json({"devices": [asdict(one) for one in found]})
        return
    print_table(["device", "state", "what", "to mend it"], [[one.uri, one.state, one.what, one.cure] for one in found])


def _describe(uri: str, events: list[dict[str, Any]], json: bool) -> None:
    host = next((event for event in events if event["event"] == "host"), {})
    found = next((event for event in events if event["event"] == "runtimes"), {})
    facts = {key: value for key, value in host.items() if key not in ("event", "protocol", "instructions")}
    if json:
        document = {
            "uri": uri,
            "device": host,
            "runtimes": found.get("versions", {}),
            "own_runtimes": found.get("own", {}),
            "broken_runtimes": found.get("broken", {}),
            "meter": found.get("meter", ""),
        }
        print_json(document)
        return
    for key, value in facts.items():
        if value not in (None, "", [], False):
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            stdout().print(f"{key.replace('_', ' ')}: {shown}", markup=False)
    for line in runtime_lines(host, found):
        stdout().print(line, markup=False)
    if found.get("meter"):
        stdout().print(f"energy meter: {found['meter']}", markup=False)


def runtime_lines(host: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Lines that say which runtimes a device has.

    Args:
        host: the event of the same name.
        found: the event ``runtimes``.
    """
    own, broken = found.get("own", {}), found.get("broken", {})
    listed = [f"{name} {version}" for name, version in found.get("versions", {}).items() if name not in own]
    listed += [f"{name} {version} (in edgevit's own folder)" for name, version in own.items()]
    none = "none; --install-runtime of profile brings one"
    if host.get("bits") == 32:
        none = "none, and there are none for a 32-bit system: install a 64-bit one, e.g. the 64-bit Raspberry Pi OS"
    usable = [one for one in listed if one.partition(" ")[0] not in ("numpy", *broken)]
    lines = [f"runtimes: {', '.join(listed) if usable else ', '.join([none, *listed])}"]
    return lines + [f"{name} is installed and cannot be imported: {why}" for name, why in broken.items()]
