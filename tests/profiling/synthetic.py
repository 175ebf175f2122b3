"""A machine whose latency is known: edgevit's runner measures it on a clock that only the model moves."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from edgevit.devices.runner_process import runner_file
from edgevit.profiling import collect
from edgevit.profiling.collect import Collected
from edgevit.profiling.contract import Settings
from edgevit.schema.profile import Latency

Law = Callable[[float, np.random.Generator], float]
"""Milliseconds of a run that starts so many seconds after the first."""


def load_runner() -> ModuleType:
    """The runner as a module."""
    spec = importlib.util.spec_from_file_location("edgevit_runner", runner_file("linux", "runner.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RUNNER = load_runner()


class Machine:
    """Runs take what the law says; nothing else takes time."""

    def __init__(self, law: Law, seed: int) -> None:
        self.law, self.rng, self.ns = law, np.random.default_rng(seed), 0

    def clock(self) -> int:
        return self.ns

    def run(self) -> None:
        self.ns += int(self.law(self.ns / 1e9, self.rng) * 1e6)


@dataclass(frozen=True)
class Trial:
    """What edgevit says of it."""

    latency: Latency
    reasons: list[str]
    measured_from_s: float

    @property
    def stable(self) -> bool:
        return not self.reasons


def measure(law: Law, seed: int, throttled: Callable[[float], tuple[str, ...]] = lambda at: ()) -> Trial:
    """Warm up and measure by the contract."""
    settings = Settings()
    job, machine, found = settings.job(1), Machine(law, seed), Collected()

    def emit(**event: Any) -> None:
        found.take(event)

    def sample(phase: str, at: float) -> None:
        found.take({"event": "conditions", "phase": phase, "at_s": at, "throttled": throttled(machine.ns / 1e9)})

    sample("before", 0.0)
    RUNNER.warm_up(machine.run, job, emit, clock=machine.clock)
    start = machine.ns / 1e9
    RUNNER.measure(machine.run, job, emit, sample, clock=machine.clock)
    sample("after", 0.0)
    latency, _ = collect.latency(found.runs_ns, found.seconds)
    return Trial(latency, collect.doubts(found, latency, settings.contract()), start)
