"""Golden vectors on disk: ``golden/probe_N.png``, ``golden/inputs.safetensors``, ``golden/outputs.safetensors``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevit.errors import BadFile

FOLDER = "golden"


def write_golden(
    folder: Path,
    pictures: tuple[NDArray[np.uint8], ...],
    inputs: NDArray[Any],
    outputs: NDArray[np.float32],
    exact: NDArray[np.float32] | None = None,
) -> None:
    """Write the vectors below a bundle folder; of a quantized model also the float model's outputs, ``exact``."""
    from PIL import Image
    from safetensors.numpy import save_file

    golden = folder / FOLDER
    golden.mkdir()
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(golden / f"probe_{index}.png", optimize=True)
    save_file({"inputs": np.ascontiguousarray(inputs)}, golden / "inputs.safetensors")
    answers = {"outputs": outputs} if exact is None else {"outputs": outputs, "float_outputs": exact}
    save_file({name: np.ascontiguousarray(one) for name, one in answers.items()}, golden / "outputs.safetensors")


def read_tensor(path: Path, key: str) -> NDArray[Any]:
    """One tensor of a safetensors file.

    Raises:
        BadFile: the file is missing, damaged, or has no such tensor.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)[key]
    except (SafetensorError, OSError, KeyError) as error:
        raise BadFile("the golden vectors cannot be read", where=f"{path}: {error}") from error


def golden_pictures(folder: Path) -> list[Path]:
    """The golden pictures in order."""
    found = (folder / FOLDER).glob("probe_*.png")
    return sorted(found, key=lambda path: int(path.stem.rpartition("_")[2]))
