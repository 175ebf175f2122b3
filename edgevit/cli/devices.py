"""`edgevit devices`: what can be reached, and what it has."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from edgevit.cli._measuring import Accelerator, SSHConfigOption, connected, reach_options
from edgevit.cli.console import Json, examples, print_json, print_table, size_text, stdout
from edgevit.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the command."""
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
    reach = reach_options(False, ssh_config, Accelerator.CPU, False, 60, json)
    with connected(uri, reach) as device:
        if clean:
            freed = device.clean()
            if json:
                print_json({"uri": uri, "freed_bytes": freed})
            else:
                stdout().print(f"removed {size_text(freed)} from {uri}", markup=False)
            return
        said = device.probe()
    _describe(uri, said, json)


def _list(json: bool) -> None:
    from edgevit.devices.base import kinds

    found = [one for kind in kinds().values() for one in kind.discover()]
    if json:
        print_json({"devices": [asdict(one) for one in found]})
        return
    print_table(["device", "state", "what", "to mend it"], [[one.uri, one.state, one.what, one.cure] for one in found])


def _describe(uri: str, said: list[dict[str, Any]], json: bool) -> None:
    host = next((event for event in said if event["event"] == "host"), {})
    found = next((event for event in said if event["event"] == "runtimes"), {})
    facts = {key: value for key, value in host.items() if key not in ("event", "protocol", "instructions")}
    if json:
        print_json({"uri": uri, "device": host, "runtimes": found.get("versions", {}), "meter": found.get("meter", "")})
        return
    for key, value in facts.items():
        if value not in (None, "", [], False):
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            stdout().print(f"{key.replace('_', ' ')}: {shown}", markup=False)
    versions = ", ".join(f"{name} {version}" for name, version in found.get("versions", {}).items())
    stdout().print(f"runtimes: {versions or 'none; --install-runtime of profile brings one'}", markup=False)
    if found.get("meter"):
        stdout().print(f"energy meter: {found['meter']}", markup=False)
