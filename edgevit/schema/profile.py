"""The profile document: measurements on one device, the conditions they were made under, and their credibility."""

from __future__ import annotations

import json
from typing import Any, Final, Literal

from pydantic import Field, ValidationError

from edgevit.errors import BadFile
from edgevit.schema.strict import Strict, no_repeats

SCHEMA_VERSION: Final = 1
MAX_BYTES = 256 << 20
"""Longest accepted text of a file of profiles (256 MiB)."""
Status = Literal["stable", "unstable", "partial", "wrong"]


class DeviceInfo(Strict):
    """The machine that ran the model, as it describes itself.

    ``uri`` is how it was reached; ``emulator`` names the program that pretended to be this machine, and is empty on
    a real one; ``virtual`` is a virtual machine, which runs at the processor's own speed.
    """

    uri: str
    kind: str
    model: str = ""
    machine: str = ""
    os: str = ""
    kernel: str = ""
    libc: str = ""
    cpus: int = 0
    cores: tuple[str, ...] = ()
    memory_bytes: int | None = None
    page_bytes: int | None = None
    emulator: str = ""
    virtual: bool = False
    details: dict[str, str] = {}


class ArtifactInfo(Strict):
    """The file that ran, and the bundle it is from."""

    model: str
    bundle: str
    backend: str
    precision: str
    entry_sha256: str
    bytes: int
    accuracy: float | None = None
    accuracy_on: str = ""


class RuntimeInfo(Strict):
    """The runtime that executed the model, and the processors and threads it used."""

    name: str
    version: str
    threads: int
    cpus: tuple[int, ...] = ()
    accelerator: str = "cpu"


class Contract(Strict):
    """The protocol that was followed; see docs/profiling.md. Durations in seconds."""

    runs: int
    seconds: float
    least_seconds: float
    warmup_limit_s: float
    warmup_window_s: float
    warmup_agree: float
    interval_limit: float


class Latency(Strict):
    """Statistics of the measured runs, in milliseconds.

    ``low`` and ``high`` bound the median at 95 %; ``dropped`` runs at the start still belonged to the warm-up.
    """

    runs: int
    dropped: int
    seconds: float
    median: float
    low: float
    high: float
    p90: float
    p99: float
    min: float
    mean: float
    std: float
    independent_runs: float

    @property
    def interval_share(self) -> float:
        """Width of the interval as a share of the median."""
        return (self.high - self.low) / self.median


class Warmup(Strict):
    """Runs before measuring; ``steady`` says whether they ended because three windows agreed."""

    runs: int
    seconds: float
    steady: bool
    medians: tuple[float, ...]


class Memory(Strict):
    """Resident memory of the process that ran the model, in bytes; ``model`` is what the model itself added."""

    peak: int | None = None
    model: int | None = None


class Conditions(Strict):
    """The state of the machine at one moment, ``at_s`` seconds after the start of its phase."""

    phase: str
    at_s: float
    temperature_c: dict[str, float] = {}
    frequency_khz: dict[str, int] = {}
    ceiling_khz: dict[str, int] = {}
    hardware_khz: dict[str, int] = {}
    governor: dict[str, str] = {}
    throttled: tuple[str, ...] = ()
    throttled_since_boot: tuple[str, ...] = ()
    throttle_count: int | None = None
    load: float | None = None
    battery: dict[str, str] = {}


class OperatorTime(Strict):
    """One operator's mean time in one run, in microseconds, and the part of the runtime that executed it."""

    name: str
    kind: str
    unit: str
    calls: int
    us: float


class Window(Strict):
    """One part of a sustained run: median and p90 in milliseconds, from ``at_s`` seconds on."""

    at_s: float
    runs: int
    median: float
    p90: float


class Energy(Strict):
    """Energy as read from a meter; ``joules`` is for one inference, above rest."""

    meter: str
    rest_watts: float
    busy_watts: float
    joules: float
    runs: int


class Answers(Strict):
    """The golden vectors on the device: whether its outputs pass the verdict, and their error."""

    equal: bool
    probes: int
    error: float | None = None
    tolerance: float | None = None
    reasons: tuple[str, ...] = ()


class Profile(Strict):
    """The profile of one model on one device.

    ``status`` is ``stable`` only if nothing speaks against the median; ``reasons`` says what does. ``emulated`` is a
    machine that does not exist: its figures are no device's.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    edgevit: str
    created: str
    status: Status
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    emulated: bool = False
    device: DeviceInfo
    artifact: ArtifactInfo
    runtime: RuntimeInfo | None = None
    contract: Contract
    load_ms: float | None = None
    first_ms: float | None = None
    warmup: Warmup | None = None
    latency: Latency | None = None
    memory: Memory = Memory()
    answers: Answers | None = None
    conditions: tuple[Conditions, ...] = ()
    operators: tuple[OperatorTime, ...] = ()
    sustained: tuple[Window, ...] = ()
    energy: Energy | None = None
    samples_ms: tuple[float, ...] = Field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The document as a dictionary; absent parts left out."""
        return self.model_dump(mode="json", exclude_none=True)


class ProfileComparison(Strict):
    """Two models measured in turns on one device: the ratio of B's time to A's.

    ``different`` says that the interval of the ratio leaves out 1.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    edgevit: str
    created: str
    status: Status
    reasons: tuple[str, ...] = ()
    emulated: bool = False
    device: DeviceInfo
    a: ArtifactInfo
    b: ArtifactInfo
    runtime_a: RuntimeInfo
    runtime_b: RuntimeInfo
    pairs: int
    a_ms: float
    b_ms: float
    ratio: float
    low: float
    high: float
    different: bool

    def to_dict(self) -> dict[str, Any]:
        """The document as a dictionary; absent parts left out."""
        return self.model_dump(mode="json", exclude_none=True)


def parse_profiles(text: str | bytes, where: str) -> list[Profile]:
    """Profiles from a document of ``edgevit profile --json``.

    Raises:
        BadFile: too large, not JSON, or not such a document.
    """
    if len(text) > MAX_BYTES:
        raise BadFile("the file of profiles is too large", where=where)
    try:
        document = json.loads(text, object_pairs_hook=no_repeats)
        return [Profile.model_validate(one) for one in document["profiles"]]
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise BadFile(f"not a file of profiles: {key}: {first['msg']}", where=where) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        cure = "edgevit profile BUNDLE -d DEVICE --json > FILE writes one"
        raise BadFile("not a file of profiles", where=where, cure=cure) from error
