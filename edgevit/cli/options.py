"""Options that several commands share, with one wording each."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class PrecisionName(StrEnum):
    """Precisions that export takes."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


class InputName(StrEnum):
    """What the exported model takes."""

    IMAGE = "image"
    TENSOR = "tensor"


class OutputName(StrEnum):
    """What the exported model gives."""

    PROBABILITIES = "probabilities"
    LOGITS = "logits"


WeightsOption = Annotated[
    str,
    typer.Option(
        "--weights",
        "-w",
        metavar="pretrained|random|FILE",
        help="Weights: from the hub, live random ones, or a .safetensors or .pth file.",
    ),
]
ClassesOption = Annotated[
    int | None, typer.Option("--num-classes", min=1, help="Head size, where it is not the model's own.")
]
LabelsOption = Annotated[
    Path | None, typer.Option("--labels", metavar="FILE", help="Class names, one a line, in output order.")
]
SizeOption = Annotated[int | None, typer.Option("--size", min=1, help="Side of the square input in pixels.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Of random weights.")]


def model_options(
    weights: str, num_classes: int | None, labels: Path | None, size: int | None, seed: int
) -> dict[str, Any]:
    """The arguments of `edgevit.models.load.load_model` from the shared options."""
    from edgevit.models.labels import read_labels

    return {
        "weights": weights,
        "num_classes": num_classes,
        "labels": read_labels(labels) if labels else None,
        "size": size,
        "seed": seed,
    }
