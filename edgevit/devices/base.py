"""The interface of a device, and how one is opened by its URI."""

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
    """One measurement that a device is asked for.

    Attributes:
        model: the model file.
        runtime: the runtime that executes the model: ``litert``, ``onnxruntime`` or ``executorch``.
        inputs: the golden inputs, a safetensors file.
        settings: further fields of the runner's job: threads, durations, and so on.
        deadline_s: seconds after which the device itself gives up.
    """

    model: Path
    runtime: str
    inputs: Path
    settings: Mapping[str, Any]
    deadline_s: float


class Turns(Protocol):
    """A loaded model whose runs alternate with those of another model."""

    def start(self) -> list[RunnerEvent]:
        """Load the model and warm up; returns the runner's events until it was ready."""

    def turn(self, runs: int) -> list[int]:
        """Run the model ``runs`` times; returns each run's time in nanoseconds."""

    def end(self) -> list[RunnerEvent]:
        """Stop the runner; returns its last events."""


@runtime_checkable
class ConnectedDevice(Protocol):
    """A connected device that runs models; close it when done.

    Every method raises `DeviceUnreachable` when the device does not answer, or cannot do what it is asked.
    """

    uri: str
    kind: str

    def probe(self) -> list[RunnerEvent]:
        """Events ``host`` and ``runtimes``: what the machine is and which runtimes it has."""

    def profile(self, job: MeasurementJob) -> RunnerEvents:
        """Measure one model's latency, memory and answers; yields the runner's events as they arrive."""

    def operators(self, job: MeasurementJob) -> RunnerEvents:
        """Time one model's operators in a process of its own; yields the runner's events."""

    def turns(self, job: MeasurementJob) -> Turns:
        """Load a model whose runs alternate with those of another."""

    def clean(self) -> int:
        """Remove edgevit's files from the device; returns their size in bytes, 0 where the device does not say."""

    def close(self) -> None:
        """Close the connection to the device."""


@runtime_checkable
class Prepares(Protocol):
    """A device that must fetch something for a runtime before the user is asked to act."""

    def prepare(self, runtime: str) -> None:
        """Fetch what the runtime needs, or refuse.

        Raises:
            DeviceUnreachable: it is missing here, and may not be fetched.
        """


def prepare(device: ConnectedDevice, runtime: str) -> None:
    """Let a device fetch what a runtime needs, or refuse, before the user is asked to open a link."""
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
        announce: called with one line about each step that takes time.
        ask: called with what the user has to do.
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
    """One discovered device, or the reason why this kind cannot be used here."""

    uri: str
    state: str
    what: str
    cure: str = ""


@dataclass(frozen=True)
class Kind:
    """One way to reach devices; its name is the scheme of its URIs.

    Attributes:
        title: what such devices are called in messages.
        pattern: how their URIs are written.
        open: connects to the device of a URI.
        discover: lists the devices that are present now; must be quick.
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
