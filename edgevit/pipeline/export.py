"""The export pipeline: load, capture, lower, run, judge, write."""

from __future__ import annotations

import io
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from numpy.typing import NDArray

from edgevit.backends.base import Backend, find_backend, labels_text
from edgevit.backends.process.jobs import ProcessLimits, Worker, end_worker, start_worker
from edgevit.bundle.card import write_card, write_licence
from edgevit.bundle.golden import GoldenVectors, write_golden
from edgevit.bundle.replace import check_bundle_replaceable
from edgevit.bundle.sbom import write_sbom
from edgevit.bundle.write import REJECTED, publish, staging, write_manifest
from edgevit.core.disk import explained_disk_errors
from edgevit.core.progress import Event, Listener, ignore
from edgevit.data.folders import Skip
from edgevit.errors import ConversionFailed, EdgevitError, MissingDependency
from edgevit.pipeline import cache
from edgevit.pipeline.describe import cache_key, describe, model_folder, resolve_targets
from edgevit.pipeline.judging import LOGS, Shared, attempt, better_artifact, cure, explained
from edgevit.pipeline.options import ExportOptions
from edgevit.pipeline.recipes import checked_recipe, describe_recipe, solved_recipe
from edgevit.schema.manifest import Manifest, VerdictInfo
from edgevit.schema.recipe import RECIPE, Recipe
from edgevit.schema.target import Runtime, folder_name
from edgevit.verify.accuracy_floor import Floor, measure, shortfall
from edgevit.verify.judge import give_inputs, why_not_here
from edgevit.verify.probes import Golden

if TYPE_CHECKING:
    pass

_MEMORY_PER_JOB = 4 << 30
"""Bytes reserved for one lowering (4 GiB): bounds how many run at once."""


@dataclass(frozen=True)
class ExportResult:
    """The result for one target.

    Attributes:
        target: the bundle's folder name.
        path: the bundle, the rejected bundle, or None where the conversion failed.
        manifest: of the bundle.
        cached: whether it came from the export cache.
        error: why there is no good bundle.
    """

    target: str
    path: Path | None
    manifest: Manifest | None
    cached: bool = False
    error: EdgevitError | None = None

    @property
    def ok(self) -> bool:
        """Whether a bundle exists and passed all checks."""
        return self.error is None


def export(options: ExportOptions, listen: Listener = ignore) -> list[ExportResult]:
    """Export one model to one bundle a target: ``OUT/MODEL/TARGET-PRECISION``.

    Args:
        options: what to export.
        listen: called for each step, from several threads.

    Returns:
        One result a target, in the order asked; a target that failed has its error there and
        leaves the others alone.

    Raises:
        UsageError: the request is wrong; nothing was written.
        EnvironmentIncomplete: weights, packages or disk space are missing.
    """
    wanted = resolve_targets(options)
    recipe = checked_recipe(options)
    home = options.out / model_folder(options.model)
    check_destinations(options, wanted)
    _check_writable(home)
    results: dict[str, ExportResult] = {}
    missing: list[Runtime] = []
    for runtime in wanted:
        hit = _from_cache(options, recipe, runtime, home, listen) if options.cache else None
        if hit:
            results[runtime.name] = hit
        else:
            missing.append(runtime)
    if missing:
        results |= _build(options, recipe, missing, home, listen)
    return [results[runtime.name] for runtime in wanted]


def check_destinations(options: ExportOptions, wanted: Sequence[Runtime]) -> None:
    """Refuse to replace what is not an unchanged bundle.

    Raises:
        UsageError: names what would be lost.
    """
    for runtime in wanted:
        place = options.out / model_folder(options.model) / folder_name(runtime, options.precision)
        check_bundle_replaceable(place)
        check_bundle_replaceable(place.with_name(place.name + REJECTED))


def _check_writable(home: Path) -> None:
    with staging(home / "check"):
        pass


def _from_cache(
    options: ExportOptions, recipe: Recipe | None, runtime: Runtime, home: Path, listen: Listener
) -> ExportResult | None:
    key = cache_key(options, runtime, recipe)
    found = cache.find(key) if key else None
    if found is None:
        return None
    name = folder_name(runtime, options.precision)
    with staging(home / name) as scratch:
        shutil.copytree(found.path, scratch / "bundle")
        publish(scratch / "bundle", home / name, check_bundle_replaceable)
    listen(Event(name, "cached"))
    return ExportResult(name, home / name, found.manifest, cached=True)


def _build(
    options: ExportOptions, recipe: Recipe | None, wanted: list[Runtime], home: Path, listen: Listener
) -> dict[str, ExportResult]:
    from edgevit.models.load import load_model

    for runtime in wanted:
        _require(find_backend(runtime.backend))
    if options.rewrites:
        from edgevit.graph.rewrites import check_rewrites

        check_rewrites(options.rewrites)
    jobs = _jobs_at_once(options, len(wanted))
    longest_first = sorted(wanted, key=lambda runtime: -find_backend(runtime.backend).effort)
    limits, stop = _limits(options, jobs), threading.Event()
    with (
        staging(home / "shared") as scratch,
        _started(longest_first[:jobs], options, limits, scratch) as workers,
    ):
        listen(Event(options.model, "loading", "building the model"))
        loaded = load_model(
            options.model,
            weights=options.weights,
            num_classes=options.num_classes,
            labels=options.labels,
            size=options.size,
            seed=options.seed,
            output=options.output,
        )
        for note in loaded.notes:
            listen(Event(options.model, "note", note))
        shared = _capture(loaded, options, recipe, wanted, scratch, home, limits, stop, listen, workers)
        with ThreadPoolExecutor(jobs) as pool:
            futures = {runtime.name: pool.submit(_one_target, shared, runtime, home) for runtime in longest_first}
            try:
                return {name: future.result() for name, future in futures.items()}
            except BaseException:
                stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise


def _limits(options: ExportOptions, jobs: int) -> ProcessLimits:
    return ProcessLimits(
        seconds=options.timeout,
        memory_bytes=int((options.memory_gib or 0) * 2**30),
        threads=max(1, (os.cpu_count() or 1) // jobs),
    )


@contextmanager
def _started(
    first: Sequence[Runtime], options: ExportOptions, limits: ProcessLimits, scratch: Path
) -> Iterator[dict[str, Worker]]:
    """Workers for the first targets, by runtime; they import their toolchains while the model is captured."""
    workers: dict[str, Worker] = {}
    try:
        for runtime in first:
            name = folder_name(runtime, options.precision)
            folder = scratch / name
            folder.mkdir()
            imports = find_backend(runtime.backend).imports
            workers[runtime.name] = start_worker(folder, folder / "log", limits, imports)
        yield workers
    finally:
        for worker in workers.values():
            end_worker(worker)


def _require(backend: Backend) -> None:
    from edgevit.core.digest import package_versions

    have = package_versions(backend.packages)
    for package in backend.packages:
        if package not in have:
            raise MissingDependency(package, f"exporting to {backend.name}", extra=backend.extra)


def _jobs_at_once(options: ExportOptions, targets: int) -> int:
    by_memory = max(1, psutil.virtual_memory().available // _MEMORY_PER_JOB)
    return max(1, min(targets, options.jobs or min(os.cpu_count() or 1, by_memory)))


def _capture(
    loaded: Any,
    options: ExportOptions,
    recipe: Recipe | None,
    wanted: Sequence[Runtime],
    scratch: Path,
    home: Path,
    limits: ProcessLimits,
    stop: threading.Event,
    listen: Listener,
    workers: dict[str, Worker],
) -> Shared:
    import torch

    from edgevit.data.folders import readable_pictures
    from edgevit.graph.capture import capture
    from edgevit.graph.noise import rounded_forms
    from edgevit.graph.qdq.prepare import answering
    from edgevit.verify.probes import make_golden

    skip = _telling(options.model, listen)
    extra = [picture for _, picture in readable_pictures(options.images, skip)] if options.images else []
    listen(Event(options.model, "loading", "capturing the program"))
    program = scratch / "program.pt2"
    captured = capture(loaded.module, loaded.preprocessing.size)
    # by way of memory: torch's own writer ends the whole process where the disk is full
    held = io.BytesIO()
    torch.export.save(captured, held)
    program.write_bytes(held.getbuffer())
    recipe = recipe or solved_recipe(options, captured, loaded, listen)
    quantization = describe_recipe(recipe) if recipe else None
    manifests = {runtime.name: describe(loaded, options, runtime, quantization) for runtime in wanted}
    golden = make_golden(
        loaded.module,
        loaded.preprocessing,
        probabilities=options.output == "probabilities",
        extra=extra,
        quantized=answering(captured, recipe) if recipe else None,
        rounded=rounded_forms(
            captured,
            options.precision,
            {find_backend(runtime.backend).half for runtime in wanted},
            options.keep_fp32,
        )
        if options.verify
        else {},
    )
    inputs = {name: golden.inputs(loaded.preprocessing, manifest.input) for name, manifest in manifests.items()}
    floor = None
    if options.floor is not None and options.evaluate is not None:
        floor = Floor(options.floor, options.evaluate, loaded.preprocessing)
    logs = home / LOGS
    return Shared(
        options, program, captured, recipe, floor, manifests, golden, inputs, logs, limits, stop, listen, workers
    )


def _telling(model: str, listen: Listener) -> Skip:
    """A `Skip` that reports pictures that are left out to a listener."""
    return lambda name, error: listen(Event(model, "loading", f"skipped {name}: {error.message}"))


def _one_target(shared: Shared, runtime: Runtime, home: Path) -> ExportResult:
    name = folder_name(runtime, shared.options.precision)
    try:
        with staging(home / name) as scratch:
            return _lower_and_judge(shared, runtime, home / name, scratch)
    except InterruptedError:
        raise
    except EdgevitError as error:
        shared.listen(Event(name, "failed", error.message))
        return ExportResult(name, None, None, error=error)


def _lower_and_judge(shared: Shared, runtime: Runtime, destination: Path, scratch: Path) -> ExportResult:
    name, log = destination.name, shared.logs / f"{destination.name}.log"
    log.unlink(missing_ok=True)
    bundle = scratch / "bundle"
    bundle.mkdir()
    manifest = shared.manifests[runtime.name]
    why_not = why_not_here(manifest) if shared.options.verify else "verification was switched off (--no-verify)"
    exchange = None if why_not else give_inputs(shared.inputs[runtime.name], scratch)
    shared.listen(Event(name, "lowering", "" if why_not else "and running"))
    try:
        manifest = attempt(shared, runtime, manifest, bundle, exchange, log)
        failure: ConversionFailed | None = None
    except ConversionFailed as error:
        failure = error
    if failure or (manifest.verdict and manifest.verdict.status == "failed"):
        better = better_artifact(shared, runtime, manifest, failure, scratch, exchange, log)
        if better is not None:
            shutil.rmtree(bundle)
            better.folder.rename(bundle)
            manifest = better.manifest
        elif failure:
            raise failure
    verdict = manifest.verdict
    assert verdict is not None
    if verdict.status == "failed":
        verdict = explained(shared, runtime, manifest, exchange, log)
    if verdict.status == "passed" and shared.floor is not None:
        verdict = _held(shared, shared.floor, manifest, bundle / manifest.entry, scratch, log, verdict)
    manifest = _complete(
        bundle,
        manifest.model_copy(update={"verdict": verdict}),
        shared.golden,
        shared.inputs[runtime.name],
        shared.recipe,
    )
    if verdict.status == "failed":
        return _reject(shared, bundle, destination, manifest, verdict)
    publish(bundle, destination, check_bundle_replaceable)
    key = cache_key(shared.options, runtime, shared.recipe if shared.options.recipe else None)
    if key and shared.options.cache:
        cache.store(key, destination)
    shared.listen(Event(name, "done"))
    return ExportResult(name, destination, manifest)


def _held(
    shared: Shared, floor: Floor, manifest: Manifest, file: Path, scratch: Path, log: Path, verdict: VerdictInfo
) -> VerdictInfo:
    """The verdict after the artifact was run on the data set of the accuracy floor."""
    accuracy = measure(
        floor, manifest, file, scratch, log, shared.limits, shared.stop, _telling(log.stem, shared.listen)
    )
    reason = shortfall(floor, accuracy)
    change = {"accuracy": accuracy} | ({"status": "failed", "reasons": (reason,)} if reason else {})
    return verdict.model_copy(update=change)


def _complete(
    bundle: Path, manifest: Manifest, golden: Golden, inputs: NDArray[Any], recipe: Recipe | None
) -> Manifest:
    """Write everything that stands beside the model file."""
    with explained_disk_errors(bundle):
        write_golden(bundle, golden.pictures, GoldenVectors(inputs, golden.outputs, golden.exact))
        if recipe is not None:
            (bundle / RECIPE).write_text(recipe.to_json(), encoding="utf-8")
        (bundle / "labels.txt").write_text(labels_text(manifest.labels), encoding="utf-8")
        write_licence(bundle, manifest)
        write_card(bundle, manifest)
        write_sbom(bundle, manifest)
        return write_manifest(bundle, manifest)


def _reject(shared: Shared, bundle: Path, destination: Path, manifest: Manifest, verdict: VerdictInfo) -> ExportResult:
    from edgevit.errors import CheckFailed

    kept = destination.with_name(destination.name + REJECTED)
    publish(bundle, kept, check_bundle_replaceable)
    shared.listen(Event(destination.name, "rejected", verdict.reasons[0]))
    error = CheckFailed(
        f"{destination.name} is not good: {'; '.join(verdict.reasons)}",
        where=f"kept for inspection as {kept}",
        cure=cure(shared, manifest, kept),
    )
    return ExportResult(destination.name, kept, manifest, error=error)
