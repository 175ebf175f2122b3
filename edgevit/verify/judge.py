"""Runs an artifact on the golden inputs and judges its outputs."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevit.backends.base import find_backend
from edgevit.backends.process.job import ExchangeFiles, RunFacts, RunJob
from edgevit.backends.process.jobs import ProcessLimits, run_job
from edgevit.schema.manifest import Manifest, VerdictInfo
from edgevit.schema.target import runtimes
from edgevit.verify.compare import compare, scores
from edgevit.verify.quantized import compare_quantized


def give_inputs(inputs: NDArray[Any], scratch: Path) -> ExchangeFiles:
    """Write inputs for a worker into a scratch folder; returns where they are and where its outputs will be."""
    from safetensors.numpy import save_file

    given = scratch / "run_inputs.safetensors"
    save_file({"inputs": np.ascontiguousarray(inputs)}, given)
    return ExchangeFiles(inputs=given, outputs=scratch / "run_outputs.safetensors")


def take_outputs(exchange: ExchangeFiles) -> NDArray[np.float32]:
    """What the worker answered: float32 [N, classes]."""
    from safetensors.numpy import load_file

    return load_file(exchange.outputs)["outputs"]


def run_artifact(
    backend: str,
    file: Path,
    inputs: NDArray[Any],
    scratch: Path,
    log: Path,
    limits: ProcessLimits,
    stop: threading.Event | None = None,
) -> NDArray[np.float32]:
    """Run a model file in a separate process.

    Args:
        backend: its name.
        file: the model file.
        inputs: [N, ...] as the manifest's input says.
        scratch: an existing folder for the exchange of tensors.
        log: gets what the runtime prints.
        limits: of the process.
        stop: ends it early.

    Returns:
        float32 [N, classes].

    Raises:
        ConversionFailed: the runtime refused the file or crashed.
    """
    exchange = give_inputs(inputs, scratch)
    run_job(RunJob(backend=backend, file=file, exchange=exchange), RunFacts, scratch, log, limits, stop)
    return take_outputs(exchange)


def why_not_here(manifest: Manifest) -> str:
    """The reason why an artifact cannot be executed on this machine, or an empty string."""
    runtime = runtimes().get(manifest.target.runtime)
    return find_backend(manifest.target.backend).available(runtime.variant if runtime else "")


def judge_outputs(
    backend: str,
    reference: NDArray[np.float32],
    outputs: NDArray[np.float32],
    *,
    kind: str,
    precision: str,
    exact: NDArray[np.float32] | None = None,
    noise: float | None = None,
) -> VerdictInfo:
    """The verdict on an artifact's outputs; arguments as for `edgevit.verify.compare.compare`.

    With ``exact``, the float model's outputs, it is that of `edgevit.verify.quantized.compare_quantized`.
    """
    if exact is None:
        found = compare(reference, outputs, kind=kind, precision=precision, noise=noise)
    else:
        found = compare_quantized(reference, exact, outputs, kind=kind)
    return VerdictInfo(
        status="passed" if found.passed else "failed",
        runtime=find_backend(backend).runs_with(),
        probes=len(reference),
        error=found.error if np.isfinite(found.error) else None,
        tolerance=found.tolerance,
        noise=noise if exact is None else None,
        discrimination=found.discrimination if np.isfinite(found.discrimination) else None,
        top1_equal=found.top1_equal,
        reasons=found.reasons,
        **({} if exact is None else _by_float(exact, outputs, kind)),
    )


def _by_float(exact: NDArray[np.float32], outputs: NDArray[np.float32], kind: str) -> dict[str, float]:
    """The error of outputs relative to the float model's."""
    if outputs.shape != exact.shape or not np.isfinite(outputs).all():
        return {}
    true, found = (scores(values, kind, "fp16") for values in (exact, outputs))
    spread = float(np.ptp(true)) or 1.0
    return {
        "float_error": float(np.sqrt(np.square(found - true).mean())) / spread,
        "float_top1": float((found.argmax(axis=1) == true.argmax(axis=1)).mean()),
    }


def judge(
    manifest: Manifest,
    reference: NDArray[np.float32],
    outputs: NDArray[np.float32],
    exact: NDArray[np.float32] | None = None,
    noise: float | None = None,
) -> VerdictInfo:
    """The verdict on outputs that were produced from the golden inputs.

    Args:
        manifest: of the artifact; where it was judged before, the noise measured then counts.
        reference: float32 [N, classes] from PyTorch.
        outputs: [N, classes] of the artifact.
        exact: of a quantized artifact, the float model's outputs.
        noise: see `edgevit.verify.compare.tolerance_of`.
    """
    kind, target = manifest.output.kind, manifest.target
    if noise is None and manifest.verdict is not None:
        noise = manifest.verdict.noise
    return judge_outputs(
        target.backend, reference, outputs, kind=kind, precision=target.precision, exact=exact, noise=noise
    )


def noise_name(manifest: Manifest) -> str:
    """The key of `edgevit.verify.probes.Golden.noise` that an artifact's errors are measured by."""
    if manifest.target.precision != "fp16":
        return manifest.target.precision
    return f"fp16 {find_backend(manifest.target.backend).half}"


def not_run(manifest: Manifest, probes: int, reason: str) -> VerdictInfo:
    """The verdict on an artifact that was not executed."""
    return VerdictInfo(
        status="not_run", runtime=find_backend(manifest.target.backend).runs_with(), probes=probes, reasons=(reason,)
    )
