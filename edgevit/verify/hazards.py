"""Finds where half precision goes wrong in an artifact, on its golden pictures and any others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgevit.bundle.golden import read_golden
from edgevit.bundle.read import Bundle
from edgevit.data.folders import Skip, readable_pictures, refuse
from edgevit.errors import UsageError, import_failed
from edgevit.verify.probes import make_inputs

if TYPE_CHECKING:
    from edgevit.mil.hazards import Fp16Limits, Hazard


@dataclass(frozen=True)
class HazardReport:
    """The half-precision hazards of one artifact.

    Attributes:
        half: whether the artifact itself rounds to fp16; otherwise its fp16 version was simulated.
        operations: number of operations executed.
        inputs: number of pictures.
        hazards: in the program's order.
    """

    half: bool
    operations: int
    inputs: int
    hazards: tuple[Hazard, ...]

    @property
    def broken(self) -> bool:
        """Whether results of this artifact itself overflow."""
        return self.half and any(hazard.kind == "overflow" for hazard in self.hazards)

    def keep(self) -> tuple[str, ...]:
        """All patterns that ``--keep-fp32`` should be given, each once."""
        return tuple(dict.fromkeys(pattern for hazard in self.hazards for pattern in hazard.keep))


def file_hazards(file: Path, inputs: NDArray[Any], limits: Fp16Limits | None = None) -> HazardReport:
    """Hazards of a model file.

    Args:
        file: an ``.mlpackage``; other formats cannot be executed operation by operation.
        inputs: [N, ...] as the file takes them.
        limits: thresholds from which something is reported.

    Raises:
        UsageError: it is another format, or uses an operator that the evaluator does not know.
        BadFile: the package is damaged.
        MissingDependency: torch is not installed.
    """
    if not (file / "Manifest.json").is_file():
        raise UsageError(
            f"--hazards executes ML Programs operation by operation, and {file.name} is none",
            cure="export with -t coreml; what it finds holds for the model's fp16 in other formats too",
        )
    try:
        from edgevit.mil.evaluate import load_program
        from edgevit.mil.hazards import find_hazards
    except ImportError as error:
        raise import_failed(error, "torch", "--hazards", extra="torch") from error
    program = load_program(file)
    each = [np.ascontiguousarray(inputs[index : index + 1]) for index in range(len(inputs))]
    return HazardReport(program.half, len(program.steps), len(each), find_hazards(program, each, limits))


def bundle_hazards(
    bundle: Bundle, images: Path | None = None, limits: Fp16Limits | None = None, skip: Skip = refuse
) -> HazardReport:
    """Hazards of a bundle on its golden inputs and on a folder of pictures; arguments as for `file_hazards`.

    ``skip`` is called for pictures that cannot be read.
    """
    inputs = read_golden(bundle.path).inputs
    if images is not None:
        pictures = [picture for _, picture in readable_pictures(images, skip)]
        further = make_inputs(pictures, bundle.manifest.preprocess.rule(), bundle.manifest.input)
        inputs = np.concatenate([inputs, further])
    return file_hazards(bundle.entry, inputs, limits)
