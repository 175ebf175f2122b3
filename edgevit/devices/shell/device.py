"""Devices with a shell and Python: copies the runner there, starts it and reads its events."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from edgevit.devices.base import MeasurementJob, Reach, RunnerEvent, RunnerEvents
from edgevit.devices.runner_process import RunnerProcess, runner_file, turn_times
from edgevit.errors import DeviceUnreachable

_PROBE_S = 60.0
"""Seconds for a probe, which starts Python on the device and may import every runtime."""


class Transport(Protocol):
    """How files and commands reach a device."""

    def put(self, path: Path) -> str:
        """Copy a file to the device and return its path there; a file that is there already is not sent again."""

    def start(self, runtime: str, arguments: list[str], deadline_s: float) -> RunnerProcess:
        """Start Python on the device with arguments; a runtime's own folder is on its path."""

    def own(self) -> dict[str, str]:
        """Runtimes in edgevit's folder on the device: path by name."""

    def library(self, runtime: str) -> tuple[str, str]:
        """Path and version of edgevit's native library for a runtime, or two empty strings."""

    def install(self, runtime: str, host: RunnerEvent) -> None:
        """Copy a runtime into edgevit's folder on the device."""

    def clean(self) -> int:
        """Remove edgevit's folder from the device; returns its size in bytes."""

    def close(self) -> None:
        """Close the connection and release what it holds on this computer."""


class ShellDevice:
    """A device that is reached through a `Transport`.

    Attributes:
        uri: the URI that it was opened by.
        kind: the scheme of its URI.
    """

    def __init__(self, uri: str, kind: str, transport: Transport, reach: Reach) -> None:
        self.uri, self.kind = uri, kind
        self._transport, self._reach = transport, reach
        self._installed: set[str] = set()
        self._host: RunnerEvent = {}

    def probe(self, runtime: str = "", *, imports: bool = False) -> list[RunnerEvent]:
        """Events ``host`` and ``runtimes``; with ``runtime``, also that runtime in edgevit's folder.

        Args:
            runtime: a runner's name of one, or empty.
            imports: also look into edgevit's own folder, and say which runtimes are there and cannot be imported.
        """
        further = {"imports": True, "own": self._transport.own()} if imports else {}
        events = self._all(runtime, {"mode": "probe", **further}, _PROBE_S)
        self._host = next((event for event in events if event["event"] == "host"), {})
        return events

    def _introduced(self) -> RunnerEvent:
        return next((event for event in self.probe() if event["event"] == "host"), {})

    def _all(self, runtime: str, job: dict[str, Any], deadline_s: float) -> list[RunnerEvent]:
        process = self._start(runtime, job, deadline_s)
        try:
            return list(process.events())
        finally:
            process.close()

    def _start(self, runtime: str, job: dict[str, Any], deadline_s: float) -> RunnerProcess:
        runner = self._transport.put(runner_file("linux", "runner.py"))
        arguments = ["-u", runner, json.dumps({**job, "deadline_s": deadline_s})]
        return self._transport.start(runtime, arguments, deadline_s)

    def _job(self, job: MeasurementJob, mode: str) -> dict[str, Any]:
        if self._reach.install_runtime and job.runtime not in self._installed:
            self._transport.install(job.runtime, self._host or self._introduced())
            self._installed.add(job.runtime)
        library, version = self._transport.library(job.runtime)
        native = {"library": library, "library_version": version} if library else {}
        return {
            **job.settings,
            **native,
            "mode": mode,
            "runtime": job.runtime,
            "model": self._transport.put(job.model),
            "inputs": self._transport.put(job.inputs),
        }

    def profile(self, job: MeasurementJob) -> RunnerEvents:
        """Measure one model on the device; yields the runner's events as they arrive."""
        yield from self._stream(job, "profile")

    def operators(self, job: MeasurementJob) -> RunnerEvents:
        """Time each operator of one model, in a process of its own; yields the runner's events."""
        yield from self._stream(job, "operators")

    def _stream(self, job: MeasurementJob, mode: str) -> RunnerEvents:
        process = self._start(job.runtime, self._job(job, mode), job.deadline_s)
        try:
            yield from process.events()
        finally:
            process.close()

    def turns(self, job: MeasurementJob) -> ShellTurns:
        """Load a model whose runs alternate with those of another."""
        return ShellTurns(lambda: self._start(job.runtime, self._job(job, "turns"), job.deadline_s))

    def clean(self) -> int:
        """Remove edgevit's folder from the device; returns its size in bytes."""
        return self._transport.clean()

    def close(self) -> None:
        """Close the connection to the device."""
        self._transport.close()


class ShellTurns:
    """A runner that runs its model on request, see `edgevit.devices.base.Turns`."""

    def __init__(self, start: Callable[[], RunnerProcess]) -> None:
        self._start = start
        self._process: RunnerProcess | None = None
        self._events: Iterator[RunnerEvent] = iter(())

    def start(self) -> list[RunnerEvent]:
        """Start the runner, load the model and warm up."""
        self._process = self._start()
        self._events = self._process.events()
        return self._until("ready")

    def _until(self, name: str) -> list[RunnerEvent]:
        events = []
        for event in self._events:
            events.append(event)
            if event["event"] == name:
                return events
        raise DeviceUnreachable("the runner ended before its turn")

    def turn(self, runs: int) -> list[int]:
        """Run the model ``runs`` times; nanoseconds each."""
        assert self._process is not None
        self._process.say(str(runs))
        return turn_times(self._until("turn"), runs)

    def end(self) -> list[RunnerEvent]:
        """Stop the runner and return its last events; none where it is gone already."""
        if self._process is None:
            return []
        try:
            self._process.say("0")
            return self._until("done")
        except DeviceUnreachable:
            return []
        finally:
            self._process.close()
