"""Programs in processes of their own, forked from `tests.fork_server`: what they import is there already."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any
from unittest.mock import patch

import pytest

from edgevit.backends.process import jobs
from edgevit.backends.process.jobs import ProcessLimits, Worker
from edgevit.pipeline import export

_VARIABLE = "TESTS_FORK_SERVER"
_PATIENCE = 300.0
_start_anew = jobs.start_worker


@contextlib.contextmanager
def fork_server(*, at_once: bool = False) -> Iterator[None]:
    """Start the server; it imports the toolchains at once, or when it is asked for something."""
    with tempfile.TemporaryDirectory(prefix="edgevit-forks-") as folder:
        path = Path(folder) / "socket"
        command = [sys.executable, str(Path(__file__).with_name("fork_server.py")), str(path)]
        command += ["at-once"] if at_once else []
        with (Path(folder) / "log").open("wb") as log:
            server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
        os.environ[_VARIABLE] = str(path)
        try:
            yield
        finally:
            del os.environ[_VARIABLE]
            assert server.stdin is not None
            server.stdin.close()
            server.wait()


class Forked:
    """A program that runs; as `subprocess.Popen` has it.

    Attributes:
        pid: its process.
        returncode: None while it runs, the number of a signal negative.
        stdin: None, or the writable end of its standard input.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        streams: Sequence[int],
        *,
        environment: Mapping[str, str],
        cwd: Path,
        group: bool = False,
        stdin: IO[bytes] | None = None,
    ) -> None:
        request = {
            "module": module,
            "arguments": list(arguments),
            "environment": dict(environment),
            "cwd": str(cwd),
            "group": group,
        }
        self.stdin = stdin
        self.returncode: int | None = None
        self._connection = _connected()
        data = json.dumps(request).encode()
        self._connection.sendall(struct.pack("!I", len(data)))
        sent = socket.send_fds(self._connection, [data], list(streams))
        self._connection.sendall(data[sent:])
        self.pid = self._number()

    def _number(self) -> int:
        data = self._connection.recv(4, socket.MSG_WAITALL)
        if len(data) < 4:
            raise ConnectionError("the fork server is gone")
        return int(struct.unpack("!i", data)[0])

    def poll(self) -> int | None:
        """The status, if it has ended."""
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The status, when it has ended.

        Raises:
            subprocess.TimeoutExpired: it has not.
        """
        if self.returncode is None:
            if timeout is not None and not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a forked program", timeout)
            self.returncode = self._number()
            self._connection.close()
        return self.returncode

    def kill(self) -> None:
        """End it at once."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def start_anew(patch_: pytest.MonkeyPatch) -> None:
    """Have workers start as they do for users: with nothing imported, and a hash seed of their own."""
    patch_.delenv(_VARIABLE, raising=False)


def _connected() -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            connection.connect(os.environ[_VARIABLE])
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return connection


def run_forked(
    module: str, arguments: Sequence[str], *, environment: Mapping[str, str], cwd: Path, timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, as `subprocess.run` does.

    Raises:
        subprocess.TimeoutExpired: it took longer, and was killed.
    """
    with (
        Path(os.devnull).open("rb") as nothing,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as errors,
    ):
        streams = [nothing.fileno(), out.fileno(), errors.fileno()]
        process = Forked(module, arguments, streams, environment=environment, cwd=cwd)
        try:
            status = process.wait(timeout)
        finally:
            process.kill()
        said = []
        for stream in (out, errors):
            stream.seek(0)
            said.append(stream.read().decode())
    return subprocess.CompletedProcess([module, *arguments], status, *said)


def _start_worker(folder: Path, log: Path, limits: ProcessLimits, imports: Sequence[str] = ()) -> Worker:
    if _VARIABLE not in os.environ:
        return _start_anew(folder, log, limits, imports)
    request = folder / "job.json"
    log.parent.mkdir(parents=True, exist_ok=True)
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stdin, log.open("ab") as output:
        process: Any = Forked(
            "edgevit.backends.process.worker",
            [str(request), *imports],
            [stdin.fileno(), output.fileno(), output.fileno()],
            environment=jobs._environment(limits),
            cwd=Path.cwd(),
            group=True,
            stdin=os.fdopen(writing, "wb"),
        )
    return Worker(process, request, log)


def fork_workers() -> contextlib.ExitStack:
    """Have the workers of this process forked, until the stack is closed; not those started without the server."""
    stack = contextlib.ExitStack()
    for module in (jobs, export):
        stack.enter_context(patch.object(module, "start_worker", _start_worker))
    return stack
