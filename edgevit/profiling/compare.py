"""Compares two models by alternating runs on one device: which is faster, and by how much."""

from __future__ import annotations

import random
from importlib.metadata import version

import numpy as np

from edgevit.bundle.read import Bundle
from edgevit.devices.base import ConnectedDevice, RunnerEvent, Turns, prepare
from edgevit.errors import DeviceFailed, UsageError
from edgevit.profiling import collect
from edgevit.profiling.collect import Collected
from edgevit.profiling.contract import Settings
from edgevit.profiling.measure import (
    RunnerListener,
    answers,
    artifact_info,
    check_version,
    ignore_event,
    introduced,
    job_for,
    now,
    runtime_for,
)
from edgevit.profiling.stats import ratio_interval
from edgevit.schema.profile import Conditions, ProfileComparison

_TURN_MS = 20.0
"""Milliseconds of one turn: as many runs as fit, so that fast models are not measured by single runs."""
_LONGEST_TURN = 50
"""Most runs in one turn, reached by models that take less than 0.4 ms."""
_FEWEST_PAIRS, _MOST_PAIRS = 20, 300
"""Bounds of the number of pairs, whatever time they take."""
_SHARE_OF_TIME = 2.0
"""Time of all pairs as a multiple of the seconds of one measurement, since two models are measured."""


def plan(a_ms: float, b_ms: float, seconds: float) -> tuple[int, int, int]:
    """Runs of A and of B in a turn, and how many pairs of turns fit into about ``seconds`` seconds.

    It is settled before the first pair: to stop when the result looks good would make differences out of noise.
    """
    runs = [max(1, min(_LONGEST_TURN, round(_TURN_MS / ms))) for ms in (a_ms, b_ms)]
    pair_s = (a_ms * (runs[0] + 1) + b_ms * (runs[1] + 1)) / 1e3
    return runs[0], runs[1], max(_FEWEST_PAIRS, min(_MOST_PAIRS, int(seconds / pair_s)))


def interleave(
    a: Turns, b: Turns, runs: tuple[int, int], pairs: int, seed: int, listen: RunnerListener
) -> list[list[float]]:
    """Pairs of turns, in random order within each pair: the medians of A's and of B's turns in milliseconds."""
    order = random.Random(seed)
    medians: list[list[float]] = [[], []]
    for number in range(pairs):
        for side in (0, 1) if order.random() < 0.5 else (1, 0):
            taken = (a, b)[side].turn(runs[side])
            medians[side].append(float(np.median(taken)) / 1e6)
        listen({"event": "pair", "number": number + 1, "pairs": pairs})
    return medians


def conclude(medians: list[list[float]], seed: int) -> tuple[float, float, float]:
    """The ratio of B's time to A's: (median, low, high)."""
    first, second = (np.asarray(side, np.float64) for side in medians)
    ratio, interval = ratio_interval(first, second, seed=seed)
    return ratio, interval.low, interval.high


def compare(
    a: Bundle,
    b: Bundle,
    device: ConnectedDevice,
    settings: Settings | None = None,
    *,
    seed: int = 0,
    listen: RunnerListener = ignore_event,
) -> ProfileComparison:
    """Compare two bundles by alternating runs, each loaded in a process of its own.

    Args:
        a: the first.
        b: the second; the ratio says how many times as long it takes.
        device: connected.
        settings: threads and durations; ``seconds`` is for each of the two.
        seed: of the order within pairs.
        listen: called with every runner event, and an event ``pair`` after each pair.

    Raises:
        UsageError: the device runs one of them not at all.
        DeviceUnreachable: it went away, or cannot run one.
    """
    settings = settings or Settings()
    for bundle in (a, b):
        prepare(device, runtime_for(bundle, device).engine)
    sides = (introduced(device), Collected())
    turns: list[Turns] = []
    try:
        for bundle, found in zip((a, b), sides, strict=True):
            wanted = runtime_for(bundle, device)
            turns.append(device.turns(job_for(bundle, device, settings, sides[0].processors)))
            _take(turns[-1].start(), found, listen)
            check_version(wanted, str(found.loaded.get("version", "")))
        first, second, pairs = plan(_settled_ms(sides[0]), _settled_ms(sides[1]), _SHARE_OF_TIME * settings.seconds)
        medians = interleave(turns[0], turns[1], (first, second), pairs, seed, listen)
    finally:
        ends = [one.end() for one in turns]
    for events, found in zip(ends, sides, strict=True):
        _take(events, found, ignore_event)
    return _document(a, b, device, sides, medians, seed)


def _take(events: list[RunnerEvent], found: Collected, listen: RunnerListener) -> None:
    for event in events:
        found.take(event)
        listen(event)


def _settled_ms(found: Collected) -> float:
    medians = found.warmup.get("medians_ns") or [found.first_ns]
    if not medians[-1]:
        raise DeviceFailed("the device did not say how long a run takes")
    return float(medians[-1]) / 1e6


def _document(
    a: Bundle,
    b: Bundle,
    device: ConnectedDevice,
    sides: tuple[Collected, Collected],
    medians: list[list[float]],
    seed: int,
) -> ProfileComparison:
    ratio, low, high = conclude(medians, seed)
    conditions: list[Conditions] = [one for found in sides for one in found.conditions]
    reasons = collect.throttling(conditions)
    reasons += [stamp for found in sides for stamp in found.stamps]
    if high / low - 1 > Settings().interval_limit:
        reasons.append(f"the ratio's interval is {high / low - 1:.1%} wide")
    wrong = []
    for bundle, found in zip((a, b), sides, strict=True):
        verdict = answers(bundle, found)
        if verdict is not None and not verdict.equal:
            wrong.append(f"{bundle.path.name} computes something else on the device: {verdict.reasons[0]}")
    machine = collect.device_info(device.uri, device.kind, sides[0])
    executed = [collect.runtime_info(found) for found in sides]
    if executed[0] is None or executed[1] is None:
        raise UsageError("the device did not say what ran the models")
    return ProfileComparison(
        edgevit=version("edgevit"),
        created=now(),
        status=collect.status([*wrong, *reasons], done=True, equal=False if wrong else None),
        reasons=(*wrong, *reasons),
        emulated=bool(machine.emulator),
        device=machine,
        a=artifact_info(a),
        b=artifact_info(b),
        runtime_a=executed[0],
        runtime_b=executed[1],
        pairs=len(medians[0]),
        a_ms=float(np.median(medians[0])),
        b_ms=float(np.median(medians[1])),
        ratio=ratio,
        low=low,
        high=high,
        different=not low <= 1 <= high,
    )
