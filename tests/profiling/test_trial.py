"""The protocol on trial: machines whose true latency is known."""

from __future__ import annotations

import numpy as np
import pytest

from edgevit.profiling.collect import remarks
from edgevit.profiling.collect import throttling as throttling_of
from edgevit.profiling.compare import conclude, interleave, plan
from edgevit.profiling.stats import correlation_time, median_interval, steady_interval
from edgevit.schema.profile import Conditions
from tests.profiling.laws import BASE, KNOWN, throttling
from tests.profiling.synthetic import Law, measure

SEEDS = range(100)


@pytest.mark.parametrize("name", KNOWN)
def test_the_interval_holds_the_true_median(name: str) -> None:
    law, true = KNOWN[name]
    trials = [measure(law(), seed).latency for seed in SEEDS]
    held = sum(one.low <= true <= one.high for one in trials)
    assert held >= 93, f"{held} of 100"
    assert all(one.low <= one.median <= one.high for one in trials)


@pytest.mark.parametrize("name", ["quiet", "spiky"])
def test_a_good_machine_is_called_stable(name: str) -> None:
    law, _ = KNOWN[name]
    trials = [measure(law(), seed) for seed in SEEDS]
    assert sum(one.stable for one in trials) >= 95
    assert np.mean([one.latency.interval_share for one in trials]) < 0.02


def test_no_trend_leads_below_nothing() -> None:
    falling = 1e-3 * np.linspace(5, 0.5, 600)
    found = steady_interval(falling)
    assert 0 <= found.low < 0.5e-3
    assert found.high >= np.median(falling)


def test_the_laws_have_the_medians_they_claim() -> None:
    for name, (law, true) in KNOWN.items():
        if name != "drifting":
            one, rng = law(), np.random.default_rng(7)
            assert np.median([one(100.0, rng) for _ in range(200_000)]) == pytest.approx(true, rel=3e-3), name


@pytest.mark.parametrize("kind", ["step", "ramp", "pulses"])
@pytest.mark.parametrize("onset_s", [0.5, 1.0, 2.0, 3.0, 4.0, 5.5])
def test_a_throttled_run_is_never_called_stable(kind: str, onset_s: float) -> None:
    for seed in range(20):
        trial = measure(throttling(kind, onset_s), seed)
        # A ramp reaches its depth after four seconds: one that begins with the last second has hardly begun.
        if kind != "ramp" or trial.measured_from_s + 5 - onset_s > 1.2:
            assert not trial.stable, (kind, onset_s, seed, trial)


def test_a_device_that_says_it_throttled_is_not_stable_even_if_its_latency_is() -> None:
    law, _ = KNOWN["quiet"]
    trial = measure(law(), 0, throttled=lambda at: ("throttled",) if at > 3 else ())
    assert trial.reasons == ["the device throttled: throttled"]


class Side:
    """One model of a comparison, on the machine's clock."""

    def __init__(self, law: Law, state: list[object], factor: float) -> None:
        self.law, self.state, self.factor = law, state, factor

    def start(self) -> list[dict[str, object]]:
        return []

    def turn(self, runs: int) -> list[int]:
        taken = []
        for _ in range(runs + 1):
            ms = self.law(self.state[0], self.state[1]) * self.factor  # type: ignore[arg-type]
            self.state[0] += ms / 1e3  # type: ignore[operator]
            taken.append(int(ms * 1e6))
        return taken[1:]

    def end(self) -> list[dict[str, object]]:
        return []


def compared(name: str, factor: float, seed: int) -> tuple[float, float, float]:
    law = KNOWN[name][0]()
    state: list[object] = [0.0, np.random.default_rng(seed)]
    first, second, pairs = plan(BASE, BASE * factor, 20.0)
    sides = (Side(law, state, 1.0), Side(law, state, factor))
    return conclude(interleave(*sides, (first, second), pairs, seed, lambda event: None), seed)


@pytest.mark.parametrize("name", KNOWN)
def test_compare_finds_two_percent_and_calls_nothing_out_of_nothing(name: str) -> None:
    called = sum(not low <= 1 <= high for _, low, high in (compared(name, 1.0, seed) for seed in SEEDS))
    assert called <= 5, f"{called} null comparisons of 100 were called different"
    found = [compared(name, 1.02, seed) for seed in SEEDS]
    assert sum(low > 1 for _, low, _ in found) >= 95
    assert sum(low <= 1.02 <= high for _, low, high in found) >= 93


def test_a_comparison_of_very_different_models_gets_turns_of_like_length() -> None:
    fast, slow, pairs = plan(0.2, 400.0, 20.0)
    assert fast == 50 and slow == 1 and pairs == 24


def test_dependent_runs_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    independent = rng.standard_normal(1000)
    mood = np.repeat(rng.standard_normal(50), 20)
    assert correlation_time(independent) < 1.5 < 10 < correlation_time(mood)
    widths = [median_interval(values).high - median_interval(values).low for values in (independent, mood)]
    assert widths[1] > 3 * widths[0]


def test_a_coarse_clock_does_not_make_runs_dependent() -> None:
    ticks = np.round(np.random.default_rng(1).normal(10, 0.1, 2000), 1)
    assert correlation_time(ticks) < 1.5


def test_throttling_without_a_pause_is_told_and_does_not_void_the_figure_before() -> None:
    conditions = [Conditions(phase="during", at_s=1), Conditions(phase="sustained", at_s=9, throttled=("throttled",))]
    assert throttling_of(conditions) == []
    assert remarks(conditions) == ["without a pause it throttled: throttled"]
    counted = [
        Conditions(phase="before", at_s=0, throttle_count=3),
        Conditions(phase="after", at_s=0, throttle_count=4),
    ]
    assert throttling_of(counted) == ["the device throttled: its processor counted it"]
    new = [
        Conditions(phase="before", at_s=0),
        Conditions(phase="after", at_s=0, throttled_since_boot=("under-voltage",)),
    ]
    assert throttling_of(new) == ["the device throttled: under-voltage came up since the start"]
