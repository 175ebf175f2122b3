"""Assignments against all there are, and what is said where there is none."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.errors import CheckFailed, UsageError
from edgevit.schema.plan import Fleet
from edgevit.split.plan.assign import Assignment, Level, Problem, exact, greedy, network_ms, predict

LEVELS = tuple(
    Level(Fraction(share, 4), 1000 * share**2, 1_000_000 * share**2, 400_000 * share**2, 100_000, 16 * share)
    for share in (1, 2, 3)
)


def problem(members: list[dict[str, Any]], parts: int, copies: bool = False, **fleet: Any) -> Problem:
    given_fleet = Fleet.model_validate({"member": [{"name": f"m{i}", **one} for i, one in enumerate(members)], **fleet})
    rates = tuple(one.gmacs_per_s * 1e9 if one.gmacs_per_s else None for one in given_fleet.member)
    classes = tuple((i, (i + 1) % parts) if copies else (i,) for i in range(parts))
    return Problem(given_fleet, LEVELS, rates, classes)


def allowed(case: Problem, found: Assignment, most: int) -> bool:
    loads = [found.members.count(member) for member in range(len(case.fleet.member))]
    apart = all(
        found.members[a] != found.members[b]
        for a in range(len(case.parts))
        for b in range(a)
        if set(case.parts[a]) & set(case.parts[b])
    )
    return case.fits(found) and max(loads) <= most and apart


def merit(case: Problem, found: Assignment) -> tuple[float, float, float]:
    keeps = [float(LEVELS[level].keep) for level in found.levels]
    times = [0.0] * len(case.fleet.member)
    for level, member in zip(found.levels, found.members, strict=True):
        times[member] += LEVELS[level].macs / (case.rates[member] or 1)
    return round(min(keeps), 6), round(sum(keeps), 6), -round(max(times), 9)


def best_of_all(case: Problem) -> tuple[float, float, float] | None:
    for most in dict.fromkeys((case.most(), len(case.parts))):
        found = [
            merit(case, Assignment(levels, members))
            for levels in product(range(3), repeat=len(case.parts))
            for members in product(range(len(case.fleet.member)), repeat=len(case.parts))
            if allowed(case, Assignment(levels, members), most)
        ]
        if found:
            return max(found)
    return None


member = st.fixed_dictionaries(
    {
        "memory_mb": st.sampled_from([0.4, 0.6, 1.2, 2.0, 4.0]),
        "latency_ms": st.sampled_from([5.0, 8.0, 14.0, 30.0]),
        "gmacs_per_s": st.sampled_from([0.2, 0.5, 1.0]),
        "watts": st.just(2.0),
        "energy_mj": st.sampled_from([5.0, 20.0, 100.0]),
    }
)


@settings(max_examples=40, deadline=None)
@given(st.lists(member, min_size=2, max_size=3), st.integers(2, 3), st.booleans())
def test_exact_is_the_best_of_all_and_greedy_never_better(
    members: list[dict[str, Any]], parts: int, copies: bool
) -> None:
    case = problem(members, parts, copies and parts > 2 and len(members) > 2)
    wanted = best_of_all(case)
    if wanted is None:
        with pytest.raises(CheckFailed):
            exact(case)
        with pytest.raises(CheckFailed):
            greedy(case)
        return
    found = exact(case)
    assert case.fits(found)
    assert merit(case, found) == pytest.approx(wanted)
    try:
        cheap = greedy(case)
    except CheckFailed:
        return  # it may miss what is there
    assert allowed(case, cheap, len(parts * [0]))
    assert merit(case, cheap)[:2] <= (wanted[0] + 1e-9, float("inf"))


def test_unequal_members_get_unequal_sub_models() -> None:
    case = problem([{"memory_mb": 0.6}, {"memory_mb": 2.0}, {"memory_mb": 4.0}], 3)
    assert sorted(zip(exact(case).members, exact(case).levels, strict=True)) == [(0, 0), (1, 1), (2, 2)]


def test_greedy_prunes_harder_until_it_fits() -> None:
    case = problem([{"memory_mb": 0.6}, {"memory_mb": 0.6}], 2)
    assert greedy(case).levels == (0, 0)
    assert set(greedy(case).members) == {0, 1}


@pytest.mark.parametrize(
    ("limit", "values", "said"),
    [
        ("memory_mb", {"memory_mb": 0.25}, "memory binds"),
        ("latency_ms", {"latency_ms": 3.7, "gmacs_per_s": 0.1}, "latency binds"),
        ("energy_mj", {"energy_mj": 5.0, "watts": 2.0, "gmacs_per_s": 0.1}, "energy binds"),
    ],
)
def test_an_infeasible_budget_says_what_binds_and_what_would_do(
    limit: str, values: dict[str, float], said: str
) -> None:
    case = problem([values, values], 2)
    with pytest.raises(CheckFailed) as caught:
        exact(case)
    assert said in caught.value.message
    assert limit in caught.value.cure
    wanted = float(caught.value.cure.split("m0: ")[1].split()[0])
    enough = problem([{**values, limit: wanted * 1.01}] * 2, 2)
    assert enough.fits(exact(enough))
    with pytest.raises(CheckFailed):
        exact(problem([{**values, limit: wanted * 0.97}] * 2, 2))


def test_two_limits_that_bind_together_are_both_named() -> None:
    values = {"memory_mb": 0.25, "energy_mj": 5.0, "watts": 2.0, "gmacs_per_s": 0.1}
    with pytest.raises(CheckFailed, match="memory and energy bind,"):
        exact(problem([values, values], 2))


def test_limits_that_nothing_can_be_computed_for() -> None:
    with pytest.raises(UsageError, match="how fast"):
        problem([{"latency_ms": 5.0}], 2).check()
    with pytest.raises(UsageError, match="no watts"):
        problem([{"energy_mj": 5.0, "gmacs_per_s": 1.0}], 2).check()
    with pytest.raises(CheckFailed, match="network alone"):
        problem([{"latency_ms": 2.0, "gmacs_per_s": 1.0}], 2).check()


def test_predictions_are_the_stated_model() -> None:
    case = problem(
        [{"gmacs_per_s": 0.5, "watts": 3.0}, {}],
        2,
        network={"mbit_s": 10, "one_way_ms": 5, "image_bytes": 10_000},
    )
    found = predict(case, Assignment((1, 0), (0, 1)))
    assert found["m0"].compute_ms == pytest.approx(4_000_000 / 0.5e9 * 1e3)
    assert found["m0"].network_ms == pytest.approx(10 + 8 * (10_000 + 2 * 32) / 10e6 * 1e3)
    assert found["m0"].energy_mj == pytest.approx(8 * 3.0)
    assert found["m0"].memory_mb == pytest.approx(1.7)
    assert found["m1"].compute_ms is None
    assert network_ms(case.fleet.network, 16) < found["m0"].network_ms
