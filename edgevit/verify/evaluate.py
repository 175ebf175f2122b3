"""Accuracy of a model or a bundle on labelled pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgevit.bundle.loaded import Deployed
from edgevit.data.digits import digits_arrays, parse_digits
from edgevit.data.folders import Skip, ignore, labelled_folder, refuse
from edgevit.data.images import normalise, to_model_size
from edgevit.data.pixels import read_picture
from edgevit.errors import BadFile, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

    from edgevit.models.load import LoadedModel

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Evaluation:
    """Accuracy on a data set, with each prediction.

    Attributes:
        accuracy: share of pictures whose most likely class is the right one, 0 to 1.
        count: number of pictures.
        predictions: the most likely class of each picture, in the data set's order.
        truth: the right class of each.
        skipped: names of the pictures that could not be read, and why; they are in none of the above.
    """

    accuracy: float
    count: int
    predictions: tuple[int, ...]
    truth: tuple[int, ...]
    skipped: tuple[tuple[str, BadFile], ...] = ()


def torch_title() -> str:
    """The name and version of PyTorch, as what ran a model."""
    import torch

    return f"PyTorch {torch.__version__}"


def pictures_of(dataset: str, labels: tuple[str, ...], skip: Skip = refuse) -> Iterator[tuple[Picture, int]]:
    """The pictures and class indices of ``digits:train``, ``digits:test`` or a folder of classes.

    ``digits:train:8`` draws every digit on eight canvases.

    Args:
        dataset: one of these.
        labels: the model's.
        skip: called for pictures of a folder that cannot be read; without it the first one is an error.

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
    for path, label in labelled_folder(Path(dataset), labels, skip, _synsets):
        try:
            picture = read_picture(path)
        except BadFile as error:
            skip(str(path), error)
            continue
        yield picture, label


def _synsets(labels: tuple[str, ...]) -> dict[str, int]:
    from edgevit.models.synsets import synset_classes

    return synset_classes(labels)


def _measure(
    scores: Callable[[Picture], NDArray[np.float32]],
    dataset: str,
    labels: tuple[str, ...],
    limit: int | None,
    advance: Advance,
    skip: Skip,
) -> Evaluation:
    predictions, truth = [], []
    skipped: list[tuple[str, BadFile]] = []

    def note(name: str, error: BadFile) -> None:
        skip(name, error)
        skipped.append((name, error))

    for index, (picture, label) in enumerate(pictures_of(dataset, labels, note)):
        if index == limit:
            break
        predictions.append(int(scores(picture).argmax()))
        truth.append(label)
        advance(1)
    if not truth:
        raise BadFile(
            "no picture of the data set can be read" if skipped else "the data set has no pictures",
            where=f"{skipped[0][0]}: {skipped[0][1].message}" if skipped else dataset,
        )
    correct = sum(guess == right for guess, right in zip(predictions, truth, strict=True))
    return Evaluation(correct / len(truth), len(truth), tuple(predictions), tuple(truth), tuple(skipped))


def evaluate_bundle(
    deployed: Deployed,
    dataset: str,
    *,
    limit: int | None = None,
    advance: Advance = lambda done: None,
    skip: Skip = ignore,
) -> Evaluation:
    """Accuracy of a bundle in its own runtime on this machine.

    Args:
        deployed: the bundle.
        dataset: see `pictures_of`.
        limit: number of pictures to use, the first ones; None for all.
        advance: called after each picture.
        skip: called for each picture that cannot be read.

    Raises:
        UsageError: the bundle gives features, or there is no such split.
        BadFile: there is no such folder, it is not laid out by class, or no picture in it can be read.
    """
    if deployed.bundle.manifest.output.kind == "features":
        raise UsageError(
            "the bundle gives features, not classes",
            where=str(deployed.bundle.path),
            cure="evaluate one that was exported with --output probabilities",
        )
    return _measure(deployed.scores, dataset, deployed.labels, limit, advance, skip)


def evaluate_model(
    loaded: LoadedModel,
    dataset: str,
    *,
    limit: int | None = None,
    advance: Advance = lambda done: None,
    skip: Skip = ignore,
) -> Evaluation:
    """Accuracy of the PyTorch model in float32; arguments as for `evaluate_bundle`."""
    import torch

    def scores(picture: Picture) -> NDArray[np.float32]:
        pixels = to_model_size(picture, loaded.preprocessing)[None]
        with torch.no_grad():
            return loaded.module(torch.from_numpy(normalise(pixels, loaded.preprocessing)))[0].numpy()

    return _measure(scores, dataset, loaded.labels, limit, advance, skip)
