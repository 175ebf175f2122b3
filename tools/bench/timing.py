"""Interleaved timing and its statistics, for every benchmark here."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

Call = Callable[[], object]


def seconds(call: Call) -> float:
    """One timed call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def interleaved(calls: Sequence[Call], runs: int, warm: int = 10) -> np.ndarray:
    """Times of several calls, round after round: [runs, calls] seconds; the order turns every round."""
    for _ in range(warm):
        for call in calls:
            call()
    times = np.empty((runs, len(calls)))
    for run in range(runs):
        for offset in range(len(calls)):
            place = (run + offset) % len(calls)
            times[run, place] = seconds(calls[place])
    return times


def median_interval(values: np.ndarray) -> tuple[float, float, float]:
    """The median and its 95 % bootstrap interval."""
    random = np.random.default_rng(0)
    medians = np.median(random.choice(values, (2000, len(values))), axis=1)
    return float(np.median(values)), float(np.percentile(medians, 2.5)), float(np.percentile(medians, 97.5))
