"""Which member runs which sub-model, and how hard each is pruned, under the members' limits.

`greedy` is ED-ViT's: sub-models by cost, each to the member with the most energy left; what cannot be placed is
pruned harder and everything starts again. `exact` solves the same limits as an integer program (HiGHS): it first
keeps as much as possible of the worst sub-model, then of all, then makes the slowest member fast, so that unequal
members get unequal sub-models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from typing import Any, Literal

import numpy as np

from edgevit.errors import CheckFailed, MissingDependency, UsageError
from edgevit.schema.plan import Fleet, Network, Predicted

CostKind = Literal["memory", "latency", "energy"]
_KINDS: tuple[CostKind, ...] = ("memory", "latency", "energy")
_UNIT = {"memory": "MB", "latency": "ms", "energy": "mJ"}
_FIELD = {"memory": "memory_mb", "latency": "latency_ms", "energy": "energy_mj"}


@dataclass(frozen=True)
class Level:
    """The cost of a sub-model that keeps one share of every width.

    Attributes:
        keep: the share.
        parameters: how many.
        macs: of one image.
        weight_bytes: in the precision of the export.
        activation_bytes: see `edgevit.graph.cost.Cost`.
        features: width of its feature vector.
    """

    keep: Fraction
    parameters: int
    macs: int
    weight_bytes: int
    activation_bytes: int
    features: int

    @property
    def memory_mb(self) -> float:
        """Weights and activations, in megabytes."""
        return (self.weight_bytes + self.activation_bytes) / 1e6


@dataclass(frozen=True)
class Assignment:
    """For each sub-model, in order, the index of its level and of its member."""

    levels: tuple[int, ...]
    members: tuple[int, ...]


@dataclass(frozen=True)
class Problem:
    """The assignment problem: sub-models, levels, members and their limits.

    Attributes:
        fleet: members with limits.
        levels: possible shares, ascending.
        rates: by member, multiply-accumulates a second, None where nothing is known.
        parts: classes of each sub-model; two that share classes go to different members.
    """

    fleet: Fleet
    levels: tuple[Level, ...]
    rates: tuple[float | None, ...]
    parts: tuple[tuple[int, ...], ...]

    def cost(self, kind: CostKind, member: int, level: int) -> float:
        """What one sub-model adds to a member's load, in the limit's unit; network time is added to latency
        separately.
        """
        chosen, rate = self.levels[level], self.rates[member]
        if kind == "memory":
            return chosen.memory_mb
        compute = chosen.macs / rate * 1e3 if rate else 0.0
        return compute if kind == "latency" else compute * (self.fleet.member[member].watts or 0.0)

    def limit(self, kind: CostKind, member: int) -> float | None:
        """A member's limit of one kind."""
        one = self.fleet.member[member]
        if kind == "latency" and one.latency_ms is not None:
            return one.latency_ms - network_ms(self.fleet.network, self.levels[0].features)
        return getattr(one, _FIELD[kind])

    def check(self) -> None:
        """Refuse limits that cannot be evaluated.

        Raises:
            UsageError: a limit on time or energy without a speed, or on energy without a power.
            CheckFailed: the network alone takes longer than a member may.
        """
        for index, one in enumerate(self.fleet.member):
            if (one.latency_ms is not None or one.energy_mj is not None) and self.rates[index] is None:
                raise UsageError(
                    f"{one.name} has a limit on time or energy, and nothing says how fast it is",
                    cure=f"in [[member]] {one.name}: profile = FILE from edgevit profile, or gmacs_per_s",
                )
            if (self.limit("latency", index) or 1) <= 0:
                raise CheckFailed(
                    f"the network alone takes {network_ms(self.fleet.network, self.levels[0].features):.3g} ms, "
                    f"{one.name} may take {one.latency_ms:g} ms",
                    cure="raise its latency_ms, or send smaller images: image_bytes in [network]",
                )
            if one.energy_mj is not None and one.watts is None:
                raise UsageError(f"{one.name} has a limit on energy and no watts", cure="add watts = ... to it")

    def most(self) -> int:
        """The number of sub-models on the fullest member when they are spread evenly."""
        return math.ceil(len(self.parts) / len(self.fleet.member))

    def fits(self, found: Assignment) -> bool:
        """Whether an assignment keeps every limit."""
        for member in range(len(self.fleet.member)):
            mine = [level for level, owner in zip(found.levels, found.members, strict=True) if owner == member]
            for kind in _KINDS:
                limit = self.limit(kind, member)
                if limit is not None and sum(self.cost(kind, member, level) for level in mine) > limit * (1 + 1e-9):
                    return False
        return True


def network_ms(network: Network, features: int) -> float:
    """Milliseconds to send an image and return its features over one link: delays and payload transmission."""
    bits = 8 * (network.image_bytes + 2 * features)
    return 2 * network.one_way_ms + bits / (network.mbit_s * 1e6) * 1e3


def predict(problem: Problem, found: Assignment) -> dict[str, Predicted]:
    """Predicted cost of one image on each member: MACs over a measured rate, plus the stated network."""
    predicted = {}
    for index, member in enumerate(problem.fleet.member):
        mine = [problem.levels[a] for a, owner in zip(found.levels, found.members, strict=True) if owner == index]
        if not mine:
            continue
        rate = problem.rates[index]
        compute = sum(level.macs for level in mine) / rate * 1e3 if rate else None
        predicted[member.name] = Predicted(
            compute_ms=compute,
            network_ms=network_ms(problem.fleet.network, sum(level.features for level in mine)),
            memory_mb=sum(level.memory_mb for level in mine),
            energy_mj=compute * member.watts if compute is not None and member.watts else None,
        )
    return predicted


def greedy(problem: Problem) -> Assignment:
    """ED-ViT's assignment; see the module.

    Raises:
        CheckFailed: even the smallest sub-models do not fit.
    """
    levels = [len(problem.levels) - 1] * len(problem.parts)
    while True:
        members, unplaced = _place(problem, levels)
        if not unplaced:
            return Assignment(tuple(levels), tuple(members[index] for index in range(len(levels))))
        harder = [index for index in unplaced if levels[index] > 0]
        if not harder:
            raise _infeasible(problem)
        for index in harder:
            levels[index] -= 1


def _place(problem: Problem, levels: Sequence[int]) -> tuple[dict[int, int], list[int]]:
    left = [{kind: problem.limit(kind, member) for kind in _KINDS} for member in range(len(problem.fleet.member))]
    load = [0] * len(left)
    members: dict[int, int] = {}
    unplaced: list[int] = []
    for index in sorted(range(len(levels)), key=lambda one: (-problem.levels[levels[one]].macs, one)):
        free = [member for member in range(len(left)) if _room(problem, left[member], member, levels[index])]
        shared = {members[other] for other in members if set(problem.parts[other]) & set(problem.parts[index])}
        free = [member for member in free if load[member] < problem.most() and member not in shared]
        if not free:
            unplaced.append(index)
            continue
        chosen = max(free, key=lambda m: (-load[m], _left(left[m], "energy"), _left(left[m], "memory"), -m))
        for kind in _KINDS:
            remaining = left[chosen][kind]
            if remaining is not None:
                left[chosen][kind] = remaining - problem.cost(kind, chosen, levels[index])
        load[chosen] += 1
        members[index] = chosen
    return members, unplaced


def _room(problem: Problem, left: dict[CostKind, float | None], member: int, level: int) -> bool:
    return all(limit is None or problem.cost(kind, member, level) <= limit for kind, limit in left.items())


def _left(left: dict[CostKind, float | None], kind: CostKind) -> float:
    remaining = left[kind]
    return math.inf if remaining is None else remaining


def exact(problem: Problem) -> Assignment:
    """The best assignment; see the module.

    Raises:
        CheckFailed: none keeps the limits; says which bind and what would do.
        MissingDependency: scipy is not installed.
    """
    for most in dict.fromkeys((problem.most(), len(problem.parts))):
        found = _Program(problem, most).best()
        if found is not None:
            return found
    raise _infeasible(problem)


def _infeasible(problem: Problem) -> CheckFailed:
    """The error that says by how much each limit would have to be relaxed."""
    smallest = problem.levels[0]
    cures, binding = [], []
    for kind in _KINDS:
        if not _limited(problem, kind):
            continue
        factor = _Program(problem, len(problem.parts)).least_factor((kind,))
        if factor is not None:
            binding.append(kind)
            cures.append(f"{_FIELD[kind]} of all members x {_up(factor)} ({_examples(problem, kind, factor)})")
    if not binding:
        limited = tuple(kind for kind in _KINDS if _limited(problem, kind))
        factor = _Program(problem, len(problem.parts)).least_factor(limited)
        binding = list(limited)
        if factor is not None:
            cures.append(f"{' and '.join(_FIELD[kind] for kind in limited)} of all members x {_up(factor)}")
    return CheckFailed(
        f"the sub-models do not fit the fleet: {' and '.join(binding) or 'the limits'} "
        f"bind{'s' if len(binding) == 1 else ''}, even with only {smallest.keep} of the widths",
        where=f"{len(problem.parts)} sub-models of {smallest.parameters:,} parameters, "
        f"{smallest.macs / 1e6:.1f} M MACs and {smallest.memory_mb:.2f} MB each, on {len(problem.rates)} members",
        cure="what would do: " + "; or ".join([*cures, "more members (and --parts)", "a smaller share among --level"]),
    )


def _limited(problem: Problem, kind: CostKind) -> bool:
    return any(problem.limit(kind, member) is not None for member in range(len(problem.fleet.member)))


def _up(factor: float) -> str:
    return f"{math.ceil(factor * 100 - 1e-6) / 100:.2f}"


def _examples(problem: Problem, kind: CostKind, factor: float) -> str:
    needs = []
    for index, member in enumerate(problem.fleet.member):
        limit = problem.limit(kind, index)
        if limit is not None:
            rest = (getattr(member, _FIELD[kind]) or 0.0) - limit
            needs.append(f"{member.name}: {limit * factor + rest:.3g} {_UNIT[kind]}")
    return ", ".join(needs[:3]) + (", ..." if needs[3:] else "")


class _Program:
    """The integer program: x[i, j, l] is 1 where sub-model i runs on member j at level l; one more variable t."""

    def __init__(self, problem: Problem, most: int) -> None:
        self.problem = problem
        self.shape = len(problem.parts), len(problem.fleet.member), len(problem.levels)
        self.size = math.prod(self.shape) + 1
        self.rows: list[tuple[Any, float, float]] = []
        for i in range(self.shape[0]):
            self._add({(i, j, a): 1.0 for j in range(self.shape[1]) for a in range(self.shape[2])}, 1, 1)
        for j in range(self.shape[1]):
            self._add({(i, j, a): 1.0 for i in range(self.shape[0]) for a in range(self.shape[2])}, 0, most)
        for first, second in combinations(range(self.shape[0]), 2):
            if set(problem.parts[first]) & set(problem.parts[second]) and self.shape[1] > 1:
                for j in range(self.shape[1]):
                    self._add({(i, j, a): 1.0 for i in (first, second) for a in range(self.shape[2])}, 0, 1)

    def _add(self, terms: dict[tuple[int, int, int], float], low: float, high: float, of_t: float = 0.0) -> None:
        row = np.zeros(self.size)
        for where, value in terms.items():
            row[np.ravel_multi_index(where, self.shape)] = value
        row[-1] = of_t
        self.rows.append((row, low, high))

    def _limit(self, kind: CostKind, scaled: bool) -> None:
        for j in range(self.shape[1]):
            limit = self.problem.limit(kind, j)
            if limit is None:
                continue
            terms = {
                (i, j, a): self.problem.cost(kind, j, a) for i in range(self.shape[0]) for a in range(self.shape[2])
            }
            if scaled:
                self._add(terms, -np.inf, 0, of_t=-limit)
            else:
                self._add(terms, -np.inf, limit)

    def _solve(self, objective: Any, t_high: float = np.inf) -> Any:
        try:
            from scipy.optimize import Bounds, LinearConstraint, milp
        except ImportError as error:
            raise MissingDependency("scipy", "the exact assignment", extra="split") from error
        matrix, low, high = (np.array(column) for column in zip(*self.rows, strict=True))
        upper = np.ones(self.size)
        upper[-1] = t_high
        whole = np.ones(self.size)
        whole[-1] = 0
        found = milp(
            objective, constraints=LinearConstraint(matrix, low, high), bounds=Bounds(0, upper), integrality=whole
        )
        return found if found.status == 0 else None

    def _objective(self, value: Any) -> Any:
        row = np.zeros(self.size)
        for where in np.ndindex(*self.shape):
            row[np.ravel_multi_index(where, self.shape)] = value(*where)
        return row

    def least_factor(self, kinds: Sequence[CostKind]) -> float | None:
        """The smallest factor on some kinds' limits with which everything fits; None where none suffices."""
        for kind in _KINDS:
            self._limit(kind, scaled=kind in kinds)
        objective = np.zeros(self.size)
        objective[-1] = 1
        found = self._solve(objective)
        return float(found.fun) if found is not None else None

    def best(self) -> Assignment | None:
        """Lexicographic: the worst share, then all shares, then the slowest member."""
        for kind in _KINDS:
            self._limit(kind, scaled=False)
        shares = [float(level.keep) for level in self.problem.levels]
        # t is the worst share
        for i in range(self.shape[0]):
            terms = {(i, j, a): shares[a] for j in range(self.shape[1]) for a in range(self.shape[2])}
            self._add(terms, 0, np.inf, of_t=-1.0)
        objective = np.zeros(self.size)
        objective[-1] = -1
        found = self._solve(objective, t_high=1.0)
        if found is None:
            return None
        worst = found.x[-1]
        for row, _, _ in self.rows[-self.shape[0] :]:
            row[-1] = 0
        self.rows[-self.shape[0] :] = [(row, worst - 1e-6, np.inf) for row, _, _ in self.rows[-self.shape[0] :]]
        kept = self._objective(lambda i, j, a: shares[a])
        found = self._solve(-kept)
        self.rows.append((kept, -found.fun - 1e-6, np.inf))
        for j in range(self.shape[1]):
            terms = {(i, j, a): self._seconds(j, a) for i in range(self.shape[0]) for a in range(self.shape[2])}
            self._add(terms, -np.inf, 0, of_t=-1.0)
        objective = self._objective(
            lambda i, j, a: 1e-6 * abs(i * self.shape[1] // self.shape[0] - j)
        )  # equal plans: in order
        objective[-1] = 1
        found = self._solve(objective)
        return self._read(found.x)

    def _seconds(self, member: int, level: int) -> float:
        """Compute time on a member; where no speed is known, all members count as equally fast."""
        known = [rate for rate in self.problem.rates if rate]
        rate = self.problem.rates[member] or (sum(known) / len(known) if known else 1e9)
        return self.problem.levels[level].macs / rate

    def _read(self, values: Any) -> Assignment:
        chosen = values[:-1].reshape(self.shape) > 0.5
        places = [np.argwhere(one)[0] for one in chosen]
        return Assignment(tuple(int(p[1]) for p in places), tuple(int(p[0]) for p in places))
