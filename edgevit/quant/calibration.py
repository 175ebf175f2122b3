"""Reads the calibration pictures of a model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgevit.data.digits import digits_arrays
from edgevit.data.images import normalise, picture_paths, read_picture, to_model_size
from edgevit.errors import BadFile, UsageError
from edgevit.schema.manifest import CalibrationInfo
from edgevit.schema.model import Preprocessing

Warn = Callable[[str], None]
MOST_UNREADABLE = 0.1
"""Share of a folder's pictures that may be unreadable."""


@dataclass(frozen=True)
class Pictures:
    """Calibration pictures, resized to a model's input size.

    Attributes:
        pixels: [N, H, W, 3] uint8 RGB.
        rule: how they were resized, and how they are normalised.
        info: their source, as recipes record it.
    """

    pixels: NDArray[np.uint8]
    rule: Preprocessing
    info: CalibrationInfo

    def __len__(self) -> int:
        return len(self.pixels)

    def inputs(self) -> Iterator[torch.Tensor]:
        """The pictures one by one, normalised: float32 [1, 3, H, W]."""
        for one in self.pixels:
            yield torch.from_numpy(normalise(one[None], self.rule))


def _chosen(count: int, wanted: int, seed: int) -> list[int]:
    """Which of the available pictures are taken: a random order that the seed decides."""
    return np.random.default_rng(seed).permutation(count)[:wanted].tolist()


def _digits(split: str, wanted: int, seed: int, rule: Preprocessing) -> tuple[list[NDArray[np.uint8]], int]:
    from PIL import Image

    images, _ = digits_arrays(split)
    return [to_model_size(Image.fromarray(images[i]), rule) for i in _chosen(len(images), wanted, seed)], 0


def _folder(
    folder: Path, wanted: int, seed: int, rule: Preprocessing, most_unreadable: float, warn: Warn
) -> tuple[list[NDArray[np.uint8]], int]:
    paths = picture_paths(folder)
    found: list[NDArray[np.uint8]] = []
    unreadable: list[str] = []
    for index in _chosen(len(paths), len(paths), seed):
        if len(found) == wanted:
            break
        try:
            found.append(to_model_size(read_picture(paths[index]), rule))
        except BadFile as error:
            unreadable.append(f"{paths[index].relative_to(folder)}: {error.where.partition(': ')[2] or error.message}")
    if len(unreadable) > most_unreadable * (len(found) + len(unreadable)):
        raise BadFile(
            f"{len(unreadable)} of {len(found) + len(unreadable)} pictures cannot be read, "
            f"more than the {most_unreadable:.0%} that may be skipped",
            where="\n".join(unreadable[:5]),
            cure="mend or remove them, or raise --max-unreadable",
        )
    for line in unreadable:
        warn(f"skipped {line}")
    return found, len(unreadable)


def read_pictures(
    source: str,
    rule: Preprocessing,
    *,
    wanted: int = 32,
    seed: int = 0,
    most_unreadable: float = MOST_UNREADABLE,
    warn: Warn = lambda text: None,
) -> Pictures:
    """Take pictures at random from a folder, or from the bundled digits.

    Grey, CMYK and palette pictures become RGB; of an animation the first frame counts.

    Args:
        source: a folder, searched with its sub-folders, or ``digits:train`` or ``digits:test``.
        rule: the model's preprocessing.
        wanted: how many pictures.
        seed: decides which pictures are taken.
        most_unreadable: share of pictures that may be skipped because they cannot be read.
        warn: called with warnings: pictures that were skipped, or fewer than asked.

    Raises:
        UsageError: there is no such split.
        BadFile: no folder, no pictures, too many unreadable ones, or nothing but plain colours.
    """
    if source.startswith("digits:"):
        found, skipped = _digits(source.partition(":")[2], wanted, seed, rule)
    else:
        found, skipped = _folder(Path(source), wanted, seed, rule, most_unreadable, warn)
    pixels = np.stack(found)
    if all(one.min(axis=(0, 1)).tolist() == one.max(axis=(0, 1)).tolist() for one in pixels):
        raise BadFile(
            "every picture is one plain colour: no range of activations can be learnt from them",
            where=source,
            cure="give pictures like those that the model will see",
        )
    if len(pixels) < wanted:
        warn(f"{source} has {len(pixels)} pictures, not the {wanted} asked for")
    if len(pixels) < 8:
        warn(f"{len(pixels)} pictures are few: the ranges may not hold for others; 32 or more are usual")
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    info = CalibrationInfo(source=_title(source), images=len(pixels), seed=seed, sha256=digest, skipped=skipped)
    return Pictures(pixels, rule, info)


def _title(source: str) -> str:
    """The folder's base name: absolute paths must not leak into recipes."""
    return source if source.startswith("digits:") else Path(source).resolve().name


def check_wanted(wanted: int) -> None:
    """Refuse a number of pictures below one.

    Raises:
        UsageError: it is less than one.
    """
    if wanted < 1:
        raise UsageError(f"{wanted} pictures cannot calibrate anything", cure="give --images 32 or more")
