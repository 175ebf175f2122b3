"""Which classes go together."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from edgevit.errors import UnknownName, UsageError
from edgevit.split.plan.partition import PartitionRule, balanced, by_confusion, confusion, copied, given


@for_all(st.integers(2, 40), st.integers(1, 12), st.integers(0, 9))
def test_balanced_parts_hold_every_class_once(total: int, parts: int, seed: int) -> None:
    parts = min(parts, total)
    found = balanced(total, parts, seed)
    assert sorted(one for part in found for one in part) == list(range(total))
    assert max(map(len, found)) - min(map(len, found)) <= 1
    assert found == balanced(total, parts, seed)


def inside(matrix: np.ndarray, parts: tuple[tuple[int, ...], ...]) -> float:
    both = matrix + matrix.T
    return sum(both[a, b] for part in parts for a, b in combinations(part, 2))


@pytest.mark.parametrize("rule", ["together", "apart"])
def test_confused_classes_end_together_or_apart(rule: PartitionRule) -> None:
    """Against all ways to cut six classes into pairs."""
    for seed in range(5):
        matrix = np.random.default_rng(seed).uniform(size=(6, 6))
        every = [
            ((a, b), (c, d), tuple(sorted(set(range(6)) - {a, b, c, d})))
            for a, b in combinations(range(6), 2)
            for c, d in combinations(sorted(set(range(6)) - {a, b}), 2)
        ]
        sums = [inside(matrix, one) for one in every]
        wanted = max(sums) if rule == "together" else min(sums)
        found = [inside(matrix, by_confusion(matrix, 3, rule, start)) for start in range(5)]
        best = max(found) if rule == "together" else min(found)
        assert best == pytest.approx(wanted)


def test_confusion_is_the_mean_probability() -> None:
    logits = np.log(np.array([[0.8, 0.2, 1e-9], [0.6, 0.4, 1e-9], [1e-9, 0.5, 0.5]], np.float32))
    found = confusion(np.array([0, 0, 2]), logits)
    assert found[0] == pytest.approx([0.7, 0.3, 0], abs=1e-6)
    assert found[1] == pytest.approx([0, 0, 0])
    assert found[2] == pytest.approx([0, 0.5, 0.5], abs=1e-6)


def test_copies_give_each_class_to_several() -> None:
    found = copied(((0, 1), (2, 3), (4,)), 2)
    assert found == ((0, 1, 2, 3), (2, 3, 4), (0, 1, 4))
    with pytest.raises(UsageError):
        copied(((0,), (1,)), 3)


def test_parts_as_written() -> None:
    labels = ("cat", "dog", "cow")
    assert given(("dog, cat", "2"), labels) == ((0, 1), (2,))
    with pytest.raises(UnknownName, match="'dof'"):
        given(("dof", "cat,cow"), labels)
    with pytest.raises(UsageError, match="'cow'"):
        given(("dog,cat",), labels)
    with pytest.raises(UsageError, match="no classes"):
        given((" , ", "dog,cat,cow"), labels)
