"""What a device is, and how one is found by its URI."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlsplit

from edgevit.core.plugins import announced
from edgevit.errors import UnknownName, UsageError

GROUP = "edgevit.devices"
RunnerEvent = dict[str, Any]
"""One line of a runner: see docs/profiling.md."""
RunnerEvents = Generator[RunnerEvent, None, None]
"""A runner's lines as they come; to close them ends the runner."""


@dataclass(frozen=True)
class MeasurementJob:
    """What a device is asked to do.

    Attributes:
        model: the model file.
        runtime: that runs it: ``litert``, ``onnxruntime`` or ``executorch``.
        inputs: the golden inputs, a safetensors file.
        settings: further fields of the runner's job: threads, durations, and so on.
        deadline_s: after which the device itself gives up, in seconds.
    """

    model: Path
    runtime: str
    inputs: Path
    settings: Mapping[str, Any]
    deadline_s: float


class Turns(Protocol):
    """A loaded model that runs when told to."""

    def start(self) -> list[RunnerEvent]:
        """Load and warm up; what the runner said until it was ready."""

    def turn(self, runs: int) -> list[int]:
        """Run so often; each run's time in nanoseconds."""

    def end(self) -> list[RunnerEvent]:
        """Stop it; what it said at last."""


@runtime_checkable
class ConnectedDevice(Protocol):
    """A place that runs models. Close it when done.

    Every method raises `DeviceUnreachable` when the device does not answer, or cannot do what it is asked.
    """

    uri: str
    kind: str

    def probe(self) -> list[RunnerEvent]:
        """What the machine and its runtimes are: events ``host`` and ``runtimes``."""

    def profile(self, job: MeasurementJob) -> RunnerEvents:
        """Measure one model's latency, memory and answers; yields the runner's events as they arrive."""

    def operators(self, job: MeasurementJob) -> RunnerEvents:
        """Time one model's operators, in a process of its own."""

    def turns(self, job: MeasurementJob) -> Turns:
        """Load a model that runs in turns with another."""

    def clean(self) -> int:
        """Remove what edgevit put there; how many bytes that were, or 0 where the device does not say."""

    def close(self) -> None:
        """Let go of the device."""


@runtime_checkable
class Prepares(Protocol):
    """A device that needs something for a runtime before anybody is asked to do anything."""

    def prepare(self, runtime: str) -> None:
        """Fetch or refuse it.

        Raises:
            DeviceUnreachable: it is not there, and may not be fetched.
        """


def prepare(device: ConnectedDevice, runtime: str) -> None:
    """Let a device fetch what a runtime needs, or refuse, before a person opens a link for nothing."""
    if isinstance(device, Prepares):
        device.prepare(runtime)


def place_name(uri: str) -> str:
    """A device's URI inside a sentence: ``local`` and ``browser`` rather than ``local:`` and ``browser:``."""
    return uri.rstrip(":/") or uri


@dataclass(frozen=True)
class Reach:
    """How devices are reached: options of the command line, each read by the kinds it concerns.

    Attributes:
        install_runtime: put a missing runtime into edgevit's own folder on the device.
        ssh_config: a file for ``ssh -F``.
        accelerator: ``cpu`` or ``webgpu``, for browsers.
        lan: for browsers, listen on the local network.
        wait_s: how long to wait for a person to open the page, in seconds.
        announce: told what takes time.
        ask: told what the person has to do.
    """

    install_runtime: bool = False
    ssh_config: Path | None = None
    accelerator: str = "cpu"
    lan: bool = False
    wait_s: float = 600
    announce: Callable[[str], None] = field(default=lambda text: None)
    ask: Callable[[str], None] = field(default=lambda text: None)


@dataclass(frozen=True)
class Found:
    """A device that is there, or why one of a kind cannot be."""

    uri: str
    state: str
    what: str
    cure: str = ""


@dataclass(frozen=True)
class Kind:
    """One way to reach devices; its name is the scheme of their URIs.

    Attributes:
        title: for people.
        pattern: of the URI.
        open: connects.
        discover: what is there now, quickly.
    """

    title: str
    pattern: str
    open: Callable[[str, Reach], ConnectedDevice]
    discover: Callable[[], list[Found]]


@lru_cache(maxsize=1)
def kinds() -> dict[str, Kind]:
    """All installed kinds by scheme, edgevit's own and those of other packages."""
    return announced(GROUP)


def open_device(uri: str, reach: Reach) -> ConnectedDevice:
    """Connect to a device.

    Raises:
        UsageError: not a device's URI, or of an unknown kind.
        DeviceUnreachable: it does not answer.
    """
    scheme, found, _ = uri.partition(":")
    if not found:
        known = ", ".join(kind.pattern for kind in kinds().values())
        raise UsageError(f"{uri!r} is not a device", cure=f"devices look like {known}")
    if scheme not in kinds():
        raise UnknownName("kind of device", scheme, kinds(), listing="edgevit devices lists what is there")
    try:
        urlsplit(uri).port  # noqa: B018  # the property raises
    except ValueError as error:
        raise UsageError(f"{uri!r} is not a device: {error}") from error
    return kinds()[scheme].open(uri, reach)
