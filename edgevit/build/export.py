"""The export pipeline: load, capture, lower, run, judge, write."""

from __future__ import annotations

import io
import os
import shlex
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
from edgevit.backends.jobs import Limits, Worker, end_worker, run_job, start_worker
from edgevit.backends.lowering import chosen_rewrites, lower_job
from edgevit.build import cache
from edgevit.build.describe import cache_key, describe, model_folder, resolve_targets
from edgevit.build.fallback import without_culprit
from edgevit.build.floor import Floor, measure, shortfall
from edgevit.build.options import ExportOptions
from edgevit.build.recipes import check_options, describe_recipe, obtain_recipe
from edgevit.bundle.card import write_card, write_licence
from edgevit.bundle.golden import write_golden
from edgevit.bundle.replace import check_bundle_replaceable
from edgevit.bundle.sbom import write_sbom
from edgevit.bundle.write import REJECTED, publish, staging, write_manifest
from edgevit.core.disk import explained_disk_errors
from edgevit.core.events import Event, Listener, ignore
from edgevit.core.manifest import Lowering, Manifest, VerdictInfo
from edgevit.core.recipe import RECIPE
from edgevit.core.target import Runtime, folder_name
from edgevit.data.folders import Skip
from edgevit.errors import ConversionFailed, EdgevitError, MissingDependency, UsageError
from edgevit.graph.rewrites import NONE
from edgevit.verify.judge import give_inputs, judge, noise_name, not_run, take_outputs, why_not_here
from edgevit.verify.probes import Golden

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from edgevit.graph.noise import Overflow

_MEMORY_PER_JOB = 4 << 30
_LOGS = "logs"


@dataclass(frozen=True)
class ExportResult:
    """How one target ended.

    Attributes:
        target: the bundle's folder name.
        path: the bundle, the rejected bundle, or None where the conversion failed.
        manifest: of the bundle.
        cached: it came out of the build cache.
        error: why there is no good bundle.
    """

    target: str
    path: Path | None
    manifest: Manifest | None
    cached: bool = False
    error: EdgevitError | None = None

    @property
    def ok(self) -> bool:
        """Whether there is a bundle and nothing speaks against it."""
        return self.error is None


@dataclass(frozen=True)
class _Shared:
    """What all targets of one export have in common."""

    options: ExportOptions
    program: Path
    captured: ExportedProgram
    recipe: Path | None
    floor: Floor | None
    manifests: dict[str, Manifest]
    golden: Golden
    inputs: dict[str, NDArray[Any]]
    logs: Path
    limits: Limits
    stop: threading.Event
    listen: Listener
    workers: dict[str, Worker]


def export(options: ExportOptions, listen: Listener = ignore) -> list[ExportResult]:
    """Export one model to one bundle a target: ``OUT/MODEL/TARGET-PRECISION``.

    Args:
        options: what to export.
        listen: is told about every step, from several threads.

    Returns:
        One result a target, in the order asked; a target that failed has its error there and
        leaves the others alone.

    Raises:
        UsageError: the request is wrong; nothing was written.
        EnvironmentIncomplete: weights, packages or disk space are missing.
    """
    wanted = resolve_targets(options)
    check_options(options)
    home = options.out / model_folder(options.model)
    check_destinations(options, wanted)
    _check_writable(home)
    results: dict[str, ExportResult] = {}
    missing: list[Runtime] = []
    for runtime in wanted:
        hit = _from_cache(options, runtime, home, listen) if options.cache else None
        if hit:
            results[runtime.name] = hit
        else:
            missing.append(runtime)
    if missing:
        results |= _build(options, missing, home, listen)
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


def _from_cache(options: ExportOptions, runtime: Runtime, home: Path, listen: Listener) -> ExportResult | None:
    key = cache_key(options, runtime)
    found = cache.find(key) if key else None
    if found is None:
        return None
    name = folder_name(runtime, options.precision)
    with staging(home / name) as scratch:
        shutil.copytree(found.path, scratch / "bundle")
        publish(scratch / "bundle", home / name, check_bundle_replaceable)
    listen(Event(name, "cached"))
    return ExportResult(name, home / name, found.manifest, cached=True)


def _build(options: ExportOptions, wanted: list[Runtime], home: Path, listen: Listener) -> dict[str, ExportResult]:
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
        shared = _capture(loaded, options, wanted, scratch, home, limits, stop, listen, workers)
        with ThreadPoolExecutor(jobs) as pool:
            futures = {runtime.name: pool.submit(_one_target, shared, runtime, home) for runtime in longest_first}
            try:
                return {name: future.result() for name, future in futures.items()}
            except BaseException:
                stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise


def _limits(options: ExportOptions, jobs: int) -> Limits:
    return Limits(
        seconds=options.timeout,
        memory_bytes=int((options.memory_gib or 0) * 2**30),
        threads=max(1, (os.cpu_count() or 1) // jobs),
    )


@contextmanager
def _started(
    first: Sequence[Runtime], options: ExportOptions, limits: Limits, scratch: Path
) -> Iterator[dict[str, Worker]]:
    """Workers for the first targets, by runtime: they import their toolchains while the model is captured."""
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
    wanted: Sequence[Runtime],
    scratch: Path,
    home: Path,
    limits: Limits,
    stop: threading.Event,
    listen: Listener,
    workers: dict[str, Worker],
) -> _Shared:
    import torch

    from edgevit.data.folders import readable_pictures
    from edgevit.graph.capture import capture
    from edgevit.graph.noise import rounded_forms
    from edgevit.graph.quantized.prepare import answering
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
    recipe, file = obtain_recipe(options, captured, loaded, listen), None
    if recipe is not None:
        file = scratch / RECIPE
        file.write_text(recipe.to_json(), encoding="utf-8")
    quantization = describe_recipe(recipe, file) if recipe and file else None
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
    logs = home / _LOGS
    return _Shared(
        options, program, captured, file, floor, manifests, golden, inputs, logs, limits, stop, listen, workers
    )


def _telling(model: str, listen: Listener) -> Skip:
    """Tells a listener about pictures that are left out."""
    return lambda name, error: listen(Event(model, "loading", f"skipped {name}: {error.message}"))


def _one_target(shared: _Shared, runtime: Runtime, home: Path) -> ExportResult:
    name = folder_name(runtime, shared.options.precision)
    try:
        with staging(home / name) as scratch:
            return _lower_and_judge(shared, runtime, home / name, scratch)
    except InterruptedError:
        raise
    except EdgevitError as error:
        shared.listen(Event(name, "failed", error.message))
        return ExportResult(name, None, None, error=error)


def _lower_and_judge(shared: _Shared, runtime: Runtime, destination: Path, scratch: Path) -> ExportResult:
    name, log = destination.name, shared.logs / f"{destination.name}.log"
    log.unlink(missing_ok=True)
    bundle = scratch / "bundle"
    bundle.mkdir()
    manifest = shared.manifests[runtime.name]
    why_not = why_not_here(manifest) if shared.options.verify else "verification was switched off (--no-verify)"
    exchange = {} if why_not else give_inputs(shared.inputs[runtime.name], scratch)
    shared.listen(Event(name, "lowering", "" if why_not else "and running"))
    try:
        manifest = _attempt(shared, runtime, manifest, bundle, exchange, log)
        failure: ConversionFailed | None = None
    except ConversionFailed as error:
        failure = error
    if failure or (manifest.verdict and manifest.verdict.status == "failed"):
        better = _without_culprit(shared, runtime, manifest, failure, scratch, exchange, log)
        if better is not None:
            shutil.rmtree(bundle)
            better.folder.rename(bundle)
            manifest = better.manifest
        elif failure:
            raise failure
    verdict = manifest.verdict
    assert verdict is not None
    if verdict.status == "failed":
        verdict = _explained(shared, runtime, manifest, exchange, log)
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
    key = cache_key(shared.options, runtime)
    if key and shared.options.cache:
        cache.store(key, destination)
    shared.listen(Event(name, "done"))
    return ExportResult(name, destination, manifest)


def _attempt(
    shared: _Shared, runtime: Runtime, manifest: Manifest, bundle: Path, exchange: dict[str, str], log: Path
) -> Manifest:
    """Write a model file into a folder and judge it; returns the manifest with both results."""
    made = _lower(shared, runtime, manifest, bundle / manifest.entry, exchange, log)
    manifest = manifest.model_copy(update={"lowering": Lowering(**made, log=f"{_LOGS}/{log.name}")})
    shared.listen(Event(folder_name(runtime, manifest.target.precision), "judging"))
    return manifest.model_copy(update={"verdict": _verdict(shared, manifest, exchange)})


@dataclass(frozen=True)
class _Better:
    """An artifact that is right without one of the rewrites."""

    folder: Path
    manifest: Manifest


def _without_culprit(
    shared: _Shared,
    runtime: Runtime,
    manifest: Manifest,
    failure: ConversionFailed | None,
    scratch: Path,
    exchange: dict[str, str],
    log: Path,
) -> _Better | None:
    """The artifact without the rewrite that makes it wrong; None where no rewrite is at fault.

    A recipe speaks of the graph that the rewrites leave, and rewrites that were asked for are not second-guessed.
    """
    if shared.options.rewrites or shared.recipe is not None:
        return None
    if failure is not None and (failure.at_limit or failure.message.startswith(UsageError.__name__)):
        return None
    if failure is None and _overflows(shared, manifest):
        return None
    name = folder_name(runtime, manifest.target.precision)
    half = manifest.target.precision == "fp16" and find_backend(runtime.backend).half_program(runtime.variant)
    names = [one.name for one in chosen_rewrites(manifest, runtime.variant, half=half)]
    if manifest.lowering is not None:  # those that matched nothing cannot be at fault
        names = [one for one in names if one in manifest.lowering.rewrites]
    found: dict[tuple[str, ...], _Better] = {}

    def works(asked: tuple[str, ...]) -> bool:
        shared.listen(Event(name, "lowering", f"again, {'plainly' if asked == (NONE,) else 'to find the cause'}"))
        folder = scratch / f"try-{len(list(scratch.glob('try-*')))}"
        folder.mkdir()
        target = manifest.target.model_copy(update={"rewrites": asked})
        plain = manifest.model_copy(update={"target": target, "lowering": None, "verdict": None})
        try:
            tried = _attempt(shared, runtime, plain, folder, exchange, log)
        except ConversionFailed:
            return False
        found[asked] = _Better(folder, tried)
        return tried.verdict is not None and tried.verdict.status != "failed"

    choice = without_culprit(names, works)
    if choice is None:
        return None
    before = failure.message if failure else "; ".join(manifest.verdict.reasons if manifest.verdict else ())
    what = f"the rewrite {choice.culprit}" if choice.culprit else "any rewrite"
    note = (
        f"exported without {what}: with it, {before}"
        if choice.culprit
        else f"exported without {what}: with them, {before}"
    )
    better = found[choice.rewrites]
    assert better.manifest.lowering is not None
    lowering = better.manifest.lowering.model_copy(update={"note": note})
    return _Better(better.folder, better.manifest.model_copy(update={"lowering": lowering}))


def _overflows(shared: _Shared, manifest: Manifest) -> list[Overflow]:
    """Where the model itself leaves the range of fp16, for files that compute in it."""
    from edgevit.graph.noise import overflows
    from edgevit.verify.probes import normalised

    backend = find_backend(manifest.target.backend)
    if manifest.target.precision != "fp16" or backend.half != "values":
        return []
    inputs = normalised(shared.golden.pictures, manifest.preprocess.rule())
    return overflows(shared.captured, inputs, manifest.target.keep_fp32)


def _explained(
    shared: _Shared, runtime: Runtime, manifest: Manifest, exchange: dict[str, str], log: Path
) -> VerdictInfo:
    """A failed verdict with what is known of the cause: overflows of fp16, the first operator that departs."""
    verdict = manifest.verdict
    assert verdict is not None
    further = [overflow.sentence() for overflow in _overflows(shared, manifest)]
    if shared.options.bisect:
        from edgevit.verify.bisect import bisect

        scratch = Path(exchange["outputs"]).parent
        inputs = shared.inputs[runtime.name]
        finding = bisect(shared.program, manifest, runtime, inputs, scratch, log, shared.limits, shared.recipe)
        further.append(finding.sentence())
    return verdict.model_copy(update={"reasons": (*verdict.reasons, *further)})


def _lower(
    shared: _Shared, runtime: Runtime, manifest: Manifest, out: Path, exchange: dict[str, str], log: Path
) -> dict[str, Any]:
    """Write the model file and, where inputs are given, run it once it is written."""
    scratch = out.parent.parent
    further = exchange if shared.recipe is None else {**exchange, "recipe": str(shared.recipe)}
    job = lower_job(shared.program, manifest, runtime, out, **further)
    return run_job(job, scratch, log, shared.limits, shared.stop, shared.workers.pop(runtime.name, None))


def _verdict(shared: _Shared, manifest: Manifest, exchange: dict[str, str]) -> VerdictInfo:
    golden = shared.golden
    why_not = why_not_here(manifest) if shared.options.verify else "verification was switched off (--no-verify)"
    if why_not:
        return not_run(manifest, len(golden.outputs), why_not)
    noise = golden.noise.get(noise_name(manifest))
    return judge(manifest, golden.outputs, take_outputs(exchange), golden.exact, noise)


def _held(
    shared: _Shared, floor: Floor, manifest: Manifest, file: Path, scratch: Path, log: Path, verdict: VerdictInfo
) -> VerdictInfo:
    """The verdict once the artifact was run on the floor's data set."""
    accuracy = measure(floor, manifest, file, scratch, log, shared.limits, shared.stop)
    reason = shortfall(floor, accuracy)
    change = {"accuracy": accuracy} | ({"status": "failed", "reasons": (reason,)} if reason else {})
    return verdict.model_copy(update=change)


def _complete(bundle: Path, manifest: Manifest, golden: Golden, inputs: NDArray[Any], recipe: Path | None) -> Manifest:
    """Write everything that stands beside the model file."""
    with explained_disk_errors(bundle):
        write_golden(bundle, golden.pictures, inputs, golden.outputs, golden.exact)
        if recipe is not None:
            shutil.copyfile(recipe, bundle / RECIPE)
        (bundle / "labels.txt").write_text(labels_text(manifest.labels), encoding="utf-8")
        write_licence(bundle, manifest)
        write_card(bundle, manifest)
        write_sbom(bundle, manifest)
        return write_manifest(bundle, manifest)


def _cure(shared: _Shared, manifest: Manifest, kept: Path) -> str:
    verdict, target, options = manifest.verdict, manifest.target, shared.options
    if verdict is not None and verdict.accuracy is not None:
        return "try another --quantizer, or a recipe with --auto-mixed latency=1.2 from edgevit quantize"
    if target.precision == "fp16":
        keep = dict.fromkeys(overflow.keep for overflow in _overflows(shared, manifest))
        if keep:
            return "export again with " + " ".join(f"--keep-fp32 {shlex.quote(one)}" for one in keep)
        if target.backend == "coreml":
            return f"edgevit verify {shlex.quote(str(kept))} --hazards names what to keep in fp32"
    further = "" if options.bisect else "add --bisect to find the first operator that departs"
    if options.rewrites and options.rewrites != (NONE,):
        return f"leave --rewrites out, or export plainly with --rewrites none{'; ' if further else ''}{further}"
    if target.precision != "fp32":
        return f"export with --precision fp32{'; ' if further else ''}{further}"
    return further or "edgevit doctor checks the toolchain's version"


def _reject(shared: _Shared, bundle: Path, destination: Path, manifest: Manifest, verdict: VerdictInfo) -> ExportResult:
    from edgevit.errors import CheckFailed

    kept = destination.with_name(destination.name + REJECTED)
    publish(bundle, kept, check_bundle_replaceable)
    shared.listen(Event(destination.name, "rejected", verdict.reasons[0]))
    error = CheckFailed(
        f"{destination.name} is not good: {'; '.join(verdict.reasons)}",
        where=f"kept for inspection as {kept}",
        cure=_cure(shared, manifest, kept),
    )
    return ExportResult(destination.name, kept, manifest, error=error)
