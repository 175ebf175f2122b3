"""The manifest: one versioned document that says what a bundle is and what was measured on it.

The same schema is written to ``manifest.json`` and, without the parts known only afterwards
(``lowering``, ``verdict``, ``files``), into the model file's own metadata.
"""

from __future__ import annotations

import json
from typing import Final, Literal

from pydantic import Field, ValidationError

from edgevit.errors import BadFile
from edgevit.schema.choices import CropMode, InputKind, Interpolation, OutputKind, Precision
from edgevit.schema.model import Preprocessing
from edgevit.schema.strict import Strict, no_repeats

SCHEMA_VERSION: Final = 1
MAX_BYTES = 4 << 20
"""Longest accepted text (4 MiB), since a manifest may come from anywhere."""
MARKER = "edgevit_manifest"


class WeightsInfo(Strict):
    """The origin of the weights."""

    kind: Literal["pretrained", "random", "file"]
    source: str
    sha256: str = ""


class ModelInfo(Strict):
    """The model that was exported."""

    name: str
    family: str
    source: str
    parameters: int = Field(ge=0)
    licence: str
    weights: WeightsInfo


class TargetInfo(Strict):
    """The runtime and precision that the file was made for.

    ``keep_fp32`` names operations of an fp16 program that stay in fp32; ``rewrites`` are those asked
    for in place of the backend's own choice.
    """

    backend: str
    runtime: str
    precision: Precision
    keep_fp32: tuple[str, ...] = ()
    rewrites: tuple[str, ...] = ()


class CalibrationInfo(Strict):
    """The pictures that a recipe was solved on."""

    source: str
    images: int = Field(ge=1)
    seed: int
    sha256: str
    skipped: int = Field(default=0, ge=0)


class Agreement(Strict):
    """The agreement of a quantized model with the float one, on pictures of a data set.

    ``top1`` is the share of pictures with the same most likely class; ``sqnr_db`` the ratio of the float
    logits' power to that of the difference, in decibels; the accuracies are there where the pictures have labels.
    """

    dataset: str
    images: int = Field(ge=1)
    top1: float = Field(ge=0, le=1)
    sqnr_db: float | None = None
    accuracy: float | None = None
    float_accuracy: float | None = None


class QuantizationInfo(Strict):
    """How the model was quantized; ``recipe`` is the digest of the bundle's ``recipe.json``."""

    quantizer: str
    weight_bits: int
    activation_bits: int | None = None
    dynamic: bool = False
    layers: int
    kept: int = 0
    recipe: str
    calibration: CalibrationInfo | None = None
    agreement: Agreement | None = None


class InputInfo(Strict):
    """The model's single input: name, layout, dtype, shape and meaning of its values."""

    name: str
    kind: InputKind
    layout: Literal["NHWC", "NCHW"]
    dtype: Literal["uint8", "float32"]
    shape: tuple[int, int, int, int]
    colour: Literal["RGB"] = "RGB"
    values: Literal["0..255", "normalised"]


class PreprocessInfo(Strict):
    """How a picture of any size becomes the input; ``normalise_in_graph`` says who normalises."""

    size: tuple[int, int]
    crop_pct: float = Field(gt=0, le=1)
    crop_mode: CropMode
    interpolation: Interpolation
    antialias: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    normalise_in_graph: bool

    @staticmethod
    def of(rule: Preprocessing, normalise_in_graph: bool) -> PreprocessInfo:
        """The document of a preprocessing rule."""
        return PreprocessInfo(
            size=rule.size,
            crop_pct=rule.crop_pct,
            crop_mode=rule.crop_mode,
            interpolation=rule.interpolation,
            antialias=rule.antialias,
            mean=rule.mean,
            std=rule.std,
            normalise_in_graph=normalise_in_graph,
        )

    def rule(self) -> Preprocessing:
        """The preprocessing rule of this document."""
        return Preprocessing(
            self.size, self.crop_pct, self.crop_mode, self.interpolation, self.antialias, self.mean, self.std
        )


class OutputInfo(Strict):
    """The model's single output: float32 [1, classes]; for features, ``classes`` is their number, without labels."""

    name: str
    kind: OutputKind
    classes: int = Field(ge=1)


class Lowering(Strict):
    """The time and memory of the conversion, and its results.

    ``delegated_share`` is the part of the multiply-accumulate operations that the runtime's accelerated part
    executes, 0 to 1; absent where the runtime decides that on the device. ``integer_share`` is the part that
    integer kernels execute. ``note`` says what was done otherwise than asked for, and why.
    """

    seconds: float
    peak_memory_bytes: int
    rewrites: dict[str, int]
    delegated_share: float | None = None
    integer_share: float | None = None
    log: str = ""
    note: str = ""


class VerdictInfo(Strict):
    """The comparison with PyTorch; see docs/verdict.md.

    ``noise`` is what rounding alone does to the model in this precision, ``tolerance`` a multiple of it.
    Of a quantized artifact ``error`` is by the quantized model in PyTorch; ``float_error`` and ``float_top1``, the
    share of probes with the same most likely class, are by the float one. ``accuracy`` is the artifact's own, where
    it was held to a floor.
    """

    status: Literal["passed", "failed", "not_run"]
    runtime: str
    probes: int
    error: float | None = None
    tolerance: float | None = None
    noise: float | None = None
    discrimination: float | None = None
    top1_equal: bool | None = None
    float_error: float | None = None
    float_top1: float | None = None
    accuracy: float | None = None
    reasons: tuple[str, ...] = ()


class FileEntry(Strict):
    """One file of the bundle: path, size and hash."""

    path: str
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Manifest(Strict):
    """The document ``manifest.json`` of a bundle: the model, its target, input, output and files."""

    schema_version: Literal[1] = SCHEMA_VERSION
    edgevit: str
    model: ModelInfo
    target: TargetInfo
    toolchain: dict[str, str]
    entry: str
    input: InputInfo
    preprocess: PreprocessInfo
    output: OutputInfo
    labels: tuple[str, ...]
    opset: str = ""
    quantization: QuantizationInfo | None = None
    lowering: Lowering | None = None
    verdict: VerdictInfo | None = None
    files: tuple[FileEntry, ...] | None = None

    def to_json(self) -> str:
        """The text of ``manifest.json``: indented, fields in a fixed order, absent ones left out."""
        return json.dumps(self.model_dump(mode="json", exclude_none=True), indent=1, ensure_ascii=False) + "\n"

    def embedded(self) -> str:
        """Compact JSON of the reproducible part, as stored inside model files."""
        kept = self.model_dump(mode="json", exclude_none=True, exclude={"lowering", "verdict", "files"})
        return json.dumps(kept, separators=(",", ":"), ensure_ascii=False)


def parse_manifest(text: str | bytes, where: str) -> Manifest:
    """Parse a manifest from outside.

    Raises:
        BadFile: too large, not JSON, a repeated or unknown key, a wrong value or version.
    """
    if len(text) > MAX_BYTES:
        raise BadFile("the manifest is larger than 4 MiB", where=where)
    try:
        values = json.loads(text, object_pairs_hook=no_repeats)
        return Manifest.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise BadFile(
            f"the manifest is not valid: {key}: {first['msg']}",
            where=where,
            cure="export the bundle again with this version of edgevit",
        ) from error
    except (ValueError, RecursionError) as error:
        raise BadFile(f"the manifest is not valid JSON: {error}", where=where) from error
