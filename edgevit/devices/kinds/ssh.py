"""``ssh://user@host``: a Linux computer over the plain OpenSSH client.

The client is used as it is, so that its configuration, agent, keys and jump hosts are honoured. One connection carries
everything (ControlMaster). A runner dies with its standard input; `timeout` on the device is what stops it if it
cannot even do that.
"""

from __future__ import annotations

import re
import secrets
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

from edgevit.devices.base import Found, Kind, Reach, RunnerEvent
from edgevit.devices.runner_process import RunnerProcess, last_line, no_commands
from edgevit.devices.runtimes.wheels import Installation, only_64_bit
from edgevit.devices.shell.device import ShellDevice
from edgevit.devices.shell.folder import COMMAND_S, KILL_AFTER_S, LATER_S, DeviceFolder
from edgevit.errors import DeviceFailed, DeviceUnreachable, EdgevitError, EnvironmentIncomplete, UsageError

_CONNECT_S = 15
"""Seconds for ssh to reach a host (its ``ConnectTimeout``)."""
_SEND_S = 900.0
"""Seconds for sending one file, a model or a runtime of many megabytes; silence is noticed by ``ServerAlive``
earlier."""
_INSTALL_SSH = "sudo apt install openssh-client"

_REFUSALS: tuple[tuple[str, str, str], ...] = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "the host key of {host} has changed: it was set up anew, or it is another computer",
        "if you know that it was set up anew: ssh-keygen -R {key}{known}",
    ),
    (
        r"Host key verification failed|No \S+ host key is known",
        "the host key of {host} is not known yet",
        "look at it and accept it once: {ssh}",
    ),
    (
        "UNPROTECTED PRIVATE KEY FILE|bad permissions",
        "ssh does not use a private key that others can read",
        "chmod 600 {unprotected}",
    ),
    (
        "Too many authentication failures",
        "{host} ended the login: the agent offered too many keys before the right one",
        "in ~/.ssh/config, below Host {host}: IdentitiesOnly yes, and IdentityFile with that key",
    ),
    (
        r"Permission denied \((?![^)]*publickey)",
        "{host} takes no keys, only passwords",
        "there, in /etc/ssh/sshd_config: PubkeyAuthentication yes; then {copy}",
    ),
    (
        "Could not resolve hostname",
        "there is no host {host}",
        "is it on this network? try its address in place of its name",
    ),
    (
        "Connection refused",
        "{host} does not listen for SSH at port {port}",
        "on a Raspberry Pi: raspi-config, Interface Options, SSH",
    ),
    (
        "No route to host|Network is unreachable",
        "there is no way from this computer to {host}",
        "are both on the same network? is it switched on? {ssh}",
    ),
    (
        "kex_exchange_identification|Connection reset by|Connection closed by|banner exchange",
        "{host} closed the connection before the login: no SSH at port {port}, or it lets no more logins in for now",
        "{ssh}; its own log says why: journalctl -u ssh",
    ),
    (
        "Unable to negotiate|no matching",
        "{host} and this computer's ssh have no method in common: one of the two is old",
        "{ssh}",
    ),
    (
        "Bad configuration option|Bad owner or permissions|terminating, .* bad configuration|Can't open user config",
        "this computer's ssh does not accept its own configuration",
        "{ssh}",
    ),
    (
        "timed out|Timeout, server|Connection closed|Connection reset|Broken pipe|mux_client",
        "{host} does not answer",
        "is it switched on and on this network? {ssh}",
    ),
)


@dataclass(frozen=True)
class KeyFile:
    """A private key of this computer that ssh offers.

    Attributes:
        path: of the file.
        locked: whether a passphrase protects it.
        in_agent: whether an agent holds it unlocked.
    """

    path: str
    locked: bool
    in_agent: bool


def _output_of(*command: str) -> str:
    """The output of a program; empty where it fails."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=5, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _agent_keys() -> set[str]:
    """Fingerprints of the keys that the SSH agent holds."""
    return {words[1] for line in _output_of("ssh-add", "-l").splitlines() if len(words := line.split()) > 1}


def offered_keys(options: list[str], target: str) -> list[KeyFile]:
    """The key files that ssh would offer and that exist."""
    held, found = _agent_keys(), []
    for line in _output_of("ssh", "-G", *options, "--", target).splitlines():
        name, _, value = line.partition(" ")
        path = Path(value).expanduser()
        if name == "identityfile" and path.is_file():
            # No output: a passphrase protects it. An empty one is tried, never asked for.
            locked = not _output_of("ssh-keygen", "-y", "-P", "", "-f", str(path))
            public = path.with_name(f"{path.name}.pub")
            print_of = _output_of("ssh-keygen", "-lf", str(public if public.is_file() else path)).split()
            found.append(KeyFile(str(path), locked, len(print_of) > 1 and print_of[1] in held))
    return found


@dataclass(frozen=True)
class Address:
    """Host, user and port to log in; everything else is left to ssh's own configuration."""

    host: str
    user: str | None
    port: int | None

    @property
    def target(self) -> str:
        """The destination as ssh takes it: ``user@host`` or ``host``."""
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
    """Files and commands over one shared SSH connection.

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
        self._where = ["-F", str(reach.ssh_config)] if reach.ssh_config else []
        self._where += ["-p", str(address.port)] if address.port else []
        self._ssh = ["ssh", *options, *self._where, "--", address.target]
        # A login that greets its user prints before this line; what commands print comes after it.
        self._mark = f"edgevit-{secrets.token_hex(8)}"
        try:
            self._greet()
        except EdgevitError:
            self.close()
            raise

    def _greet(self) -> None:
        tools = "command -v timeout sha256sum tar >/dev/null && echo tools || echo none"
        lines = self.shell(f'uname -s; {tools}; echo "$HOME"').split("\n")
        if lines[:2] != ["Linux", "tools"] or len(lines) < 3:
            host, where = self._address.host, f"it says: {', '.join(lines)}"
            raise DeviceFailed(f"{host} is not a Linux computer with coreutils and tar", where=where)
        self.folder = f"{lines[2]}/.cache/edgevit"

    def _words(self, output: str) -> dict[str, str]:
        """Values for the placeholders of error messages."""
        address, where = self._address, " ".join(map(shlex.quote, self._where))
        offending = re.search(r"Offending \S+ key in (\S+):\d+", output)
        unprotected = re.search(r"(?:Load key|for) [\"'](\S+?)[\"'](?: are too open|: bad permissions)", output)
        return {
            "host": address.host,
            "port": str(address.port or 22),
            "ssh": " ".join(filter(None, ("ssh", where, address.target))),
            "copy": " ".join(filter(None, ("ssh-copy-id", where, address.target))),
            "key": f"'[{address.host}]:{address.port}'" if address.port else address.host,
            "known": f" -f {shlex.quote(offending[1])}" if offending else "",
            "unprotected": shlex.quote(unprotected[1]) if unprotected else "~/.ssh/id_*",
        }

    def _refused(self, output: str) -> DeviceUnreachable:
        words, where = self._words(output), f"ssh says: {last_line(output) or 'the connection was closed'}"
        for pattern, message, cure in _REFUSALS:
            if re.search(pattern, output):
                return DeviceUnreachable(message.format(**words), where=where, cure=cure.format(**words))
        if "Permission denied" in output:
            message, cure = self._why_denied(words)
            return DeviceUnreachable(message, where=where, cure=cure)
        return DeviceUnreachable(f"{self._address.host} does not answer", where=where, cure=words["ssh"])

    def _why_denied(self, words: dict[str, str]) -> tuple[str, str]:
        host, keys = words["host"], offered_keys(self._where, self._address.target)
        locked = [key.path for key in keys if key.locked and not key.in_agent]
        if locked:
            return (
                f"{host} refused the login: the key {locked[0]} is protected by a passphrase, and no agent holds it",
                f'eval "$(ssh-agent)" && ssh-add {shlex.quote(locked[0])}; if it is new there: {words["copy"]}',
            )
        if not keys and not _agent_keys():
            return f"{host} refused the login: this computer has no SSH key", f"ssh-keygen -t ed25519; {words['copy']}"
        return f"{host} refused the login", f"{words['copy']} puts your key there; is the user right?"

    def shell(self, command: str, *, limit_s: float = COMMAND_S) -> str:
        """Run a command with `sh` on the device and return its output."""
        return self._run(command, None, limit_s)

    def send(self, path: Path, place: str, finish: str) -> None:
        """Write a file on the device and finish it in the same command, since the connection may break in between."""
        part = shlex.quote(place)
        tidy = f"trap 'rm -f {part}' EXIT; trap 'exit 1' HUP INT TERM PIPE"
        self._run(f"{tidy}; cat >{part} || exit 1; {finish}", path, _SEND_S)

    def _run(self, command: str, source: Path | None, limit_s: float) -> str:
        line = [*self._ssh, f"sh -c {shlex.quote(f'echo {self._mark}; {command}')}"]
        with (source or Path("/dev/null")).open("rb") as file:
            try:
                done = subprocess.run(line, stdin=file, capture_output=True, timeout=limit_s, check=False)
            except subprocess.TimeoutExpired as error:
                raise DeviceUnreachable(f"{self._address.host} did not answer within {limit_s:.0f} s") from error
        output = done.stderr.decode("utf-8", "replace")
        greeting, marked, answer = done.stdout.decode("utf-8", "replace").partition(f"{self._mark}\n")
        if done.returncode == 255:
            raise self._refused(output)
        if not marked:
            raise no_commands(greeting or output)
        if done.returncode != 0:
            raise self.failed(output)
        return answer.rstrip("\n")

    def start(self, runtime: str, arguments: list[str], deadline_s: float) -> RunnerProcess:
        """Start Python on the device with these arguments, ended there after ``deadline_s`` and a margin."""
        own = shlex.quote(self.runtime_folder(runtime)) if runtime else ""
        words = " ".join(shlex.quote(argument) for argument in arguments)
        # Not exec: a shell turns the signal that ended Python into an exit status, which ssh does not.
        script = (
            f"echo {self._mark}; ORT_DISABLE_TELEMETRY=1 PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={own} "
            f"timeout -k {KILL_AFTER_S} {int(deadline_s) + LATER_S} python3 {words}; exit $?"
        )
        command = [*self._ssh, f"sh -c {shlex.quote(script)}"]
        return RunnerProcess(command, deadline_s, self._explain, after=self._mark)

    def _explain(self, code: int, output: str) -> EdgevitError | None:
        return self._refused(output) if code == 255 else None

    def install(self, runtime: str, host: RunnerEvent) -> None:
        """Copy a runtime's wheels for that machine and unpack them in edgevit's folder on the device.

        Raises:
            DeviceFailed: there are none for it; also for a 32-bit system on a 64-bit processor.
        """
        if host.get("bits") == 32:
            raise only_64_bit(runtime)
        self.bring(Installation(runtime, str(host.get("machine", "")), str(host.get("python", ""))))

    @cached_property
    def _leaving(self) -> list[str]:
        return [*self._ssh[:-2], "-O", "exit", "--", self._address.target]

    def close(self) -> None:
        """End the shared SSH connection and remove its control socket."""
        if (self._scratch / "c").exists():
            subprocess.run(self._leaving, capture_output=True, timeout=COMMAND_S, check=False)
        shutil.rmtree(self._scratch, ignore_errors=True)


def open_ssh(uri: str, reach: Reach) -> ShellDevice:
    """Connect over SSH to the device of a URI ``ssh://[USER@]HOST[:PORT]``."""
    return ShellDevice(uri, "ssh", SSHTransport(parse_address(uri), reach), reach)


def discover() -> list[Found]:
    """One entry that says whether ssh is installed here; hosts cannot be listed without contacting them."""
    if shutil.which("ssh"):
        return [Found("ssh://USER@HOST", "ready", "any Linux computer that ssh logs in to without a password")]
    return [Found("ssh://USER@HOST", "missing", "there is no ssh here", _INSTALL_SSH)]


KIND = Kind("Raspberry Pi and other Linux over SSH", "ssh://USER@HOST", open_ssh, discover)
