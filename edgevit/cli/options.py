"""Options that several commands share, so that their wording is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from edgevit.cli.from_options import typer_option
from edgevit.pipeline.options import ExportOptions

WeightsOption = Annotated[str, typer_option(ExportOptions, "weights")]
ClassesOption = Annotated[int | None, typer_option(ExportOptions, "num_classes")]
LabelsOption = Annotated[Path | None, typer_option(ExportOptions, "labels")]
SizeOption = Annotated[int | None, typer_option(ExportOptions, "size")]
SeedOption = Annotated[int, typer_option(ExportOptions, "seed")]
CalibOption = Annotated[str | None, typer_option(ExportOptions, "calib")]
QuantizerOption = Annotated[str, typer_option(ExportOptions, "quantizer")]
KeepFp16Option = Annotated[list[str] | None, typer_option(ExportOptions, "keep_fp16")]
FloorOption = Annotated[float | None, typer_option(ExportOptions, "floor")]
EvaluateOption = Annotated[str | None, typer_option(ExportOptions, "evaluate")]


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
