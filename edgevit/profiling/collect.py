"""Turns a runner's events into a profile: statistics, and every reason not to trust them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from edgevit.errors import DeviceFailed
from edgevit.profiling.stats import independent_runs, median_noise, slowdown, steady_interval, transient
from edgevit.schema.profile import (
    Conditions,
    Contract,
    DeviceInfo,
    Energy,
    Latency,
    Memory,
    OperatorTime,
    RuntimeInfo,
    Status,
    Warmup,
    Window,
)

RunnerEvent = dict[str, Any]

_LEAST_RUNS = 10
"""Fewest measured runs for a median that is called stable (docs/profiling.md)."""
_LEAST_INDEPENDENT = 8
"""Fewest independent runs that the measured ones must be worth (docs/profiling.md)."""
_SLOWER = 0.05
"""Share by which runs may get slower before the device counts as throttled (docs/profiling.md)."""
_WINDOW_S = 5.0
"""Seconds of one window in the table of a sustained run."""
_BUSY = 0.5
"""Load average from which the device counts as busy before the start."""
_SETTLED_RUNS = 20
"""Fewest measured runs that are compared with the warm-up."""


@dataclass
class Collected:
    """The events received so far; an aborted run leaves what it had."""

    host: RunnerEvent = field(default_factory=dict)
    loaded: RunnerEvent = field(default_factory=dict)
    first_ns: int | None = None
    warmup: RunnerEvent = field(default_factory=dict)
    outputs: NDArray[np.float32] | None = None
    runs_ns: list[int] = field(default_factory=list)
    seconds: float = 0.0
    sustained: list[tuple[float, list[int]]] = field(default_factory=list)
    conditions: list[Conditions] = field(default_factory=list)
    memory: RunnerEvent = field(default_factory=dict)
    operators: list[RunnerEvent] = field(default_factory=list)
    energy: RunnerEvent = field(default_factory=dict)
    error: RunnerEvent = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)
    stamps: list[str] = field(default_factory=list)
    done: bool = False

    @property
    def processors(self) -> int:
        """The machine's number of processors, 1 where it is unknown."""
        return int(self.host.get("cpus") or 1)

    def take(self, event: RunnerEvent) -> None:
        """Add one event.

        Raises:
            DeviceFailed: it is not an event of edgevit's runner.
        """
        try:
            self._take(event)
        except (KeyError, TypeError, ValueError, ValidationError) as error:
            shown = str(event)[:120]
            raise DeviceFailed("the device said what edgevit's runner does not say", where=shown) from error

    def _take(self, event: RunnerEvent) -> None:
        name = event["event"]
        if name in ("host", "loaded", "warmup", "memory", "energy", "error"):
            setattr(self, name, {**event})
        elif name == "first":
            self.first_ns = int(event["ns"])
        elif name == "runs":
            self.runs_ns += [int(ns) for ns in event["ns"]]
            self.seconds = float(event["at_s"])
        elif name == "sustained":
            self.sustained.append((float(event["at_s"]), [int(ns) for ns in event["ns"]]))
        elif name == "conditions":
            values = {key: value for key, value in event.items() if key != "event"}
            self.conditions.append(Conditions.model_validate(values))
        elif name == "outputs":
            data = np.frombuffer(base64.b64decode(event["float32"]), np.float32)
            self.outputs = data.reshape(event["shape"])
        elif name == "operators":
            self.operators = event["rows"]
        elif name == "details":
            self.details.update({str(key): str(value) for key, value in event["values"].items()})
        elif name == "stamp":
            self.stamps.append(str(event["reason"]))
        elif name == "done":
            self.done = True


def device_info(uri: str, kind: str, found: Collected) -> DeviceInfo:
    """The description of the machine, from the runner's events."""
    host = found.host
    kept = ("model", "machine", "os", "kernel", "libc", "cpus", "memory_bytes", "page_bytes", "emulator", "virtual")
    known = {key: host[key] for key in kept if host.get(key) is not None}
    return DeviceInfo(uri=uri, kind=kind, cores=tuple(host.get("cores", ())), details=found.details, **known)


def runtime_info(found: Collected) -> RuntimeInfo | None:
    """The description of the runtime that executed the model."""
    loaded = found.loaded
    if not loaded:
        return None
    return RuntimeInfo(
        name=loaded["runtime"],
        version=loaded["version"],
        threads=loaded["threads"],
        cpus=tuple(loaded.get("cpus", ())),
        accelerator=loaded.get("accelerator", "cpu"),
    )


def latency(runs_ns: Sequence[int], seconds: float) -> tuple[Latency, tuple[float, ...]]:
    """Latency statistics in milliseconds, and the runs they are of, in the order of time."""
    every = np.asarray(runs_ns, np.float64) / 1e6
    cut = transient(every)
    values = every[cut:]
    interval = steady_interval(every, cut)
    p90, p99 = np.quantile(values, [0.9, 0.99])
    found = Latency(
        runs=len(values),
        dropped=cut,
        seconds=seconds,
        median=float(np.median(values)),
        low=interval.low,
        high=interval.high,
        p90=float(p90),
        p99=float(p99),
        min=float(values.min()),
        mean=float(values.mean()),
        std=float(values.std()),
        independent_runs=independent_runs(values),
    )
    return found, tuple(round(float(value), 6) for value in values)


def warmup(found: Collected) -> Warmup | None:
    """The record of the warm-up."""
    if not found.warmup:
        return None
    medians = tuple(ns / 1e6 for ns in found.warmup.get("medians_ns", ()))
    return Warmup(
        runs=found.warmup["runs"], seconds=found.warmup["seconds"], steady=found.warmup["steady"], medians=medians
    )


def memory(found: Collected) -> Memory:
    """The memory use of the runner's process."""
    peak, before = found.memory.get("peak_bytes"), found.memory.get("before_bytes")
    return Memory(peak=peak, model=max(0, peak - before) if peak and before else None)


def operator_times(found: Collected) -> tuple[OperatorTime, ...]:
    """The time of each operator, as the runner reported it, validated against the schema."""
    return tuple(OperatorTime.model_validate(row) for row in found.operators)


def energy(found: Collected) -> Energy | None:
    """The measured energy above rest for one inference."""
    read = found.energy
    if not read or not read["runs"]:
        return None
    above = max(0.0, read["busy_watts"] - read["rest_watts"])
    joules = above * read["seconds"] / read["runs"]
    return Energy(
        meter=read["meter"],
        rest_watts=read["rest_watts"],
        busy_watts=read["busy_watts"],
        joules=joules,
        runs=read["runs"],
    )


def sustained_windows(found: Collected, width_s: float = _WINDOW_S) -> tuple[Window, ...]:
    """Latencies of a sustained run, in windows of equal duration."""
    parts: dict[int, list[int]] = {}
    for at, runs in found.sustained:
        parts.setdefault(int(at / width_s), []).extend(runs)
    return tuple(
        Window(
            at_s=number * width_s,
            runs=len(runs),
            median=float(np.median(runs)) / 1e6,
            p90=float(np.quantile(runs, 0.9)) / 1e6,
        )
        for number, runs in sorted(parts.items())
    )


def throttling(conditions: Sequence[Conditions]) -> list[str]:
    """Signs that the machine slowed itself down, or was about to."""
    measured = [one for one in conditions if one.phase != "sustained"]
    reasons = sorted({what for one in measured for what in one.throttled})
    if reasons:
        return [f"the device throttled: {', '.join(reasons)}"]
    if len(measured) > 1:
        new = sorted(set(measured[-1].throttled_since_boot) - set(measured[0].throttled_since_boot))
        if new:
            return [f"the device throttled: {', '.join(new)} came up since the start"]
        counts = [one.throttle_count for one in measured if one.throttle_count is not None]
        if counts and counts[-1] > counts[0]:
            return ["the device throttled: its processor counted it"]
    return []


def doubts(found: Collected, measured: Latency | None, contract: Contract) -> list[str]:
    """All reasons not to trust the median; an empty list means stable."""
    reasons = [*found.stamps, *throttling(found.conditions)]
    if measured is None:
        return reasons
    if found.warmup and not found.warmup["steady"]:
        reasons.append(f"the warm-up was not steady after {found.warmup['seconds']:.0f} s")
    if measured.runs < _LEAST_RUNS:
        reasons.append(f"there are only {measured.runs} runs")
    if measured.interval_share > contract.interval_limit:
        share, limit = measured.interval_share, contract.interval_limit
        reasons.append(f"the median's interval is {share:.1%} of it wide, more than {limit:.0%}")
    if measured.runs >= _LEAST_RUNS and measured.independent_runs < min(_LEAST_INDEPENDENT, measured.runs):
        worth = measured.independent_runs
        reasons.append(f"the latency wanders: {measured.runs} runs are worth {worth:.0f} independent ones")
    kept = np.asarray(found.runs_ns[measured.dropped :], np.float64)
    slower = max(slowdown(kept), _since_warmup(found, kept))
    if slower > _SLOWER:
        reasons.append(f"it got {slower:.0%} slower while it ran, for a while or for good, as a throttled device does")
    return reasons


def _since_warmup(found: Collected, kept: NDArray[np.float64]) -> float:
    """How much slower the measured runs are than the warm-up's fastest window."""
    medians = found.warmup.get("medians_ns", ())
    if not medians or len(kept) < _SETTLED_RUNS:
        return 0.0
    runs = max(1, found.warmup["runs"] // len(medians))
    parts = np.array_split(kept, max(2, len(kept) // runs))
    slower = float(np.median(kept)) - min(medians)
    return slower / min(medians) if slower > median_noise(kept, parts) else 0.0


def remarks(conditions: Sequence[Conditions]) -> list[str]:
    """Facts that a reader should know, though they are no reason for doubt."""
    if not conditions:
        return []
    first, notes = conditions[0], []
    if first.load is not None and first.load > _BUSY:
        notes.append(f"the device was busy before the start: load {first.load:.2f}")
    slow = sorted({name for name in first.governor.values() if name not in ("performance", "schedutil", "ondemand")})
    if slow:
        notes.append(f"frequency governor {', '.join(slow)}")
    for policy, ceiling in first.ceiling_khz.items():
        hardware = first.hardware_khz.get(policy, ceiling)
        if ceiling < hardware:
            notes.append(f"{policy} is limited to {ceiling / 1000:.0f} MHz of {hardware / 1000:.0f} MHz")
    if first.throttled_since_boot:
        notes.append(f"since it started the device has been through: {', '.join(first.throttled_since_boot)}")
    later = sorted({what for one in conditions if one.phase == "sustained" for what in one.throttled})
    if later:
        notes.append(f"without a pause it throttled: {', '.join(later)}")
    return notes


def status(reasons: Sequence[str], *, done: bool, equal: bool | None) -> Status:
    """The overall status: wrong answers take precedence over an aborted run, and that over noise."""
    if equal is False:
        return "wrong"
    if not done:
        return "partial"
    return "unstable" if reasons else "stable"
