"""Verifies a model file without its bundle, whichever tool wrote it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgevit.backends.base import Backend, FileInterface, backend_of
from edgevit.backends.process.jobs import ProcessLimits
from edgevit.data.folders import Skip, readable_pictures, refuse
from edgevit.data.images import to_model_size
from edgevit.errors import UsageError
from edgevit.schema.manifest import InputInfo, VerdictInfo, parse_manifest
from edgevit.schema.model import Preprocessing
from edgevit.verify.judge import judge_outputs, run_artifact
from edgevit.verify.probes import distinct, make_inputs, measured_noise, probe_pictures, reference_outputs

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

    from edgevit.models.load import LoadedModel

_SUM = 1e-2
"""How far the sums of outputs may be from 1 where they count as probabilities."""


@dataclass(frozen=True)
class LoneVerdict:
    """A verdict and the inputs that it was reached on.

    Attributes:
        verdict: as for a bundle.
        inputs: [N, ...] as the file takes them.
    """

    verdict: VerdictInfo
    inputs: NDArray[Any]


def _interface(backend: Backend, file: Path, loaded: LoadedModel) -> tuple[FileInterface, Preprocessing]:
    """The interface of a file and the preprocessing of its input."""
    text = backend.read_embedded(file)
    if text is not None:
        manifest = parse_manifest(text, str(file))
        precision = manifest.target.precision
        return FileInterface(manifest.input, manifest.output.kind, precision), manifest.preprocess.rule()
    found = backend.describe(file)
    if found is None:
        raise UsageError(
            f"{file.name} was not written by edgevit: what it takes is not known",
            cure=f"edgevit export {loaded.spec.name} -t {backend.name} writes one that says it",
        )
    sides = found.input.shape[2:4] if found.input.layout == "NCHW" else found.input.shape[1:3]
    own = loaded.preprocessing.size
    return found, replace(loaded.preprocessing, size=(sides[0] or own[0], sides[1] or own[1]))


def _inputs(pictures: list[Picture], rule: Preprocessing, source: InputInfo) -> NDArray[Any]:
    """The inputs of a file, in edgevit's own layouts or in two further layouts of other tools."""
    if source.kind == "tensor":
        plain = make_inputs(pictures, rule, source)
        return np.ascontiguousarray(plain.transpose(0, 2, 3, 1)) if source.layout == "NHWC" else plain
    if source.layout == "NCHW" and source.dtype == "uint8":
        pixels = np.stack([to_model_size(picture, rule) for picture in pictures])
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    return make_inputs(pictures, rule, source)


def _kind(stated: str, outputs: NDArray[np.float32]) -> str:
    """The kind of the outputs: as the file states, otherwise found from their values."""
    if stated:
        return stated
    sums = bool((outputs >= 0).all()) and bool((np.abs(outputs.sum(axis=1) - 1) < _SUM).all())
    return "probabilities" if sums else "logits"


def verify_file(file: Path, loaded: LoadedModel, *, images: Path | None = None, skip: Skip = refuse) -> LoneVerdict:
    """Judge a model file against a PyTorch model.

    A file that edgevit wrote says in its embedded manifest what it takes. A Core ML package, an ONNX or a TFLite
    file of another tool is described by its own input: bytes get the picture as it is, floating-point numbers get it
    normalised as the model's own preprocessing has it.

    Args:
        file: a ``.onnx``, ``.tflite``, ``.pte`` or ``.mlpackage``.
        loaded: what it should compute.
        images: a folder of further pictures.
        skip: called for those that cannot be read.

    Raises:
        UsageError: what the file takes is not known, or does not fit the model.
        BadFile: the file or a picture is damaged.
        ConversionFailed: the runtime refused the file or crashed.
    """
    backend = backend_of(file)
    found, rule = _interface(backend, file, loaded)
    arrays = [Image.fromarray(picture) for picture in probe_pictures(rule.size)]
    pictures = distinct([*arrays, *(picture for _, picture in (readable_pictures(images, skip) if images else ()))])
    inputs = _inputs(pictures, rule, found.input)
    with tempfile.TemporaryDirectory() as scratch:
        outputs = run_artifact(backend.name, file, inputs, Path(scratch), Path(scratch) / "run.log", ProcessLimits())
    kind = _kind(found.output, outputs)
    expected = reference_outputs(loaded.module, pictures, rule, probabilities=kind == "probabilities")
    noise = _noise(loaded, found.precision, backend, expected, pictures, rule, kind)
    verdict = judge_outputs(backend.name, expected, outputs, kind=kind, precision=found.precision, noise=noise)
    return LoneVerdict(verdict, inputs)


def _noise(
    loaded: LoadedModel,
    precision: str,
    backend: Backend,
    expected: NDArray[np.float32],
    pictures: list[Picture],
    rule: Preprocessing,
    kind: str,
) -> float | None:
    """The rounding noise of the model in a file's precision; None where it cannot be determined."""
    from edgevit.graph.capture import capture
    from edgevit.graph.noise import rounded_forms

    if precision not in ("fp32", "fp16"):
        return None
    forms = rounded_forms(capture(loaded.module, rule.size), precision, (backend.half,), ())
    found = measured_noise(expected, forms, pictures, rule, probabilities=kind == "probabilities")
    return next(iter(found.values()), None)
