"""The options that decide a plan, checked before any work starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from edgevit.errors import UsageError
from edgevit.schema.choices import Precision
from edgevit.schema.plan import Fleet
from edgevit.split.plan.partition import PartitionRule
from edgevit.split.train.fine_tune import Schedule
from edgevit.split.train.importance import Score
from edgevit.split.train.torch_device import CPU, check_name

LEVELS = tuple(Fraction(*one) for one in ((1, 8), (1, 6), (1, 4), (1, 3), (1, 2), (2, 3)))
"""Shares that a solver may choose from."""


@dataclass(frozen=True)
class SplitOptions:
    """How a model is split; the command line and Python build the same object.

    Attributes:
        model: a name, as for `edgevit export`.
        data: labelled pictures to prune and train on.
        fleet: the members and their limits.
        weights: ``pretrained``, ``random`` or a file.
        num_classes: head size, None for the model's own.
        labels: class names, None for the model's own.
        evaluate: labelled pictures for the accuracy table; None holds some of ``data`` back.
        hold_out: share of each class that is held back.
        parts: number of sub-models, None for one a member.
        copies: how many sub-models know each class.
        partition: ``balanced``, or by the original's confusion ``together`` or ``apart``.
        groups: the classes of each sub-model, in place of a rule.
        levels: shares of every width that may be kept; one alone is kept by all.
        assign: ``exact`` or ``greedy``.
        score: importance by ``fisher`` or ``kl``; ``random`` is a control.
        between: epochs after the first and the second stage of pruning.
        last: the schedule after the third.
        views: augmented views of each picture.
        flip: mirror views at random.
        drop: probability that a member is missing while the fusion head is trained.
        target: format of the bundles; None for what each member's device prefers.
        precision: of the bundles.
        seed: of everything.
        jobs: sub-models trained at once, None for one a core.
        threads: of torch, for each job.
        device: to train on, ``cpu``, ``cuda`` or ``cuda:1``.
        dask: address of a Dask scheduler.
    """

    model: str
    data: str
    fleet: Fleet
    weights: str = "pretrained"
    num_classes: int | None = None
    labels: tuple[str, ...] | None = None
    evaluate: str | None = None
    hold_out: float = 0.2
    parts: int | None = None
    copies: int = 1
    partition: PartitionRule = "balanced"
    groups: tuple[str, ...] = ()
    levels: tuple[Fraction, ...] = LEVELS
    assign: Literal["exact", "greedy"] = "exact"
    score: Score = "fisher"
    between: int = 2
    last: Schedule = field(default_factory=lambda: Schedule(30))
    views: int = 16
    flip: bool = False
    drop: float = 0.3
    target: str | None = None
    precision: Precision = "fp32"
    seed: int = 0
    jobs: int | None = None
    threads: int = 1
    device: str = CPU
    dask: str | None = None

    def check(self) -> None:
        """Refuse options that contradict each other or cannot be carried out.

        Raises:
            UsageError: says what.
        """
        if not self.levels:
            raise UsageError("no share of the widths was given", cure="--keep 1/3")
        limited = any(
            limit is not None for one in self.fleet.member for limit in (one.memory_mb, one.latency_ms, one.energy_mj)
        )
        if len(self.levels) > 1 and not limited:
            raise UsageError(
                "nothing says how small the sub-models must be",
                cure="give --keep 1/3, or limits (memory_mb, latency_ms, energy_mj) in the fleet's file",
            )
        if self.parts is not None and self.groups and self.parts != len(self.groups):
            raise UsageError(f"--parts {self.parts} and {len(self.groups)} groups", cure="leave --parts out")
        if self.count < 2:
            raise UsageError("a plan needs two sub-models or more", cure="--parts 2, or more members")
        check_name(self.device)
        if not 0 <= self.drop < 1:
            raise UsageError("--drop is a probability below 1")
        if not 0 < self.hold_out < 1:
            raise UsageError("--hold-out is a share between 0 and 1")
        if not 0 <= self.last.distill <= 1:
            raise UsageError("--distill is a share between 0 and 1")
        if self.last.auxiliary < 0:
            raise UsageError("--auxiliary is a weight of 0 or more")

    @property
    def count(self) -> int:
        """The number of sub-models."""
        return len(self.groups) or self.parts or len(self.fleet.member)


def equal_fleet(members: int) -> Fleet:
    """A fleet of ``members`` equal members without limits, on one machine."""
    return Fleet.model_validate({"member": [{"name": f"member-{index + 1}"} for index in range(members)]})
