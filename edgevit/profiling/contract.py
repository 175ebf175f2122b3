"""The noise contract: how a latency is measured, and when a figure counts as unstable."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from edgevit.errors import UsageError
from edgevit.schema.profile import Contract

_PATIENCE_S = 120.0
"""For loading a model and answering the golden inputs."""


@dataclass(frozen=True)
class Settings:
    """How one model is profiled; the defaults are the contract.

    Attributes:
        threads: of the runtime; None: as many as the device has processors, at most four.
        cpus: numbers of the processors to run on; empty: all.
        runs: measured runs, at least, unless ``seconds`` are over first.
        seconds: of measuring, at most, once there are ten runs.
        least_seconds: of measuring, at least.
        warmup_limit_s: seconds after which the warm-up ends, steady or not.
        warmup_window_s: least length of a window of the warm-up.
        warmup_agree: share by which the medians of three windows may differ.
        interval_limit: width of the median's interval, as a share of it, above which the figure is unstable.
        per_op: time operators too.
        operator_runs: runs that operator times are means of.
        sustained_s: seconds of further runs without a pause.
        energy_s: seconds of running for an energy meter, where there is one.
        deadline_s: after which the device gives up; None: what all parts may take, and two minutes.
    """

    threads: int | None = None
    cpus: tuple[int, ...] = ()
    runs: int = 200
    seconds: float = 10.0
    least_seconds: float = 5.0
    warmup_limit_s: float = 30.0
    warmup_window_s: float = 0.5
    warmup_agree: float = 0.02
    interval_limit: float = 0.05
    per_op: bool = False
    operator_runs: int = 30
    sustained_s: float = 0.0
    energy_s: float = 10.0
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("runs", "seconds", "warmup_limit_s", "warmup_window_s", "operator_runs", "interval_limit"):
            if getattr(self, name) <= 0:
                raise UsageError(f"{name} must be above 0, not {getattr(self, name)}")
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"threads must be at least 1, not {self.threads}")
        if self.sustained_s < 0 or self.least_seconds < 0 or min(self.cpus, default=0) < 0:
            raise UsageError("durations and processor numbers cannot be negative")

    def limit_s(self) -> float:
        """The device's deadline in seconds."""
        if self.deadline_s is not None:
            return self.deadline_s
        return _PATIENCE_S + self.warmup_limit_s + 3 * self.seconds + self.sustained_s + 2 * self.energy_s

    def contract(self) -> Contract:
        """The settings as the report states them."""
        return Contract.model_validate({name: getattr(self, name) for name in Contract.model_fields})

    def job(self, processors: int) -> dict[str, Any]:
        """The fields of the runner's job, for a device with ``processors`` processors."""
        chosen = asdict(self)
        available = len(self.cpus) or processors or 1
        dropped = ("interval_limit", "per_op", "deadline_s")
        return {key: value for key, value in chosen.items() if key not in dropped} | {
            "threads": self.threads or min(4, available),
            "asked_threads": self.threads,
            "cpus": list(self.cpus),
        }
