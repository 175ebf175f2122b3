"""Partitions the classes among sub-models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgevit.core.fusion import softmax
from edgevit.errors import UnknownName, UsageError

PartitionRule = Literal["balanced", "together", "apart"]
Parts = tuple[tuple[int, ...], ...]


def balanced(total: int, parts: int, seed: int) -> Parts:
    """Shuffle the classes and cut them into parts whose sizes differ by at most one (EC-SNN, DeViT)."""
    order = np.random.default_rng(seed).permutation(total)
    return tuple(tuple(sorted(int(one) for one in part)) for part in np.array_split(order, parts))


def confusion(labels: NDArray[np.int64], logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """[classes, classes]: mean probability that the original gives to class b for pictures of class a."""
    total = logits.shape[1]
    shares = softmax(logits)
    return np.stack(
        [shares[labels == one].mean(0) if (labels == one).any() else np.zeros(total) for one in range(total)]
    )


def by_confusion(matrix: NDArray[np.float64], parts: int, rule: PartitionRule, seed: int) -> Parts:
    """Balanced parts in which confused classes stand together, or apart.

    Starts from `balanced` and swaps pairs of classes while that raises (lowers) the confusion inside the parts.

    Args:
        matrix: from `confusion`.
        parts: number of parts.
        rule: ``together`` or ``apart``.
        seed: of the start.
    """
    likeness = matrix + matrix.T
    np.fill_diagonal(likeness, 0)
    likeness = likeness if rule == "together" else -likeness
    found = [list(part) for part in balanced(len(matrix), parts, seed)]
    while True:
        gain, swap = 1e-12, None
        for first in range(parts):
            for second in range(first + 1, parts):
                for i, a in enumerate(found[first]):
                    for j, b in enumerate(found[second]):
                        change = _sum(likeness, b, found[first], a) + _sum(likeness, a, found[second], b)
                        change -= _sum(likeness, a, found[first], a) + _sum(likeness, b, found[second], b)
                        if change > gain:
                            gain, swap = change, (first, i, second, j)
        if swap is None:
            return tuple(tuple(sorted(part)) for part in found)
        first, i, second, j = swap
        found[first][i], found[second][j] = found[second][j], found[first][i]


def _sum(likeness: NDArray[np.float64], one: int, part: Sequence[int], without: int) -> float:
    return float(sum(likeness[one, other] for other in part if other not in (one, without)))


def given(groups: Sequence[str], labels: tuple[str, ...]) -> Parts:
    """Parts as the user wrote them: labels or indices, separated by commas.

    Raises:
        UnknownName: no such class.
        UsageError: a class is in no part, or a part has none.
    """
    found = []
    for group in groups:
        names = [name.strip() for name in group.split(",") if name.strip()]
        if not names:
            raise UsageError("a --group has no classes", cure="write --group cat,dog")
        found.append(tuple(sorted({_index(name, labels) for name in names})))
    missing = sorted(set(range(len(labels))) - {one for part in found for one in part})
    if missing:
        raise UsageError(
            f"no --group has {', '.join(repr(labels[one]) for one in missing[:5])}",
            cure="put every class in at least one group",
        )
    return tuple(found)


def _index(name: str, labels: tuple[str, ...]) -> int:
    if name in labels:
        return labels.index(name)
    if name.isascii() and name.isdigit() and int(name) < len(labels):
        return int(name)
    raise UnknownName("class", name, labels)


def copied(parts: Parts, copies: int) -> Parts:
    """Add redundancy: part i also takes the classes of the parts that follow it, so that each class is in several.

    Raises:
        UsageError: more copies than parts.
    """
    if not 1 <= copies <= len(parts):
        raise UsageError(
            f"{copies} copies of each class need as many sub-models", cure=f"--copies {len(parts)} at most"
        )
    return tuple(
        tuple(sorted({one for step in range(copies) for one in parts[(index + step) % len(parts)]}))
        for index in range(len(parts))
    )
