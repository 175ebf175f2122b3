"""Lowers, runs and judges one target of an export, and explains a failure.

Where one of edgevit's own rewrites is at fault, the artifact is made without it; where sums in half precision are, it
with all but the products of matrices in single precision.
"""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from edgevit.backends.base import find_backend
from edgevit.backends.process.job import ExchangeFiles, lower_job, lowered_with
from edgevit.backends.process.jobs import ProcessLimits, Worker, run_job
from edgevit.core.progress import Event, Listener
from edgevit.errors import ConversionFailed, UsageError
from edgevit.graph.rewrites import NONE
from edgevit.pipeline.fallback import without_culprit
from edgevit.pipeline.options import ExportOptions
from edgevit.schema.manifest import Lowering, Manifest, TargetInfo, VerdictInfo
from edgevit.schema.recipe import Recipe
from edgevit.schema.target import Runtime, folder_name, runtimes
from edgevit.verify.accuracy_floor import Floor
from edgevit.verify.judge import judge, noise_name, not_run, take_outputs, why_not_here
from edgevit.verify.probes import Golden

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import GraphModule

    from edgevit.graph.noise import Overflow

LOGS = "logs"


@dataclass(frozen=True)
class Shared:
    """The data that all targets of one export share."""

    options: ExportOptions
    program: Path
    captured: ExportedProgram
    recipe: Recipe | None
    floor: Floor | None
    manifests: dict[str, Manifest]
    golden: Golden
    inputs: dict[str, NDArray[Any]]
    logs: Path
    limits: ProcessLimits
    stop: threading.Event
    listen: Listener
    workers: dict[str, Worker]


def attempt(
    shared: Shared, runtime: Runtime, manifest: Manifest, bundle: Path, exchange: ExchangeFiles | None, log: Path
) -> Manifest:
    """Write a model file into a folder and judge it; returns the manifest with both results."""
    made = _lower(shared, runtime, manifest, bundle / manifest.entry, exchange, log)
    manifest = manifest.model_copy(update={"lowering": made.model_copy(update={"log": f"{LOGS}/{log.name}"})})
    shared.listen(Event(folder_name(runtime, manifest.target.precision), "judging"))
    return manifest.model_copy(update={"verdict": _verdict(shared, manifest, exchange)})


@dataclass(frozen=True)
class Better:
    """A correct artifact in place of the requested one."""

    folder: Path
    manifest: Manifest


Again = Callable[[TargetInfo, str], Better | None]
"""Lowers with another description of the target, and says why; the artifact where it is right."""


def better_artifact(
    shared: Shared,
    runtime: Runtime,
    manifest: Manifest,
    failure: ConversionFailed | None,
    scratch: Path,
    exchange: ExchangeFiles | None,
    log: Path,
) -> Better | None:
    """Try to make another, correct artifact of the same target, with a note of what was changed and why.

    Args:
        shared: of the export.
        runtime: that the artifact is for.
        manifest: of what went wrong, with its verdict where it was judged.
        failure: why there is no artifact, if there is none.
        scratch: where the attempts are written.
        exchange: paths of the probes and of the outputs.
        log: of the target.

    Returns:
        None where nothing that can be changed is at fault, and where the model itself overflows half precision: that
        the user is told, with the cure.
    """
    if failure is not None and (failure.at_limit or failure.message.startswith(UsageError.__name__)):
        return None
    if failure is None and _overflows(shared, manifest):
        return None

    def again(target: TargetInfo, why: str) -> Better | None:
        shared.listen(Event(folder_name(runtime, target.precision), "lowering", f"again, {why}"))
        folder = scratch / f"try-{len(list(scratch.glob('try-*')))}"
        folder.mkdir()
        fresh = manifest.model_copy(update={"target": target, "lowering": None, "verdict": None})
        try:
            tried = attempt(shared, runtime, fresh, folder, exchange, log)
        except ConversionFailed:
            return None
        is_right = tried.verdict is not None and tried.verdict.status != "failed"
        return Better(folder, tried) if is_right else None

    found = None
    if failure is None:
        found = _with_wider_values(shared, runtime, manifest, again)
    return found or _without_rewrite_at_fault(shared, runtime, manifest, failure, again)


def _with_wider_values(shared: Shared, runtime: Runtime, manifest: Manifest, again: Again) -> Better | None:
    """The fp16 artifact that computes all but the products of matrices in fp32, as PyTorch's autocast does.

    It has the same size: products hold the weights. ConvMixer and RepViT need it in ExecuTorch, where twenty layers of
    rounded values, or depthwise convolutions that XNNPACK adds up in half precision, miss the limit.
    """
    from edgevit.graph.half import all_but_products

    backend = find_backend(runtime.backend)
    computes_in_half = manifest.target.precision == "fp16" and backend.half == "values"
    if not computes_in_half or not backend.keeps_fp32(runtime.variant) or shared.recipe is not None:
        return None
    before = manifest.target.keep_fp32
    keep = tuple(dict.fromkeys((*before, *all_but_products(_lowered_graph(shared, manifest)))))
    if keep == before:
        return None
    found = again(manifest.target.model_copy(update={"keep_fp32": keep}), "all but products of matrices in fp32")
    if found is None:
        return None
    return _noted(found, f"computes all but the products of matrices in fp32: otherwise {_reasons(manifest)}")


def _without_rewrite_at_fault(
    shared: Shared, runtime: Runtime, manifest: Manifest, failure: ConversionFailed | None, again: Again
) -> Better | None:
    """The artifact without the rewrite that makes it wrong; None where no rewrite is at fault.

    A recipe speaks of the graph that the rewrites leave, and rewrites that were asked for are not second-guessed.
    """
    if shared.options.rewrites or shared.recipe is not None:
        return None
    names = [one.name for one in lowered_with(manifest, runtime)]
    if manifest.lowering is not None:  # those that matched nothing cannot be at fault
        names = [one for one in names if one in manifest.lowering.rewrites]
    found: dict[tuple[str, ...], Better | None] = {}

    def works(asked: tuple[str, ...]) -> bool:
        target = manifest.target.model_copy(update={"rewrites": asked})
        found[asked] = again(target, "plainly" if asked == (NONE,) else "to find the cause")
        return found[asked] is not None

    choice = without_culprit(names, works)
    better = found[choice.rewrites] if choice else None
    if choice is None or better is None:
        return None
    what, those = (f"the rewrite {choice.culprit}", "it") if choice.culprit else ("any rewrite", "them")
    before = failure.message if failure else _reasons(manifest)
    return _noted(better, f"exported without {what}: with {those}, {before}")


def _reasons(manifest: Manifest) -> str:
    return "; ".join(manifest.verdict.reasons if manifest.verdict else ())


def _noted(better: Better, note: str) -> Better:
    """The artifact with a note of what was changed."""
    assert better.manifest.lowering is not None
    lowering = better.manifest.lowering.model_copy(update={"note": note})
    return Better(better.folder, better.manifest.model_copy(update={"lowering": lowering}))


def _lowered_graph(shared: Shared, manifest: Manifest) -> GraphModule:
    """The rewritten graph as it is lowered, to whose names ``--keep-fp32`` refers."""
    from edgevit.graph.prepare import apply_rewrites, graph_of

    core = graph_of(shared.captured)
    apply_rewrites(core, lowered_with(manifest, runtimes()[manifest.target.runtime]))
    return core


def _overflows(shared: Shared, manifest: Manifest) -> list[Overflow]:
    """Operations at which the model itself leaves the range of fp16, for files that compute in it."""
    from edgevit.graph.noise import overflows
    from edgevit.verify.probes import normalised

    if manifest.target.precision != "fp16" or find_backend(manifest.target.backend).half != "values":
        return []
    inputs = normalised(shared.golden.pictures, manifest.preprocess.rule())
    return overflows(_lowered_graph(shared, manifest), inputs, manifest.target.keep_fp32)


def explained(
    shared: Shared, runtime: Runtime, manifest: Manifest, exchange: ExchangeFiles | None, log: Path
) -> VerdictInfo:
    """A failed verdict with what is known of the cause: overflows of fp16, the first operator that departs."""
    verdict = manifest.verdict
    assert verdict is not None
    further = [overflow.sentence() for overflow in _overflows(shared, manifest)]
    if shared.options.bisect:
        from edgevit.verify.bisect import bisect

        assert exchange is not None, "a verdict that failed was run"
        scratch = exchange.outputs.parent
        inputs = shared.inputs[runtime.name]
        finding = bisect(shared.program, manifest, runtime, inputs, scratch, log, shared.limits, shared.recipe)
        further.append(finding.sentence())
    return verdict.model_copy(update={"reasons": (*verdict.reasons, *further)})


def _lower(
    shared: Shared, runtime: Runtime, manifest: Manifest, out: Path, exchange: ExchangeFiles | None, log: Path
) -> Lowering:
    """Write the model file and, where inputs are given, run it once it is written."""
    job = lower_job(shared.program, manifest, runtime, out, recipe=shared.recipe, exchange=exchange)
    started = shared.workers.pop(runtime.name, None)
    return run_job(job, Lowering, out.parent.parent, log, shared.limits, shared.stop, started)


def _verdict(shared: Shared, manifest: Manifest, exchange: ExchangeFiles | None) -> VerdictInfo:
    golden = shared.golden
    why_not = why_not_here(manifest) if shared.options.verify else "verification was switched off (--no-verify)"
    if why_not or exchange is None:
        return not_run(manifest, len(golden.outputs), why_not)
    noise = golden.noise.get(noise_name(manifest))
    return judge(manifest, golden.outputs, take_outputs(exchange), golden.exact, noise)


def cure(shared: Shared, manifest: Manifest, kept: Path) -> str:
    """The command to try after a target was rejected."""
    verdict, target, options = manifest.verdict, manifest.target, shared.options
    if verdict is not None and verdict.accuracy is not None:
        return "try another --quantizer, or a recipe with --auto-mixed latency=1.2 from edgevit quantize"
    if target.precision == "fp16":
        if target.backend == "coreml":
            return f"edgevit verify {shlex.quote(str(kept))} --hazards names what to keep in fp32"
        found = [overflow.keep for overflow in _overflows(shared, manifest)]
        if found:
            keep = dict.fromkeys((*target.keep_fp32, *found))
            return "export again with " + " ".join(f"--keep-fp32 {shlex.quote(one)}" for one in keep)
    further = "" if options.bisect else "add --bisect to find the first operator that departs"
    if options.rewrites and options.rewrites != (NONE,):
        return f"leave --rewrites out, or export plainly with --rewrites none{'; ' if further else ''}{further}"
    if target.precision != "fp32":
        return f"export with --precision fp32{'; ' if further else ''}{further}"
    return further or "edgevit doctor checks the toolchain's version"
