"""Verifies a bundle that already exists."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgevit.backends.base import find_backend
from edgevit.backends.process.jobs import ProcessLimits
from edgevit.bundle.golden import golden_pictures, read_golden
from edgevit.bundle.read import Bundle
from edgevit.data.folders import Skip, readable_pictures, refuse
from edgevit.data.pixels import read_picture
from edgevit.errors import UsageError
from edgevit.schema.manifest import VerdictInfo, parse_manifest
from edgevit.schema.model import Preprocessing
from edgevit.schema.recipe import RECIPE, read_recipe
from edgevit.verify.judge import judge, not_run, run_artifact, why_not_here
from edgevit.verify.probes import Answering, distinct, make_inputs, reference_outputs

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from torch import nn

_EXACT = 1e-6
"""Largest accepted difference of float inputs; bytes must be equal."""


def verify_bundle(
    bundle: Bundle,
    *,
    reference: nn.Module | None = None,
    images: Path | None = None,
    log: Path | None = None,
    limits: ProcessLimits | None = None,
    skip: Skip = refuse,
) -> VerdictInfo:
    """Judge a bundle again.

    The golden pictures must still become exactly the golden inputs, the manifest inside the model
    file must be the bundle's, and the artifact must reproduce the golden outputs, or those of a
    PyTorch model.

    Args:
        bundle: opened with its files checked.
        reference: a PyTorch model to compare with in place of the golden outputs.
        images: a folder of further pictures; needs a reference.
        log: gets what the runtime prints.
        limits: of the process that runs the artifact.
        skip: called for pictures of the folder that cannot be read.

    Returns:
        The verdict; ``not_run`` where this machine cannot execute the format.

    Raises:
        UsageError: pictures without a reference.
        BadFile: the golden vectors cannot be read.
        ConversionFailed: the runtime refused the file or crashed.
    """
    manifest, rule = bundle.manifest, bundle.manifest.preprocess.rule()
    if images is not None and reference is None:
        raise UsageError("--images needs PyTorch's answers", cure="name the model: --reference MODEL")
    pictures = [read_picture(path) for path in golden_pictures(bundle.path)]
    golden = read_golden(bundle.path)
    found = _preprocessing_faults(bundle, pictures, golden.inputs, rule) + _embedded_faults(bundle)
    inputs, expected, exact = golden.inputs, golden.outputs, golden.exact
    if reference is not None:
        if manifest.output.kind == "features":
            from edgevit.models.features import Headless

            reference = reference if isinstance(reference, Headless) else Headless(reference, rule.size)
        further = [picture for _, picture in readable_pictures(images, skip)] if images else []
        pictures = distinct([*pictures, *further])
        probabilities = manifest.output.kind == "probabilities"
        expected = reference_outputs(reference, pictures, rule, probabilities=probabilities)
        if manifest.quantization:
            quantized = _quantized(reference, bundle)
            exact, expected = expected, reference_outputs(quantized, pictures, rule, probabilities=probabilities)
        inputs = make_inputs(pictures, rule, manifest.input)
    reason = why_not_here(manifest)
    if reason:
        verdict = not_run(manifest, len(expected), reason)
        return verdict.model_copy(update={"status": "failed", "reasons": tuple(found)}) if found else verdict
    with tempfile.TemporaryDirectory() as scratch:
        log = log or Path(scratch) / "run.log"
        outputs = run_artifact(
            manifest.target.backend, bundle.entry, inputs, Path(scratch), log, limits or ProcessLimits()
        )
    verdict = judge(manifest, expected, outputs, exact)
    if found:
        return verdict.model_copy(update={"status": "failed", "reasons": (*found, *verdict.reasons)})
    return verdict


def _quantized(reference: nn.Module, bundle: Bundle) -> Answering:
    """A PyTorch model with the rounding of the bundle's recipe."""
    from edgevit.graph.capture import capture
    from edgevit.graph.qdq.prepare import answering

    program = capture(reference, bundle.manifest.preprocess.size)
    return answering(program, read_recipe(bundle.path / RECIPE))


def _preprocessing_faults(
    bundle: Bundle, pictures: list[Picture], inputs: NDArray[Any], rule: Preprocessing
) -> list[str]:
    """Whether the golden pictures still become the golden inputs, byte for byte."""
    if not pictures or len(pictures) != len(inputs):
        return [f"there are {len(pictures)} golden pictures for {len(inputs)} golden inputs"]
    made = make_inputs(pictures, rule, bundle.manifest.input)
    if made.shape != inputs.shape:
        return [f"the golden pictures become inputs of shape {made.shape}, not {inputs.shape}"]
    worst = float(np.abs(made.astype(np.float64) - inputs.astype(np.float64)).max())
    limit = 0.0 if made.dtype == np.uint8 else _EXACT
    return (
        [f"the golden pictures become other inputs than the golden ones (difference {worst:g})"]
        if worst > limit
        else []
    )


def _embedded_faults(bundle: Bundle) -> list[str]:
    """Whether the manifest inside the model file is the bundle's own."""
    text = find_backend(bundle.manifest.target.backend).read_embedded(bundle.entry)
    if text is None:
        return ["the model file carries no manifest"]
    inside = parse_manifest(text, str(bundle.entry))
    return (
        [] if inside.embedded() == bundle.manifest.embedded() else ["the manifest inside the model file is another one"]
    )
