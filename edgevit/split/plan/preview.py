"""Plans a split before any training: classes, members, shares, sizes and predicted latency."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path

from edgevit.compress.width.cut import narrow, structure_of
from edgevit.core.files import cache_folder
from edgevit.data.folders import Skip, ignore
from edgevit.errors import BadFile, UsageError
from edgevit.graph.cost import measure_cost
from edgevit.models.load import LoadedModel
from edgevit.schema.plan import Member, ModelFacts, Predicted
from edgevit.schema.profile import parse_profiles
from edgevit.split.jobs import Progress, here, run_jobs
from edgevit.split.options import SplitOptions
from edgevit.split.plan.assign import Assignment, Level, Problem, exact, greedy, predict
from edgevit.split.plan.partition import Parts, balanced, by_confusion, confusion, copied, given
from edgevit.split.plan.widths import counts
from edgevit.split.train.pool import Labelled, Pool, read_pool, skipped_pictures
from edgevit.split.train.pool_job import PoolJob, pool_job
from edgevit.split.train.subset import Subset, fit_head
from edgevit.split.train.teacher import load_original

_BYTES = {"fp32": 4.0, "fp16": 2.0, "int8": 1.0, "int8-dynamic": 1.0, "w8": 1.0, "w4": 0.5}
"""Bytes of one weight by precision, for the predicted size of a bundle."""


@dataclass(frozen=True)
class Draft:
    """Result of a dry run: everything that is decided before training.

    Attributes:
        parts: classes of each sub-model.
        assignment: levels and members.
        problem: with the levels' costs and the members' limits.
        predicted: by member.
        original: parameters, MACs and bytes of the whole model.
        labels: of the model.
    """

    parts: Parts
    assignment: Assignment
    problem: Problem
    predicted: dict[str, Predicted]
    original: ModelFacts
    labels: tuple[str, ...]


class SplitSource:
    """The inputs of a split: options, the loaded model, and the store of intermediate results.

    Attributes:
        options: see `SplitOptions`.
        loaded: the original model.
        original: how a job loads the original again.
        store: folder of all jobs' results.
        tell: progress callback, called for each step.
        skip: called with each picture that is left out because it cannot be read.
    """

    def __init__(self, options: SplitOptions, progress: Progress, skip: Skip = ignore) -> None:
        options.check()
        self.skip = skip
        progress("loading the model", 0, 0)
        self.options, self.tell, self.store = options, progress, cache_folder() / "split"
        self.original, self.loaded = load_original(options.model, options.weights, options.num_classes, options.labels)
        if options.count > len(self.loaded.labels):
            raise UsageError(
                f"{options.count} sub-models for {len(self.loaded.labels)} classes", cure="choose fewer --parts"
            )

    @cached_property
    def pool_job(self) -> PoolJob:
        """The first job of a split: collect the pictures and the original model's answers to them."""
        return pool_job(self.options, self.original, self.store)

    @cached_property
    def pool(self) -> tuple[Pool, Labelled]:
        """Augmented views and held-out pictures, from the store where they exist."""
        with here() as executor:
            folder = run_jobs([self.pool_job], executor, self.tell)[0]
        for name, error in skipped_pictures(folder):
            self.skip(name, error)
        return read_pool(folder)


def make_draft(source: SplitSource, base: Path) -> Draft:
    """Decide everything that can be decided before training.

    Args:
        source: the model and the options.
        base: the folder that the fleet's profiles are relative to.

    Raises:
        UsageError: the limits cannot be computed with.
        CheckFailed: the sub-models do not fit the fleet; says what binds and what would do.
        BadFile: the data or a profile cannot be read.
    """
    source.tell("measuring the architecture", 0, 0)
    options, facts, parts = source.options, _facts(source), _parts(source)
    problem = Problem(
        options.fleet,
        tuple(_level(source, keep, max(map(len, parts))) for keep in sorted(options.levels)),
        tuple(speed(member, facts, base) for member in options.fleet.member),
        parts,
    )
    problem.check()
    found = exact(problem) if options.assign == "exact" else greedy(problem)
    return Draft(parts, found, problem, predict(problem, found), facts, source.loaded.labels)


def _facts(source: SplitSource) -> ModelFacts:
    loaded: LoadedModel = source.loaded
    cost = measure_cost(loaded.module, loaded.preprocessing.size)
    return ModelFacts(
        name=Path(source.options.model).name,
        parameters=cost.parameters,
        macs=cost.macs,
        bytes=4 * cost.parameters,
        weights_sha256=loaded.weights.sha256,
    )


def _level(source: SplitSource, keep: Fraction, classes: int) -> Level:
    """Size of a sub-model at this share.

    Units are cut arbitrarily: only the cost is wanted.
    """
    module = copy.deepcopy(source.loaded.module)
    structure = structure_of(module)
    narrow(module, counts(structure, keep, original=structure.sizes()))
    fit_head(module, Subset(tuple(range(classes)), len(source.loaded.labels)))
    cost = measure_cost(module.eval().requires_grad_(False), source.loaded.preprocessing.size)
    weights = int(cost.parameters * _BYTES[source.options.precision])
    width = int(module.head_hidden_size)  # type: ignore[arg-type]
    return Level(keep, cost.parameters, cost.macs, weights, cost.activation_bytes, width)


def _parts(source: SplitSource) -> Parts:
    options, labels = source.options, source.loaded.labels
    if options.groups:
        return given(options.groups, labels)
    if options.partition == "balanced":
        found = balanced(len(labels), options.count, options.seed)
    else:
        pool, _ = source.pool
        matrix = confusion(pool.pictures.labels, pool.answers.mean(0))
        found = by_confusion(matrix, options.count, options.partition, options.seed)
    return copied(found, options.copies)


def speed(member: Member, facts: ModelFacts, base: Path) -> float | None:
    """A member's multiply-accumulates per second: as stated, or from a profile of the whole model on it.

    Raises:
        BadFile: the profile cannot be read, or is of another model.
    """
    if member.gmacs_per_s is not None:
        return member.gmacs_per_s * 1e9
    if not member.profile:
        return None
    path = base / member.profile
    if not path.is_file():
        raise BadFile(f"there is no profile {path}", cure=f"named by {member.name} in the fleet's file")
    found = [one for one in parse_profiles(path.read_bytes(), str(path)) if one.artifact.model == facts.name]
    medians = [one.latency.median for one in found if one.latency is not None]
    if not medians:
        raise BadFile(
            f"the profile has no latency of {facts.name}",
            where=str(path),
            cure=f"edgevit profile BUNDLE -d DEVICE --json, with a bundle of {facts.name}",
        )
    return facts.macs / (min(medians) / 1e3)
