"""Builds the worker's lowering job from the manifest of the file to be made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.backends.base import find_backend
from edgevit.schema.manifest import Manifest
from edgevit.schema.target import Runtime

if TYPE_CHECKING:
    from edgevit.graph.rewrites import Rewrite


def interface_of(manifest: Manifest, runtime: Runtime) -> dict[str, Any]:
    """The program interface that a manifest describes, as fields of `edgevit.graph.boundary.Interface`."""
    backend = find_backend(runtime.backend)
    return {
        "layout": backend.layout(runtime.variant) if manifest.input.kind == "image" else "tensor",
        "size": manifest.preprocess.size,
        "mean": manifest.preprocess.mean,
        "std": manifest.preprocess.std,
        "probabilities": manifest.output.kind == "probabilities",
        "half": manifest.target.precision == "fp16" and backend.half_program(runtime.variant),
        "keep_fp32": manifest.target.keep_fp32,
    }


def chosen_rewrites(manifest: Manifest, variant: str, *, half: bool) -> tuple[Rewrite, ...]:
    """The rewrites of one lowering: those asked for, or the choice for the model's family and the backend."""
    from edgevit.graph.rewrites import rewrites_for

    target = manifest.target
    return rewrites_for(target.backend, variant, family=manifest.model.family, half=half, asked=target.rewrites)


def lowered_with(manifest: Manifest, runtime: Runtime) -> tuple[Rewrite, ...]:
    """The rewrites that the lowering of an artifact for a runtime applies."""
    return chosen_rewrites(manifest, runtime.variant, half=interface_of(manifest, runtime)["half"])


def lower_job(program: Path, manifest: Manifest, runtime: Runtime, out: Path, **further: Any) -> dict[str, Any]:
    """The job that `edgevit.backends.process.jobs.run_job` carries out to write one model file.

    Args:
        program: as captured, saved by `torch.export.save`.
        manifest: what will be embedded in the file, and what the file takes and gives.
        runtime: that it is for.
        out: the file or package to write.
        further: inputs and outputs of a first run, or ``taps``.
    """
    return {
        "job": "lower",
        "program": str(program),
        "manifest": manifest.model_dump(mode="json", exclude_none=True),
        "interface": interface_of(manifest, runtime),
        "variant": runtime.variant,
        "version": runtime.version,
        "out": str(out),
        **further,
    }
