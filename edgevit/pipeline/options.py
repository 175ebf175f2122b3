"""The options that decide what an export produces, checked before any work starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edgevit.schema.model import OutputKind
from edgevit.schema.target import Precision

InputKind = Literal["image", "tensor"]


@dataclass(frozen=True)
class ExportOptions:
    """What to export and how; the command line and Python build the same object.

    Attributes:
        model: a name, see `edgevit.models.registry.find_model`.
        targets: backends, runtimes or devices.
        weights: ``pretrained``, ``random`` or a file.
        num_classes: head size, None for the model's own.
        labels: class names, None for the model's own.
        size: side of a square input in pixels, None for the model's own.
        input: ``image``: bytes in, normalised inside; ``tensor``: normalised float32 NCHW in.
        output: ``probabilities``, ``logits``, or ``features``: what the classifier would see.
        precision: of the computation or of the stored weights, as the format has it.
        keep_fp32: of an fp16 program, what stays in fp32: operator types, names of operations or
            module paths, with wildcards.
        recipe: how the model is quantized, from `edgevit quantize`.
        calib: pictures to solve a recipe on, in place of one: a folder or ``digits:train``.
        quantizer: the method that solves it.
        keep_fp16: of a quantized model, module paths or layer names that stay in floating point, with wildcards.
        floor: of a quantized model, the least accuracy on ``evaluate``, or agreement with the float model there.
        evaluate: labelled pictures that the artifact is run on for the floor: ``digits:test`` or a folder of classes.
        rewrites: names of graph rewrites in place of the backend's own choice; ``none`` or ``all`` alone.
        images: a folder of pictures that are added to the probes.
        verify: run and compare; without it the manifest says that nothing was checked.
        bisect: when the verdict fails, look for the first operator that departs.
        out: the bundles' parent folder.
        cache: reuse and keep finished bundles.
        jobs: lowerings at once, None to decide by cores and memory.
        timeout: seconds for one lowering.
        memory_gib: memory for one lowering, None for what the machine has.
        seed: of random weights.
    """

    model: str
    targets: tuple[str, ...]
    weights: str = "pretrained"
    num_classes: int | None = None
    labels: tuple[str, ...] | None = None
    size: int | None = None
    input: InputKind = "image"
    output: OutputKind = "probabilities"
    precision: Precision = "fp32"
    keep_fp32: tuple[str, ...] = ()
    recipe: Path | None = None
    calib: str | None = None
    quantizer: str = "qhyvit"
    keep_fp16: tuple[str, ...] = ()
    floor: float | None = None
    evaluate: str | None = None
    rewrites: tuple[str, ...] = ()
    images: Path | None = None
    verify: bool = True
    bisect: bool = False
    out: Path = field(default_factory=lambda: Path("build"))
    cache: bool = True
    jobs: int | None = None
    timeout: float = 1800.0
    memory_gib: float | None = None
    seed: int = 0
