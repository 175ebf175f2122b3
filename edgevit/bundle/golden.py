"""Golden vectors: pictures, the exact inputs that they become, and PyTorch's answers, beside every model file.

On disk they are ``golden/probe_N.png``, ``golden/inputs.safetensors`` and ``golden/outputs.safetensors``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevit.errors import BadFile

FOLDER = "golden"
_INPUTS, _OUTPUTS = "inputs.safetensors", "outputs.safetensors"


@dataclass(frozen=True)
class GoldenVectors:
    """What a model file must answer, to check it without the model.

    Attributes:
        inputs: [N, ...] as the manifest's input says.
        outputs: float32 [N, classes], PyTorch's answers; of a quantized bundle those of the quantized model.
        exact: float32 [N, classes] of the float model where the bundle is quantized, else None.
    """

    inputs: NDArray[Any]
    outputs: NDArray[np.float32]
    exact: NDArray[np.float32] | None = None


def write_golden(folder: Path, pictures: Sequence[NDArray[np.uint8]], vectors: GoldenVectors) -> None:
    """Write golden vectors below a bundle's folder.

    Args:
        folder: of the bundle.
        pictures: uint8 [h, w, 3] RGB each, of various sizes; they become ``vectors.inputs``.
        vectors: to write.
    """
    from PIL import Image
    from safetensors.numpy import save_file

    golden = folder / FOLDER
    golden.mkdir()
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(golden / f"probe_{index}.png", optimize=True)
    save_file({"inputs": np.ascontiguousarray(vectors.inputs)}, golden / _INPUTS)
    answers = {"outputs": np.ascontiguousarray(vectors.outputs)}
    if vectors.exact is not None:
        answers["float_outputs"] = np.ascontiguousarray(vectors.exact)
    save_file(answers, golden / _OUTPUTS)


def read_golden(folder: Path) -> GoldenVectors:
    """The golden vectors of a bundle's folder.

    Raises:
        BadFile: a file is missing, damaged, or has no such tensor.
    """
    inputs, outputs = _tensors(folder / FOLDER / _INPUTS, "inputs"), _tensors(folder / FOLDER / _OUTPUTS, "outputs")
    return GoldenVectors(inputs["inputs"], outputs["outputs"], outputs.get("float_outputs"))


def _tensors(path: Path, needed: str) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        found = load_file(path)
    except (SafetensorError, OSError) as error:
        raise BadFile("the golden vectors cannot be read", where=f"{path}: {error}") from error
    if needed not in found:
        raise BadFile("the golden vectors cannot be read", where=f"{path}: there is no tensor {needed!r}")
    return found


def golden_pictures(folder: Path) -> list[Path]:
    """Files of the golden pictures below a bundle's folder, in order."""
    found = (folder / FOLDER).glob("probe_*.png")
    return sorted(found, key=lambda path: int(path.stem.rpartition("_")[2]))
