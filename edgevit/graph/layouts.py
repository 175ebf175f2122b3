"""Chains of layout operators (views, permutations), each written as one reshape, permutation and reshape.

A move is traced on a tensor of positions, so that views, transpositions, splits and selections need no
algebra of their own.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch.fx import Node

from edgevit.graph.builder import Builder
from edgevit.graph.fx import LEAVES_GUARD, argument, aten, is_call, operand, shape

VIEWS = frozenset(
    {
        aten.view.default,
        aten.reshape.default,
        aten._unsafe_view.default,
        aten.flatten.using_ints,
        aten.unflatten.int,
        aten.unsqueeze.default,
        aten.squeeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
    }
)
MOVES = VIEWS | {
    aten.permute.default,
    aten.transpose.int,
    aten.t.default,
    aten.contiguous.default,
    aten.clone.default,
    aten.alias.default,
}
"""They keep every value."""
PARTS = frozenset(
    {
        aten.unbind.int,
        aten.split_with_sizes.default,
        aten.split.Tensor,
        aten.chunk.default,
        aten.select.int,
        aten.slice.Tensor,
        operator.getitem,
    }
)
"""They keep some."""
_ANY_LAYOUT = {aten.view.default: aten.reshape.default, aten._unsafe_view.default: aten.reshape.default}


@dataclass(frozen=True)
class Move:
    """A reordering of a tensor's values: ``x.reshape(split).permute(order).reshape(size)``."""

    split: tuple[int, ...]
    order: tuple[int, ...]
    size: tuple[int, ...]

    @property
    def is_view(self) -> bool:
        """Whether the order of values in memory stays the same."""
        return list(self.order) == sorted(self.order)

    def calls(self, start: tuple[int, ...]) -> int:
        """The number of operators that the move needs on a value of shape ``start``."""
        if self.is_view:
            return int(start != self.size)
        moved = tuple(self.split[axis] for axis in self.order)
        return int(start != self.split) + 1 + int(moved != self.size)

    def emit(self, builder: Builder, x: Node) -> Node:
        """Insert the move's operators on ``x`` and return the last one."""
        if not self.is_view:
            x = builder.permute(builder.reshape(x, self.split), self.order)
        return builder.reshape(x, self.size)


def permutation(node: Node, rank: int) -> list[int]:
    """The axis order of a permute or transpose call on a tensor of ``rank`` axes."""
    if node.target is aten.permute.default:
        return [axis % rank for axis in argument(node, "dims")]
    first, second = (0, 1) if node.target is aten.t.default else (argument(node, "dim0"), argument(node, "dim1"))
    order = list(range(rank))
    order[first % rank], order[second % rank] = order[second % rank], order[first % rank]
    return order


def traced(node: Node, positions: Any) -> Any:
    """Apply a layout or slicing operator to a tensor of positions."""
    target: Any = node.target
    return _ANY_LAYOUT.get(target, target)(positions, *node.args[1:], **node.kwargs)


def _run(values: torch.Tensor) -> tuple[int, int]:
    """Longest prefix with constant stride that tiles the whole index list: (length, stride); (0, 0) without one."""
    total = values.numel()
    step = int(values[1] - values[0])
    longest = int((values == values[0] + step * torch.arange(total)).long().cumprod(0).sum())
    for length in range(longest, 1, -1):
        if total % length == 0:
            rows = values.reshape(-1, length)
            if torch.equal(rows, rows[:, :1] + step * torch.arange(length)):
                return length, step
    return 0, 0


MOST_AXES = 6
"""XNNPACK permutes no more; a longer chain stays as the model has it (Hiera's unrolling has eight)."""
_Digit = tuple[int, int]
"""One axis of a permutation: its size, and its stride where it comes from."""


def _digits(positions: torch.Tensor) -> list[_Digit] | None:
    """Factor a permutation of positions into the fewest axes: (size, stride) each, in the result's order; None if it
    has none.
    """
    values, digits = positions.flatten(), list[_Digit]()
    while values.numel() > 1:
        length, step = _run(values)
        if length == 0 or step <= 0:
            return None
        digits.insert(0, (length, step))
        values = values.reshape(-1, length)[:, 0]
    expected = 1
    for length, step in sorted(digits, key=lambda digit: digit[1]):
        if step != expected:
            return None
        expected *= length
    return digits if expected == positions.numel() else None


def _refined(digits: list[_Digit], sizes: tuple[int, ...]) -> list[_Digit] | None:
    """Split digits so that each lies within one axis of ``sizes``; None where an axis would need several digits."""
    left, found = list(digits), list[_Digit]()
    for size in sizes:
        if size == 1:
            found.append((1, 1 << 62))
            continue
        if not left or left[0][0] % size:
            return None
        whole, step = left.pop(0)
        found.append((size, step * (whole // size)))
        if whole > size:
            left.insert(0, (whole // size, step))
    return None if left else found


def _split_alike(digits: list[_Digit], finer: list[_Digit]) -> list[_Digit]:
    """Split ``digits`` where ``finer``, the same axes in another order, is split; axes of size 1 come first."""
    units = [digit for digit in finer if digit[0] == 1]
    rest = [digit for digit in finer if digit[0] > 1]
    return units + [
        part
        for size, step in digits
        for part in rest
        if step <= part[1] < size * step and part[0] * part[1] <= size * step
    ]


def _as_move(source_order: list[_Digit], result_order: list[_Digit], size: tuple[int, ...]) -> Move:
    places, order = list(enumerate(source_order)), []
    for digit in result_order:
        place = next(one for one in places if one[1] == digit)
        places.remove(place)
        order.append(place[0])
    return Move(tuple(length for length, _ in source_order), tuple(order), size)


def as_move(positions: torch.Tensor, start: tuple[int, ...]) -> Move | None:
    """The move that puts input value number ``positions[i]`` at place i; None where no permutation of axes does that.

    Of the forms with the fewest operators, the one that ends in its permutation is taken: runtimes merge
    that with the layout of the operator that follows.

    Args:
        positions: int64, each of 0..n-1 once, in the shape of the result.
        start: the shape that the values come in.
    """
    size, digits = tuple(positions.shape), _digits(positions)
    if digits is None:
        return None
    by_stride = sorted(digits, key=lambda digit: -digit[1])
    forms = []
    ending = _refined(digits, size)
    if ending is not None:
        forms.append(_as_move(sorted(ending, key=lambda digit: -digit[1]), ending, size))
    starting = _refined(by_stride, start)
    if starting is not None:
        forms.append(_as_move(starting, _split_alike(digits, starting), size))
    forms.append(_as_move(by_stride, digits, size))
    fit = [move for move in forms if len(move.split) <= MOST_AXES]
    return min(fit, key=lambda move: move.calls(start)) if fit else None


def _passes_on(node: object) -> bool:
    """Whether a value has one reader only and is not the last of a region guarded from half precision."""
    return isinstance(node, Node) and len(node.users) == 1 and not node.meta.get(LEAVES_GUARD)


def source(node: Node) -> Node:
    """The value that a chain of layout operators starts from; each step has one reader only."""
    while is_call(node, *MOVES) and _passes_on(node.args[0]):
        node = operand(node)
    return node


def chain_to(node: Node) -> list[Node]:
    """The longest chain of layout operators that ends in ``node``, in order; only the last may have several readers."""
    chain = [node]
    while is_call(chain[0].args[0], *MOVES) and _passes_on(chain[0].args[0]):
        chain.insert(0, operand(chain[0]))
    return chain


def move_of(chain: list[Node]) -> Move | None:
    """A whole chain of layout operators as one move."""
    size = shape(chain[0].args[0])
    if size is None or prod(size) < 2:
        return None
    positions = torch.arange(prod(size)).reshape(size)
    for node in chain:
        positions = traced(node, positions)
    return as_move(positions, size)


def copies(chain: list[Node]) -> int:
    """How many operators of a chain copy data."""
    return sum(node.target not in VIEWS for node in chain)
