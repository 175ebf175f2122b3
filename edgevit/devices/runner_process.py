"""A runner process: its lines as events, its exit explained."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from edgevit.core.files import targets_folder
from edgevit.devices.base import RunnerEvent
from edgevit.errors import DeviceFailed, DeviceUnreachable, EdgevitError

_GRACE_S = 20.0
"""Seconds after the runner's own deadline until it is killed from here, so that its own report comes first."""
_LONGEST_LINE = 64 << 20
"""Bytes of the longest accepted line (64 MiB), so that a runaway program cannot fill memory."""
_ENDS_S = 10.0
"""Seconds that a runner has to end once its standard input is closed, or its last output to arrive."""
DEADLINE, CLOSED = 142, 143
"""Exit statuses of edgevit's runner: its own deadline, and its standard input closed."""

Explain = Callable[[int, str], EdgevitError | None]


def runner_file(*parts: str) -> Path:
    """A file below ``targets/runners``, as shipped or in a checkout."""
    return targets_folder().joinpath("runners", *parts)


class RunnerProcess:
    """A started runner, here or behind a program that carries its standard streams.

    Args:
        command: program and arguments.
        deadline_s: of the runner itself; it is killed from here some seconds later.
        explain: what an exit status and standard error mean where this runner runs, or None.
        env: of the program; None: this process's.
        after: a line before the runner's first; what comes earlier is a login shell's greeting. Empty: there is none.
        cures: by kind of the runner's own errors, where they differ from the usual ones.
    """

    def __init__(
        self,
        command: list[str],
        deadline_s: float,
        explain: Explain,
        env: dict[str, str] | None = None,
        after: str = "",
        cures: Mapping[str, str] | None = None,
    ) -> None:
        self._cures = cures or {}
        self._explain, self._deadline = explain, deadline_s
        self._after, self._greeting = after.encode(), b""
        self._late = threading.Event()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
        )
        self._output: list[str] = []
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._timer = threading.Timer(deadline_s + _GRACE_S, self._overdue)
        self._timer.daemon = True
        self._timer.start()

    def _listen(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._output = [*self._output[-200:], line.decode("utf-8", "replace")]

    def _overdue(self) -> None:
        self._late.set()
        self._process.kill()

    def events(self) -> Iterator[RunnerEvent]:
        """The runner's events until it ends.

        Raises:
            DeviceUnreachable: the connection broke, or the runner ended before it was done.
            DeviceFailed: it refused the job, or wrote something that is not an event.
        """
        assert self._process.stdout is not None
        done = False
        while line := self._process.stdout.readline(_LONGEST_LINE):
            if self._after:
                self._await(line)
                continue
            event = parse_line(line)
            if event["event"] == "error":
                yield event
                raise refusal(event, self._cures)
            done = done or event["event"] == "done"
            yield event
        if done:
            return
        raise self._ending()

    def _await(self, line: bytes) -> None:
        # Not the whole line: a greeting need not end with a line break.
        if line.rstrip().endswith(self._after):
            self._after = b""
        elif not self._greeting:
            self._greeting = line

    def _ending(self) -> EdgevitError:
        code = self._process.wait()
        self._listener.join(_ENDS_S)
        output = "".join(self._output)
        if self._after and code != 255:  # ssh's own
            return no_commands(self._greeting.decode("utf-8", "replace") or output)
        if self._late.is_set() or code in (DEADLINE, 124):
            return DeviceFailed(
                f"the model was stopped on the device at its limit of {self._deadline:.0f} s",
                where=last_line(output),
                cure="give it longer with --deadline, or measure less: --seconds, --runs",
            )
        known = self._explain(code, output)
        return known or crashed(code, output)

    def say(self, line: str) -> None:
        """Write a line to the runner's standard input.

        Raises:
            DeviceUnreachable: it is gone.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._ending() from None

    def close(self) -> None:
        """Close its standard input, which ends it, and wait for the end."""
        self._timer.cancel()
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(_ENDS_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def parse_line(line: bytes) -> RunnerEvent:
    """The event in one line of a runner.

    Raises:
        DeviceFailed: it is not an event.
    """
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        shown = line[:120].decode("utf-8", "replace").strip()
        raise DeviceFailed("the device said what edgevit's runner does not say", where=shown)
    return event


def turn_times(events: list[RunnerEvent], runs: int) -> list[int]:
    """The times of one turn in nanoseconds, from the runner's events until the turn was over.

    Raises:
        DeviceFailed: there are not as many as were asked for.
    """
    taken = events[-1].get("ns") if events else None
    if not isinstance(taken, list) or len(taken) != runs:
        raise DeviceFailed("the device said what edgevit's runner does not say", where=str(taken)[:100])
    return [int(ns) for ns in taken]


_NO_CURES: Mapping[str, str] = MappingProxyType({})
_CURES = {
    "runtime-missing": "edgevit profile ... --install-runtime puts it into edgevit's own folder on the device",
    "memory": "take a smaller model or a quantized one, or split it",
    "system-32-bit": "install a 64-bit system: on a Raspberry Pi 3, 4, 5 or Zero 2 W the 64-bit Raspberry Pi OS",
    "load": "edgevit verify says whether the file is good; an old runtime may not know its operators",
}


def refusal(event: RunnerEvent, cures: Mapping[str, str] = _NO_CURES) -> DeviceFailed:
    """The error that a runner reports in its last event.

    Args:
        event: the runner's last one.
        cures: by kind of error, where they differ from those of a device that is reached from here.
    """
    kind, message = str(event.get("kind", "")), str(event.get("message", "")).strip()
    first, _, rest = message.partition("\n")
    return DeviceFailed(first, where=rest[:500], cure=cures.get(kind, _CURES.get(kind, "")))


def crashed(code: int, output: str) -> EdgevitError:
    """The error for a runner that ended without an event: what its exit status tells."""
    number = -code if code < 0 else code - 128
    where = last_line(output)
    if number == signal.SIGILL:
        return DeviceFailed(
            "the runtime uses instructions that the device's processor does not have (SIGILL)",
            where=where,
            cure="install another version of the runtime: --install-runtime takes the one edgevit is tested with",
        )
    if number == signal.SIGKILL:
        return DeviceFailed(
            "the device killed the model: most likely its memory was not enough",
            where=where,
            cure="take a smaller model or a quantized one, or split it",
        )
    if number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS):
        name = signal.Signals(number).name
        cure = "edgevit verify says whether the file is good; try another version of the runtime"
        return DeviceFailed(f"the runtime crashed on the device ({name})", where=where, cure=cure)
    if code in (126, 127):
        cure = "sudo apt install python3"
        return DeviceFailed("the device cannot start edgevit's runner: it needs Python 3.9", where=where, cure=cure)
    return DeviceUnreachable(f"the runner ended early with status {code}", where=where)


def no_commands(output: str) -> DeviceFailed:
    """The error for a login that ran something else than the command, e.g. a shell's start-up file that ends it.

    Args:
        output: output of the login.
    """
    return DeviceFailed(
        "the login on the device does not run commands: its shell, or a start-up file of it, ends before",
        where=f"it says: {last_line(output)}" if output.strip() else "",
        cure="at the top of ~/.bashrc there: case $- in *i*) ;; *) return ;; esac",
    )


def last_line(text: str) -> str:
    """The last non-empty line of a text."""
    return next((line.strip()[:300] for line in reversed(text.splitlines()) if line.strip()), "")
