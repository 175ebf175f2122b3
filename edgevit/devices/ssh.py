"""``ssh://user@host``: a Linux computer over the plain OpenSSH client.

The client is used as it is, so that its configuration, agent, keys and jump hosts are honoured. One connection carries
everything (ControlMaster). A runner dies with its standard input; `timeout` on the device is what stops it if it
cannot even do that.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

from edgevit.core.digest import sha256_file
from edgevit.devices.base import Event, Found, Kind, Reach
from edgevit.devices.install import LIBRARY, MARKER, Installation, prepare
from edgevit.devices.runner import RunnerProcess, last_line
from edgevit.devices.shell import ShellDevice
from edgevit.errors import DeviceFailed, DeviceUnreachable, EdgevitError, MissingDependency, UsageError

_CONNECT_S = 15
_COMMAND_S = 120.0
_SEND_S = 900.0
_LARGE = 1 << 20
_KILL_AFTER_S = 3
_LATER_S = 5
"""The runner's own deadline comes first; `timeout` is for one that cannot keep it."""

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


class SSHTransport:
    """One connection.

    Raises:
        MissingDependency: there is no ssh here.
        DeviceUnreachable: the host does not answer or refuses.
        DeviceFailed: it is no Linux with Python.
    """

    def __init__(self, address: Address, reach: Reach) -> None:
        if shutil.which("ssh") is None:
            raise MissingDependency("openssh-client", "devices over SSH", extra="all")
        self._address, self._announce = address, reach.announce
        self._scratch = Path(tempfile.mkdtemp(prefix="ev-"))  # short: a socket's path has at most 104 bytes
        options = ["-T", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-o", f"ConnectTimeout={_CONNECT_S}"]
        options += ["-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=4"]
        options += ["-o", "ControlMaster=auto", "-o", f"ControlPath={self._scratch}/c", "-o", "ControlPersist=60"]
        options += ["-F", str(reach.ssh_config)] if reach.ssh_config else []
        options += ["-p", str(address.port)] if address.port else []
        self._ssh = ["ssh", *options, "--", address.target]
        self._sent: dict[str, str] = {}
        try:
            self._greet()
        except EdgevitError:
            self.close()
            raise

    def _greet(self) -> None:
        found = self.shell('uname -s; command -v timeout sha256sum tar >/dev/null && echo tools; echo "$HOME"')
        system, *rest = found.split("\n")
        if system != "Linux" or rest[:1] != ["tools"]:
            raise DeviceFailed(
                f"{self._address.host} is not a Linux computer with coreutils and tar", where=f"it says: {system}"
            )
        self.folder = f"{rest[1]}/.cache/edgevit"

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

    def shell(self, command: str, *, stdin: Path | None = None, limit_s: float = _COMMAND_S) -> str:
        """Run a command for `sh` and give what it prints.

        Raises:
            DeviceUnreachable: the connection broke, or there was no answer in time.
            DeviceFailed: the command failed, for want of space or otherwise.
        """
        line = [*self._ssh, f"sh -c {shlex.quote(command)}"]
        with stdin.open("rb") if stdin else Path("/dev/null").open("rb") as source:
            try:
                done = subprocess.run(line, stdin=source, capture_output=True, timeout=limit_s, check=False)
            except subprocess.TimeoutExpired as error:
                raise DeviceUnreachable(f"{self._address.host} did not answer within {limit_s:.0f} s") from error
        said = done.stderr.decode("utf-8", "replace")
        if done.returncode == 255:
            raise self._refused(said)
        if done.returncode != 0:
            raise self._failed(said)
        return done.stdout.decode("utf-8", "replace").rstrip("\n")

    def _failed(self, said: str) -> DeviceFailed:
        if re.search("No space left on device|Disk quota exceeded", said):
            own = f"edgevit devices ssh://{self._address.target} --clean"
            cure = f"free some there; this removes what edgevit put there: {own}"
            return DeviceFailed("there is no space left on the device", where=self.folder, cure=cure)
        if "Read-only file system" in said or "Permission denied" in said:
            return DeviceFailed("edgevit cannot write on the device", where=last_line(said))
        return DeviceFailed("a command failed on the device", where=last_line(said))

    def put(self, path: Path) -> str:
        """Send a file unless one of the same content is there; it appears only once it is whole."""
        digest = sha256_file(path)
        plain = re.sub(r"[^A-Za-z0-9._-]", "_", path.name)[-80:]
        place = f"{self.folder}/files/{digest[:16]}-{plain}"
        if self._sent.get(place) == digest:
            return place
        quoted = shlex.quote(place)
        if self.shell(f"[ -f {quoted} ] && echo there || true") != "there":
            size = path.stat().st_size
            if size > _LARGE:
                self._announce(f"sending {path.name}, {size / 1e6:.1f} MB")
            script = (
                f"set -e; mkdir -p {shlex.quote(self.folder)}/files; t={quoted}.$$; trap 'rm -f \"$t\"' EXIT; "
                f'cat >"$t"; echo "{digest}  $t" | sha256sum -c --status; mv "$t" {quoted}'
            )
            self.shell(script, stdin=path, limit_s=_SEND_S)
        self._sent[place] = digest
        return place

    def start(self, runtime: str, arguments: list[str], deadline_s: float) -> RunnerProcess:
        """Start Python there."""
        own = shlex.quote(self._runtime_folder(runtime)) if runtime else ""
        words = " ".join(shlex.quote(argument) for argument in arguments)
        # Not exec: a shell turns the signal that ended Python into an exit status, which ssh does not.
        script = (
            f"ORT_DISABLE_TELEMETRY=1 PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={own} "
            f"timeout -k {_KILL_AFTER_S} {int(deadline_s) + _LATER_S} python3 {words}; exit $?"
        )
        return RunnerProcess([*self._ssh, f"sh -c {shlex.quote(script)}"], deadline_s, self._explain)

    def _explain(self, code: int, said: str) -> EdgevitError | None:
        return self._refused(said) if code == 255 else None

    def _runtime_folder(self, runtime: str) -> str:
        return f"{self.folder}/runtimes/{runtime}"

    def library(self, runtime: str) -> tuple[str, str]:
        """edgevit's library beside a runtime's own ones, and the runtime's version."""
        marker = self._marker(runtime)
        if not marker.get("library"):
            return "", ""
        return f"{self._runtime_folder(runtime)}/{LIBRARY}", str(marker["version"])

    def _marker(self, runtime: str) -> dict[str, object]:
        text = self.shell(f"cat {shlex.quote(self._runtime_folder(runtime))}/{MARKER} 2>/dev/null || echo '{{}}'")
        try:
            found = json.loads(text)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def install(self, runtime: str, host: Event) -> None:
        """Bring a runtime's wheels for that machine and unpack them in edgevit's own folder."""
        wanted = Installation(runtime, str(host.get("machine", "")), str(host.get("python", "")))
        if self._marker(runtime) == wanted.marker():
            return
        self._announce(f"fetching {runtime} for {wanted.machine}, Python {wanted.python}")
        archive = self.put(prepare(wanted))
        place = shlex.quote(self._runtime_folder(runtime))
        self.shell(
            f"set -e; mkdir -p {shlex.quote(self.folder)}/runtimes; t={place}.$$; trap 'rm -rf \"$t\"' EXIT; "
            f'mkdir "$t"; tar -xzf {shlex.quote(archive)} -C "$t"; rm -rf {place}; mv "$t" {place}; '
            f"rm -f {shlex.quote(archive)}",
            limit_s=_SEND_S,
        )
        self._sent.clear()

    def clean(self) -> int:
        """Remove edgevit's folder there."""
        place = shlex.quote(self.folder)
        size = self.shell(f"[ -d {place} ] && du -sk {place} | cut -f1 && rm -rf {place} || echo 0")
        self._sent.clear()
        return int(size or 0) * 1024

    @cached_property
    def _leaving(self) -> list[str]:
        return [*self._ssh[:-2], "-O", "exit", "--", self._address.target]

    def close(self) -> None:
        """End the connection."""
        if (self._scratch / "c").exists():
            subprocess.run(self._leaving, capture_output=True, timeout=_COMMAND_S, check=False)
        shutil.rmtree(self._scratch, ignore_errors=True)


def open_ssh(uri: str, reach: Reach) -> ShellDevice:
    """Connect."""
    return ShellDevice(uri, "ssh", SSHTransport(parse_address(uri), reach), reach)


def discover() -> list[Found]:
    """Hosts cannot be listed without asking all of them; whether ssh is here can."""
    if shutil.which("ssh"):
        return [Found("ssh://USER@HOST", "ready", "any Linux computer that ssh logs in to without a password")]
    return [Found("ssh://USER@HOST", "missing", "there is no ssh here", "sudo apt install openssh-client")]


KIND = Kind("Raspberry Pi and other Linux over SSH", "ssh://USER@HOST", open_ssh, discover)
