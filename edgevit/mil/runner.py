"""Predicts with a package: pictures or arrays in, scores out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgevit.errors import UsageError
from edgevit.mil.evaluate import Arithmetic, Observer, Program, load_program, run
from edgevit.mil.package import Feature, Package


def as_input(feature: Feature, given: NDArray[Any]) -> torch.Tensor:
    """The program's input tensor for one picture or array.

    Args:
        feature: the input as the package describes it.
        given: for an image uint8 RGB [1, H, W, 3], otherwise an array of the declared shape.

    Returns:
        For an image float32 [1, 3 or 1, H, W] in the declared order of colours, 0 to 255; scale and
        bias of an ML Program's image input are operations of the program.

    Raises:
        UsageError: the array does not fit.
    """
    if feature.kind != "image":
        return torch.from_numpy(np.ascontiguousarray(given))
    wanted = (1, *(feature.size or (0, 0)), 3)
    if given.dtype != np.uint8 or given.shape != wanted:
        raise UsageError(
            f"the image input {feature.name!r} takes uint8 {list(wanted)}, not {given.dtype} {list(given.shape)}"
        )
    if feature.colour.startswith("GRAYSCALE"):
        from PIL import Image

        pixels = np.asarray(Image.fromarray(given[0]).convert("L"))[None, None]
    elif feature.colour in ("RGB", "BGR"):
        pixels = given.transpose(0, 3, 1, 2)
        pixels = pixels[:, ::-1] if feature.colour == "BGR" else pixels
    else:
        raise UsageError(f"the image input {feature.name!r} has a colour space that edgevit does not know")
    return torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32))


def scores(package: Package, outputs: dict[str, Any]) -> NDArray[np.float32]:
    """The scores [1, classes] among a program's outputs, float32.

    Raises:
        UsageError: there is not exactly one output of scores.
    """
    if package.probabilities_output:
        return np.asarray([list(outputs[package.probabilities_output].values())], dtype=np.float32)
    tensors = [value for value in outputs.values() if isinstance(value, torch.Tensor)]
    if len(tensors) != 1:
        raise UsageError(f"only models with one output are run, this one has {len(tensors)}", where=str(package.path))
    found = tensors[0].to(torch.float32)
    return found.reshape(1, -1).numpy() if found.ndim < 2 else found.numpy()


def predict(
    program: Program,
    given: NDArray[Any],
    arithmetic: Arithmetic = Arithmetic.DECLARED,
    observe: Observer | None = None,
) -> NDArray[np.float32]:
    """Scores of one input: float32 [1, classes]; arguments as for `run` and `as_input`."""
    feature = program.package.only_input()
    outputs = run(program, {feature.name: as_input(feature, given)}, arithmetic, observe)
    return scores(program.package, outputs)


def load(path: Path) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
    """A function from one input to its scores, as a backend's ``load`` returns it.

    Raises:
        BadFile: the package is damaged.
        UsageError: it has several inputs, or uses an operator that the evaluator does not know.
    """
    program = load_program(path)
    program.package.only_input()

    def call(given: NDArray[Any]) -> NDArray[np.float32]:
        return np.array(predict(program, given), copy=True)  # a program may end in a constant or in its input

    return call
