"""Splits a trained model into a plan: draft, prune and train, export, fuse, measure, write."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import numpy as np

from edgevit.bundle.read import Bundle, read_bundle
from edgevit.bundle.replace import check_plan_replaceable
from edgevit.bundle.write import MANIFEST, publish, staging
from edgevit.core.digest import sha256_file
from edgevit.core.fusion import FusionHead, save_head
from edgevit.data.folders import Skip, ignore
from edgevit.errors import CheckFailed, UnknownName
from edgevit.models.load import load_model
from edgevit.pipeline.export import export
from edgevit.pipeline.options import ExportOptions
from edgevit.schema.manifest import PreprocessInfo
from edgevit.schema.plan import FLEET, FUSION, PLAN, Accuracies, FusionInfo, Plan, SubModel
from edgevit.schema.target import devices, resolve_target
from edgevit.split.jobs import Progress, executor_for, run_jobs
from edgevit.split.measure import accuracies, bundle_features
from edgevit.split.options import SplitOptions
from edgevit.split.plan.preview import Draft, SplitSource, make_draft
from edgevit.split.train.fuse import own_head, train_head
from edgevit.split.train.submodel import SubModelJob
from edgevit.split.train.subset import Subset
from edgevit.split.train.torch_device import require

_MODELS = "models"


def _no_progress(what: str, done: int, total: int) -> None:
    """A progress callback that does nothing: the default."""


def draft_plan(
    options: SplitOptions, base: Path = Path(), progress: Progress = _no_progress, skip: Skip = ignore
) -> Draft:
    """Preview a split without training: sub-models, members, sizes and predicted latency.

    Args:
        options: how.
        base: the folder that the fleet's profiles are relative to.
        progress: called for each step.
        skip: called for pictures that are left out because they cannot be read, a tenth at most.

    Raises:
        UsageError: the request is wrong.
        CheckFailed: the sub-models do not fit the fleet; says what binds and what would do.
        BadFile: the data or a profile cannot be read.
    """
    return make_draft(SplitSource(options, progress, skip), base)


@dataclass(frozen=True)
class _Made:
    """Intermediate results of one split; lists are by sub-model."""

    source: SplitSource
    draft: Draft
    folders: Sequence[Path]
    bundles: Sequence[Bundle]

    @property
    def members(self) -> list[str]:
        """For each sub-model, the name of the member that runs it."""
        return [self.draft.problem.fleet.member[one].name for one in self.draft.assignment.members]


def split_model(
    options: SplitOptions, out: Path, base: Path = Path(), progress: Progress = _no_progress, skip: Skip = ignore
) -> Plan:
    """Split a model and write the plan; a run that was killed goes on where it stopped.

    Args:
        options: how.
        out: the plan's folder; an older plan there is replaced whole, where nothing in it was changed or added.
        base: the folder that the fleet's profiles are relative to.
        progress: called for each step.
        skip: called for pictures that are left out because they cannot be read, a tenth at most.

    Raises:
        UsageError: the request is wrong; nothing was written.
        CheckFailed: the sub-models do not fit the fleet, or a bundle failed its verdict.
        BadFile: the data or a profile cannot be read.
        EnvironmentIncomplete: the processor to train on is not there, or its memory does not suffice.
    """
    started = time.monotonic()
    check_plan_replaceable(out)
    targets = _targets(options)
    if not options.dask:
        require(options.device)
    source = SplitSource(options, progress, skip)
    draft = make_draft(source, base)
    with staging(out) as scratch:
        assert source.pool  # made here, so that every job finds it
        with executor_for(options.jobs or min(os.cpu_count() or 1, options.count), options.dask) as executor:
            folders = run_jobs(sub_model_jobs(source, draft), executor, progress)
        folder = scratch / "plan"
        folder.mkdir()
        chosen = [targets[one] for one in draft.assignment.members]
        made = _Made(source, draft, folders, _export_all(source, folders, chosen, folder))
        head = _fuse(made)
        save_head(head, folder / FUSION)
        plan = _describe(made, head, folder, _measure(made, head), (time.monotonic() - started) / 60)
        (folder / PLAN).write_text(plan.to_json(), encoding="utf-8")
        (folder / FLEET).write_text(options.fleet.to_toml(), encoding="utf-8")
        publish(folder, out, check_plan_replaceable)
    progress("done", 1, 1)
    return plan


def _targets(options: SplitOptions) -> list[str]:
    """The format for each member: the one asked for, or what its device prefers."""
    found = []
    for member in options.fleet.member:
        name = options.target or "onnx"
        if not options.target and member.device:
            if member.device not in devices():
                raise UnknownName(f"device of {member.name}", member.device, devices(), listing="edgevit targets")
            name = devices()[member.device].runtimes[0]
        resolve_target(name)
        found.append(name)
    return found


def sub_model_jobs(source: SplitSource, draft: Draft) -> list[SubModelJob]:
    """The training job of each sub-model of a draft."""
    options = source.options
    return [
        SubModelJob(
            f"sub-{index + 1}",
            str(source.store),
            source.original,
            source.pool_job.key,
            classes,
            str(draft.problem.levels[level].keep),
            options.score,
            options.between,
            options.last,
            options.seed + index,
            options.threads,
            options.device,
        )
        for index, (classes, level) in enumerate(zip(draft.parts, draft.assignment.levels, strict=True))
    ]


def _export_all(source: SplitSource, folders: Sequence[Path], targets: Sequence[str], folder: Path) -> list[Bundle]:
    bundles = []
    for index, (made, target) in enumerate(zip(folders, targets, strict=True)):
        name = f"sub-{index + 1}"
        source.tell(f"exporting {name}", index, len(folders))
        scratch = folder.parent / name
        scratch.mkdir()
        home = scratch / name  # a model in a folder is called by its folder
        home.symlink_to(made / "model", target_is_directory=True)
        result = export(_export_options(source.options, home, target, scratch / "out"))[0]
        if result.error is not None:
            raise result.error
        assert result.path is not None
        place = folder / _MODELS / name / result.path.name
        place.parent.mkdir(parents=True)
        result.path.rename(place)
        bundles.append(read_bundle(place))
    return bundles


def _export_options(options: SplitOptions, model: Path, target: str, out: Path) -> ExportOptions:
    calib = None
    if options.precision == "int8":
        calib = "digits:train" if options.data.startswith("digits:") else options.data
    return ExportOptions(
        str(model),
        (target,),
        output="features",
        precision=options.precision,
        calib=calib,
        out=out,
        cache=False,
        jobs=1,
    )


def _fuse(made: _Made) -> FusionHead:
    source = made.source
    pool, _ = source.pool
    views = [np.load(path / "features.npy", allow_pickle=False) for path in made.folders]
    source.tell("training the fusion head", 0, 0)
    names = list(dict.fromkeys(made.members))
    return train_head(
        [one.reshape(-1, one.shape[-1]) for one in views],
        np.tile(pool.pictures.labels, len(views[0])),
        [own_head(load_model(str(path / "model")).module) for path in made.folders],
        made.draft.parts,
        [names.index(name) for name in made.members],
        total=len(source.loaded.labels),
        drop=source.options.drop,
        seed=source.options.seed,
    )


def _measure(made: _Made, head: FusionHead) -> Accuracies:
    source, options = made.source, made.source.options
    _, held = source.pool
    found, measured_with = bundle_features(made.folders, made.bundles, held, source.loaded, source.tell)
    return accuracies(
        head,
        found,
        made.members,
        held,
        source.loaded,
        dataset=options.evaluate or f"{options.hold_out:.0%} of {options.data}",
        measured_with=measured_with,
    )


def _describe(made: _Made, head: FusionHead, folder: Path, accuracy: Accuracies, minutes: float) -> Plan:
    source, draft = made.source, made.draft
    options = source.options
    sub_models = tuple(_sub_model(made, head, index, folder) for index in range(len(made.folders)))
    if head.widths != tuple(one.features for one in sub_models):
        raise CheckFailed("the bundles give other features than the sub-models", where=str(folder))
    return Plan(
        edgevit=metadata.version("edgevit"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        model=draft.original,
        labels=source.loaded.labels,
        preprocess=PreprocessInfo.of(source.loaded.preprocessing, normalise_in_graph=True),
        assignment=options.assign,
        partition="given" if options.groups else options.partition,
        seed=options.seed,
        minutes=round(minutes, 2),
        sub_models=sub_models,
        fusion=FusionInfo(sha256=sha256_file(folder / FUSION), hidden=len(head.hidden_bias), dropped=options.drop),
        accuracy=accuracy,
        predicted=draft.predicted,
    )


def _sub_model(made: _Made, head: FusionHead, index: int, folder: Path) -> SubModel:
    draft, bundle, (weight, bias) = made.draft, made.bundles[index], head.heads[index]
    _, held = made.source.pool
    guesses = (np.load(made.folders[index] / "held.npy", allow_pickle=False) @ weight.T + bias).argmax(1)
    right = Subset(draft.parts[index], len(made.source.loaded.labels)).relabelled(held.labels)
    level = draft.problem.levels[draft.assignment.levels[index]]
    return SubModel(
        name=f"sub-{index + 1}",
        member=made.members[index],
        classes=draft.parts[index],
        keep=str(level.keep),
        bundle=bundle.path.relative_to(folder).as_posix(),
        bundle_sha256=sha256_file(bundle.path / MANIFEST),
        features=bundle.manifest.output.classes,
        parameters=bundle.manifest.model.parameters,
        macs=level.macs,
        bytes=_bundle_bytes(bundle),
        accuracy=float((guesses == right).mean()),
    )


def _bundle_bytes(bundle: Bundle) -> int:
    """Size of a bundle's model file or package."""
    entry = bundle.manifest.entry
    files = bundle.manifest.files or ()
    return sum(one.bytes for one in files if one.path == entry or one.path.startswith(f"{entry}/"))
