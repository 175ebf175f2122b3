"""Options that several commands share, so that their wording is the same."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class PrecisionName(StrEnum):
    """The values of ``--precision`` for an export."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    INT8_DYNAMIC = "int8-dynamic"
    W8 = "w8"
    W4 = "w4"


class InputName(StrEnum):
    """The kinds of input of an exported model."""

    IMAGE = "image"
    TENSOR = "tensor"


class OutputName(StrEnum):
    """The kinds of output of an exported model."""

    PROBABILITIES = "probabilities"
    LOGITS = "logits"
    FEATURES = "features"


WeightsOption = Annotated[
    str,
    typer.Option(
        "--weights",
        "-w",
        metavar="pretrained|random|FILE",
        help="Weights: from the hub, live random ones, or a .safetensors or .pth file.",
    ),
]
ClassesOption = Annotated[int | None, typer.Option("--num-classes", help="Head size, where it is not the model's own.")]
LabelsOption = Annotated[
    Path | None,
    typer.Option("--labels", metavar="FILE", help="Class names in output order: one a line, or a JSON list."),
]


def _side(given: str | int) -> int:
    """The side of a square: ``224`` or ``224x224``; any other shape is refused by its own name."""
    from edgevit.errors import UsageError

    height, _, width = str(given).lower().partition("x")
    if width and height.isdecimal() and width.isdecimal() and int(height) != int(width):
        raise UsageError(
            f"this version takes square inputs only, not {given}",
            cure=f"give one number: --size {max(int(height), int(width))}",
        )
    if not height.isdecimal() or width not in ("", height):
        raise UsageError(f"{given!r} is not a size in pixels", cure="give one number: --size 224")
    return int(height)


SizeOption = Annotated[
    int | None, typer.Option("--size", parser=_side, metavar="PIXELS", help="Side of the square input in pixels.")
]
SeedOption = Annotated[int, typer.Option("--seed", help="Of random weights.")]


CalibOption = Annotated[
    str | None,
    typer.Option("--calib", metavar="DIR|digits:train", help="Pictures to calibrate on."),
]
QuantizerOption = Annotated[
    str, typer.Option("--quantizer", metavar="NAME", help="The method; docs/quantization.md compares them.")
]
KeepFp16Option = Annotated[
    list[str] | None,
    typer.Option(
        "--keep-fp16",
        metavar="PATTERN",
        help="A module or layer that stays in floating point (fp16 where the format computes so); may be repeated.",
    ),
]
FloorOption = Annotated[
    float | None,
    typer.Option("--floor", metavar="SHARE", help="Least accuracy, or agreement with float; otherwise exit code 3."),
]
EvaluateOption = Annotated[
    str | None,
    typer.Option("--evaluate", metavar="DATASET", help="Labelled pictures: digits:test, or a folder of classes."),
]


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
