"""A real sshd on the loopback interface, installed and started by the test that needs it."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.lab.emulated import free_port, install

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Server:
    """A running sshd; logging in to it finds ``home`` and the Python of these tests."""

    uri: str
    port: int
    config: Path
    home: Path
    folder: Path
    pid: int

    def sessions(self) -> list[int]:
        """Processes that it started for connections."""
        return list(children(self.pid))

    def runners(self) -> list[int]:
        """Runners that were started from the home folder and still live."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    line = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if str(self.home).encode() in line and b"runner.py" in line and b"-u\0" in line:
                    found.append(int(entry.name))
        return found

    @property
    def own(self) -> Path:
        """edgevit's folder there."""
        return self.home / ".cache/edgevit"


def children(parent: int) -> list[int]:
    """All descendants of a process."""
    text = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in text.splitlines()]
    found, known = [], {parent}
    for pid, above in sorted(pairs):
        if above in known:
            known.add(pid)
            found.append(pid)
    return found


@contextmanager
def sshd(folder: Path, python: str = sys.executable, home: Path | None = None) -> Iterator[Server]:
    """Run sshd until the block ends.

    Args:
        folder: for keys, configuration and log; sshd needs absolute paths.
        python: what ``python3`` is over there.
        home: of the one who logs in.
    """
    install("sshd", "ssh")
    folder.mkdir(parents=True, exist_ok=True)
    Path("/run/sshd").mkdir(exist_ok=True)
    home = home or folder / "home"
    programs = folder / "bin"
    for path in (home, programs):
        path.mkdir(parents=True, exist_ok=True)
    wrapper = programs / "python3"
    wrapper.write_text(f'#!/bin/sh\nexec {shlex.quote(python)} "$@"\n')
    wrapper.chmod(0o755)
    for key in ("host", "user", "other"):
        if not (folder / key).exists():
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", folder / key], check=True
            )
    port = free_port()
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/user.pub\nStrictModes no\nPasswordAuthentication no\n"
        "KbdInteractiveAuthentication no\nUsePAM no\nPermitRootLogin yes\n"
        f"SetEnv HOME={home} PATH={programs}:/usr/bin:/bin OMP_NUM_THREADS=1\n"
    )
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    config = client_config(folder)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            ["/usr/sbin/sshd", "-D", "-e", "-f", str(folder / "config")], stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_for(port)
        yield Server(f"ssh://127.0.0.1:{port}", port, config, home, folder, process.pid)
    finally:
        for pid in children(process.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        process.terminate()
        process.wait(10)


def client_config(folder: Path, *, key: str = "user", known: str = "known_hosts") -> Path:
    """A file for ``ssh -F``."""
    path = folder / f"client-{key}-{known}"
    path.write_text(
        f"Host *\n  IdentityFile {folder}/{key}\n  IdentitiesOnly yes\n  UserKnownHostsFile {folder}/{known}\n"
        "  GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n"
    )
    return path


def wait_for(port: int, seconds: float = 10) -> None:
    """Until something listens there."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port}")


def eventually(check: object, seconds: float = 15) -> bool:
    """Whether a condition comes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if check():  # type: ignore[operator]
            return True
        time.sleep(0.1)
    return False
