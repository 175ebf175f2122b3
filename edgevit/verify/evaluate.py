"""Accuracy of a model or a bundle on labelled pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgevit.bundle.deployed import Deployed
from edgevit.data.digits import digits_arrays, parse_digits
from edgevit.data.images import labelled_folder, normalise, read_picture, to_model_size
from edgevit.errors import BadFile
from edgevit.models.load import LoadedModel

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        accuracy: share of pictures whose most likely class is the right one, 0 to 1.
        count: how many pictures.
        predictions: the most likely class of each picture, in the data set's order.
        truth: the right class of each.
    """

    accuracy: float
    count: int
    predictions: tuple[int, ...]
    truth: tuple[int, ...]


def torch_title() -> str:
    """What runs a PyTorch model."""
    import torch

    return f"PyTorch {torch.__version__}"


def pictures_of(dataset: str, labels: tuple[str, ...]) -> Iterator[tuple[Picture, int]]:
    """The pictures and class indices of ``digits:train``, ``digits:test`` or a folder of classes.

    ``digits:train:8`` draws every digit on eight canvases.

    Raises:
        UsageError: there is no such split.
        BadFile: there is no such folder, or it is not laid out by class.
    """
    from PIL import Image

    if dataset.startswith("digits:"):
        split, draws = parse_digits(dataset)
        for draw in range(draws):
            for array, label in zip(*digits_arrays(split, draw), strict=True):
                yield Image.fromarray(array), int(label)
        return
    for path, label in labelled_folder(Path(dataset), labels):
        yield read_picture(path), label


def _measure(
    scores: Callable[[Picture], NDArray[np.float32]],
    dataset: str,
    labels: tuple[str, ...],
    limit: int | None,
    advance: Advance,
) -> Evaluation:
    predictions, truth = [], []
    for index, (picture, label) in enumerate(pictures_of(dataset, labels)):
        if index == limit:
            break
        predictions.append(int(scores(picture).argmax()))
        truth.append(label)
        advance(1)
    if not truth:
        raise BadFile("the data set has no pictures", where=dataset)
    correct = sum(guess == right for guess, right in zip(predictions, truth, strict=True))
    return Evaluation(correct / len(truth), len(truth), tuple(predictions), tuple(truth))


def evaluate_bundle(
    deployed: Deployed, dataset: str, *, limit: int | None = None, advance: Advance = lambda done: None
) -> Evaluation:
    """Accuracy of a bundle in its own runtime on this machine.

    Args:
        deployed: the bundle.
        dataset: see `pictures_of`.
        limit: only the first so many pictures.
        advance: is told about every picture done.
    """
    return _measure(deployed.scores, dataset, deployed.labels, limit, advance)


def evaluate_model(
    loaded: LoadedModel, dataset: str, *, limit: int | None = None, advance: Advance = lambda done: None
) -> Evaluation:
    """Accuracy of the PyTorch model in float32; arguments as for `evaluate_bundle`."""
    import torch

    def scores(picture: Picture) -> NDArray[np.float32]:
        pixels = to_model_size(picture, loaded.preprocessing)[None]
        with torch.no_grad():
            return loaded.module(torch.from_numpy(normalise(pixels, loaded.preprocessing)))[0].numpy()

    return _measure(scores, dataset, loaded.labels, limit, advance)
