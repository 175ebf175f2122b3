"""Handwritten digits on a cluttered canvas: the small image set behind the bundled models.

Every sample places one of scikit-learn's 8x8 digits, enlarged, at a random position on a noisy
32x32 colour canvas with strokes of other digits as clutter. The position is random, so a model
has to find the digit: spatial structure matters, which makes the set useful for judging token
reduction and quantization and not only plain classification.

The set is a pure function of its split and index; nothing is stored or downloaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edgevit.errors import MissingDependency, UsageError

SIZE = 32
LABELS = tuple("0123456789")
MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)
HELD_OUT = 450
"""Digits in the split ``test``, a quarter of the 1797; all others are in ``train``."""
_SPLIT_SEED = 20
"""Decides which digits are in which split; another seed would mix what the bundled models were trained and tested
on."""
_GLYPH_SIDES = (13, 18)
"""Smallest and largest side of a drawn digit in pixels, on a canvas of `SIZE`."""

Image = NDArray[np.uint8]


@lru_cache(maxsize=1)
def _sources() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingDependency("scikit-learn", "the digits image set", extra="digits") from error
    bunch = load_digits()
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(bunch.target))
    return bunch.images[order] / 16.0, bunch.target[order].astype(np.int64)


def _split(split: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    glyphs, labels = _sources()
    if split == "test":
        return glyphs[:HELD_OUT], labels[:HELD_OUT]
    if split == "train":
        return glyphs[HELD_OUT:], labels[HELD_OUT:]
    raise UsageError(f"there is no digits split named {split!r}", cure="use digits:train or digits:test")


def _resize(glyph: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Bilinear enlargement of an 8x8 glyph to ``side`` x ``side``."""
    at = np.clip((np.arange(side) + 0.5) * glyph.shape[0] / side - 0.5, 0, glyph.shape[0] - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, glyph.shape[0] - 1)
    part = at - low
    rows = glyph[low] * (1 - part)[:, None] + glyph[high] * part[:, None]
    return rows[:, low] * (1 - part) + rows[:, high] * part


def _blend(
    canvas: NDArray[np.float64], mask: NDArray[np.float64], at: tuple[int, ...], colour: NDArray[np.float64]
) -> None:
    top, left = at
    area = canvas[top : top + mask.shape[0], left : left + mask.shape[1]]
    alpha = mask[: area.shape[0], : area.shape[1], None]
    area[...] = area * (1 - alpha) + colour * alpha


def parse_digits(name: str) -> tuple[str, int]:
    """The split and the number of draws of ``digits:SPLIT`` or ``digits:SPLIT:DRAWS``.

    Raises:
        UsageError: the number of draws is none.
    """
    split, _, draws = name.removeprefix("digits:").partition(":")
    if draws and not (draws.isascii() and draws.isdigit() and 1 <= int(draws) <= 1000):
        raise UsageError(f"{draws!r} is not a number of draws", cure="write digits:train:8 for eight canvases a digit")
    return split, int(draws or 1)


def draw(glyph: NDArray[np.float64], rng: np.random.Generator, clutter: NDArray[np.float64]) -> Image:
    """Draw one digit on a fresh canvas.

    Args:
        glyph: [8, 8] float in 0..1, the digit to draw.
        rng: the source of every random choice.
        clutter: [N, 8, 8] glyphs whose strokes may appear as background.

    Returns:
        [32, 32, 3] uint8, RGB.
    """
    tint = rng.uniform(0.0, 0.45, 3)
    slope = rng.normal(0, 0.1, (2, 3))
    grid = np.linspace(-1, 1, SIZE)
    canvas = tint + grid[:, None, None] * slope[0] + grid[None, :, None] * slope[1]
    for _ in range(rng.integers(2, 6)):
        stroke = _resize(clutter[rng.integers(len(clutter))], int(rng.integers(8, 15)))
        height, width = rng.integers(3, 6, 2)
        y, x = rng.integers(0, stroke.shape[0] - 5, 2)
        piece = stroke[y : y + height, x : x + width] * rng.uniform(0.3, 0.7)
        _blend(canvas, piece, tuple(rng.integers(0, SIZE - 4, 2)), rng.uniform(0.3, 1.0, 3))
    side = int(rng.integers(*_GLYPH_SIDES, endpoint=True))
    _blend(canvas, _resize(glyph, side), tuple(rng.integers(0, SIZE - side + 1, 2)), rng.uniform(0.65, 1.0, 3))
    canvas = canvas + rng.normal(0, 0.05, canvas.shape)
    return (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8)


def digits(split: str, draw_number: int = 0) -> Iterator[tuple[Image, int]]:
    """Yield the images and labels of one split, always the same for the same arguments.

    Args:
        split: ``train`` (1,347 digits) or ``test`` (450 digits, held out by source digit).
        draw_number: another number places the same digits elsewhere on other canvases.

    Yields:
        ([32, 32, 3] uint8 RGB, class index 0..9).

    Raises:
        UsageError: the split is unknown.
        MissingDependency: scikit-learn is not installed.
    """
    glyphs, labels = _split(split)
    salt = {"train": 1, "test": 2}[split]
    for index, (glyph, label) in enumerate(zip(glyphs, labels, strict=True)):
        rng = np.random.default_rng([salt, draw_number, index])
        yield draw(glyph, rng, glyphs), int(label)


@lru_cache(maxsize=4)
def digits_arrays(split: str, draw_number: int = 0) -> tuple[Image, NDArray[np.int64]]:
    """The whole split at once: ([N, 32, 32, 3] uint8, [N] int64), read-only."""
    images, labels = zip(*digits(split, draw_number), strict=True)
    arrays = np.stack(images), np.asarray(labels, dtype=np.int64)
    for array in arrays:
        array.flags.writeable = False
    return arrays
