"""``ssh://user@host``: a Linux computer over the plain OpenSSH client.

The client is used as it is, so that its configuration, agent, keys and jump hosts are honoured. One connection carries
everything (ControlMaster). A runner dies with its standard input; `timeout` on the device is what stops it if it
cannot even do that.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

from edgevit.devices.base import Event, Found, Kind, Reach
from edgevit.devices.folder import COMMAND_S, KILL_AFTER_S, LATER_S, DeviceFolder
from edgevit.devices.install import Installation
from edgevit.devices.runner import RunnerProcess, last_line
from edgevit.devices.shell import ShellDevice
from edgevit.errors import DeviceFailed, DeviceUnreachable, EdgevitError, EnvironmentIncomplete, UsageError

_CONNECT_S = 15
_SEND_S = 900.0
_INSTALL_SSH = "sudo apt install openssh-client"

_REFUSALS: tuple[tuple[str, str, str], ...] = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "the host key of {host} has changed: it was set up anew, or it is another computer",
        "if you know that it was set up anew: ssh-keygen -R {key}",
    ),
    (
        r"Host key verification failed|No \S+ host key is known",
        "the host key of {host} is not known yet",
        "look at it and accept it once: {ssh}",
    ),
    (
        "Permission denied|Too many authentication failures",
        "{host} refused the login",
        "ssh-copy-id {target} puts your key there",
    ),
    (
        "Could not resolve hostname",
        "there is no host {host}",
        "is it on this network? try its address in place of its name",
    ),
    ("Connection refused", "{host} does not listen for SSH", "on a Raspberry Pi: raspi-config, Interface Options, SSH"),
    (
        "timed out|Timeout, server|No route to host|Network is unreachable|Connection closed|Connection reset|"
        "Broken pipe|mux_client",
        "{host} does not answer",
        "is it switched on and on this network? {ssh}",
    ),
)


@dataclass(frozen=True)
class Address:
    """Where to log in; everything that is not in the URI is left to ssh's own configuration."""

    host: str
    user: str | None
    port: int | None

    @property
    def target(self) -> str:
        """As ssh takes it."""
        return f"{self.user}@{self.host}" if self.user else self.host


def parse_address(uri: str) -> Address:
    """The parts of an ``ssh://`` URI.

    Raises:
        UsageError: it is none, or has a password, a path, or a part that ssh would take for an option.
    """
    parts = urlsplit(uri)
    if parts.scheme != "ssh" or not parts.hostname or parts.path.strip("/") or parts.query:
        raise UsageError(f"{uri!r} is not a device", cure="write ssh://USER@HOST or ssh://USER@HOST:PORT")
    if parts.password:
        raise UsageError("a password does not belong into a URI", cure=f"ssh-copy-id {parts.hostname} and a key")
    if parts.hostname.startswith("-") or (parts.username or "").startswith("-"):
        raise UsageError(f"{uri!r} is not a device: no name starts with a dash")
    return Address(parts.hostname, parts.username, parts.port)


class SSHTransport(DeviceFolder):
    """One connection.

    Raises:
        EnvironmentIncomplete: there is no ssh here.
        DeviceUnreachable: the host does not answer or refuses.
        DeviceFailed: it is no Linux with Python.
    """

    def __init__(self, address: Address, reach: Reach) -> None:
        if shutil.which("ssh") is None:
            raise EnvironmentIncomplete("there is no ssh on this computer", cure=_INSTALL_SSH)
        port = f":{address.port}" if address.port else ""
        super().__init__("", f"ssh://{address.target}{port}", reach.announce)
        self._address = address
        self._scratch = Path(tempfile.mkdtemp(prefix="ev-"))  # short: a socket's path has at most 104 bytes
        options = ["-T", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-o", f"ConnectTimeout={_CONNECT_S}"]
        options += ["-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=4"]
        options += ["-o", "ControlMaster=auto", "-o", f"ControlPath={self._scratch}/c", "-o", "ControlPersist=60"]
        options += ["-F", str(reach.ssh_config)] if reach.ssh_config else []
        options += ["-p", str(address.port)] if address.port else []
        self._ssh = ["ssh", *options, "--", address.target]
        try:
            self._greet()
        except EdgevitError:
            self.close()
            raise

    def _greet(self) -> None:
        tools = "command -v timeout sha256sum tar >/dev/null && echo tools || echo none"
        # The last lines: a login that greets its user prints before them.
        said = self.shell(f'uname -s; {tools}; echo "$HOME"').split("\n")[-3:]
        if said[:2] != ["Linux", "tools"]:
            host, where = self._address.host, f"it says: {', '.join(said)}"
            raise DeviceFailed(f"{host} is not a Linux computer with coreutils and tar", where=where)
        self.folder = f"{said[2]}/.cache/edgevit"

    def _refused(self, said: str) -> DeviceUnreachable:
        address = self._address
        port = f" -p {address.port}" if address.port else ""
        key = f"'[{address.host}]:{address.port}'" if address.port else address.host
        words = {"host": address.host, "target": address.target, "ssh": f"ssh{port} {address.target}", "key": key}
        for pattern, message, cure in _REFUSALS:
            if re.search(pattern, said):
                where = f"ssh says: {last_line(said)}"
                return DeviceUnreachable(message.format(**words), where=where, cure=cure.format(**words))
        shown = last_line(said) or "the connection was closed"
        return DeviceUnreachable(f"{address.host} does not answer", where=f"ssh says: {shown}", cure=words["ssh"])

    def shell(self, command: str, *, limit_s: float = COMMAND_S) -> str:
        """Run a command for `sh` and give what it prints."""
        return self._run(command, None, limit_s)

    def send(self, path: Path, place: str) -> None:
        """Write a file there through the connection."""
        self._run(f"cat >{shlex.quote(place)}", path, _SEND_S)

    def _run(self, command: str, source: Path | None, limit_s: float) -> str:
        line = [*self._ssh, f"sh -c {shlex.quote(command)}"]
        with (source or Path("/dev/null")).open("rb") as file:
            try:
                done = subprocess.run(line, stdin=file, capture_output=True, timeout=limit_s, check=False)
            except subprocess.TimeoutExpired as error:
                raise DeviceUnreachable(f"{self._address.host} did not answer within {limit_s:.0f} s") from error
        said = done.stderr.decode("utf-8", "replace")
        if done.returncode == 255:
            raise self._refused(said)
        if done.returncode != 0:
            raise self.failed(said)
        return done.stdout.decode("utf-8", "replace").rstrip("\n")

    def start(self, runtime: str, arguments: list[str], deadline_s: float) -> RunnerProcess:
        """Start Python there."""
        own = shlex.quote(self.runtime_folder(runtime)) if runtime else ""
        words = " ".join(shlex.quote(argument) for argument in arguments)
        # Not exec: a shell turns the signal that ended Python into an exit status, which ssh does not.
        script = (
            f"ORT_DISABLE_TELEMETRY=1 PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={own} "
            f"timeout -k {KILL_AFTER_S} {int(deadline_s) + LATER_S} python3 {words}; exit $?"
        )
        return RunnerProcess([*self._ssh, f"sh -c {shlex.quote(script)}"], deadline_s, self._explain)

    def _explain(self, code: int, said: str) -> EdgevitError | None:
        return self._refused(said) if code == 255 else None

    def install(self, runtime: str, host: Event) -> None:
        """Bring a runtime's wheels for that machine and unpack them in edgevit's own folder."""
        self.bring(Installation(runtime, str(host.get("machine", "")), str(host.get("python", ""))))

    @cached_property
    def _leaving(self) -> list[str]:
        return [*self._ssh[:-2], "-O", "exit", "--", self._address.target]

    def close(self) -> None:
        """End the connection."""
        if (self._scratch / "c").exists():
            subprocess.run(self._leaving, capture_output=True, timeout=COMMAND_S, check=False)
        shutil.rmtree(self._scratch, ignore_errors=True)


def open_ssh(uri: str, reach: Reach) -> ShellDevice:
    """Connect."""
    return ShellDevice(uri, "ssh", SSHTransport(parse_address(uri), reach), reach)


def discover() -> list[Found]:
    """Hosts cannot be listed without asking all of them; whether ssh is here can."""
    if shutil.which("ssh"):
        return [Found("ssh://USER@HOST", "ready", "any Linux computer that ssh logs in to without a password")]
    return [Found("ssh://USER@HOST", "missing", "there is no ssh here", _INSTALL_SSH)]


KIND = Kind("Raspberry Pi and other Linux over SSH", "ssh://USER@HOST", open_ssh, discover)
