"""Labelled pictures at a model's input size, and a pool of augmented views with the original model's answers.

The pool is shared by every sub-model: the original runs once over each view, and distillation costs nothing more.
Only the plain pictures are stored; a view is one affine map of one picture.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from edgevit.data.folders import Skip, ignore
from edgevit.data.images import to_model_size
from edgevit.errors import BadFile, CheckFailed, UsageError
from edgevit.schema.model import Preprocessing
from edgevit.split.train.torch_device import CPU, device_of
from edgevit.verify.evaluate import pictures_of

if TYPE_CHECKING:
    from torch import nn

Advance = Callable[[int], None]
_BATCH, _PART = 64, 256
"""Pictures in one forward pass of the original, and at most in one batch of `Labelled.batches`."""
_NOISE = 0.05
"""Standard deviation of the noise, on normalised pixels."""
_SKIPPED = "skipped.json"
_MOST_SKIPPED = 0.1
"""Share of the training pictures that may be unreadable, as in `edgevit quantize`."""


@dataclass(frozen=True)
class Labelled:
    """Pictures with their classes.

    Attributes:
        images: [N, H, W, 3] uint8, may be a file mapped into memory.
        labels: [N] int64.
        device: of batches.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    device: torch.device | str = CPU

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, which: NDArray[Any]) -> Labelled:
        """The pictures and classes at the indices, or under the mask, ``which``."""
        return Labelled(self.images[which], self.labels[which])

    def batches(self, rule: Preprocessing) -> Iterator[Tensor]:
        """All batches of normalised pictures, in order."""
        return (self.batch(part, rule) for part in _in_parts(len(self)))

    def batch(self, which: NDArray[Any], rule: Preprocessing) -> Tensor:
        """The pictures at some indices, normalised: [B, 3, H, W] float32."""
        pixels = torch.from_numpy(np.ascontiguousarray(self.images[which]))
        return normalised(pixels.to(self.device), rule)

    def on(self, device: torch.device) -> Labelled:
        """The same pictures, with batches on another device."""
        return replace(self, device=device)


def _in_parts(count: int) -> list[NDArray[Any]]:
    return np.array_split(np.arange(count), count // _PART + 1)


def normalised(pixels: Tensor, rule: Preprocessing) -> Tensor:
    """Normalise pictures: [B, H, W, 3] uint8 to [B, 3, H, W] float32."""
    mean, std = (torch.tensor(values, device=pixels.device).reshape(1, 3, 1, 1) for values in (rule.mean, rule.std))
    return (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std


def read_labelled(
    dataset: str,
    labels: tuple[str, ...],
    rule: Preprocessing,
    advance: Advance,
    skip: Skip = ignore,
) -> Labelled:
    """Read a data set at a model's input size.

    Args:
        dataset: ``digits:train``, ``digits:train:8`` or a folder with one sub-folder a class.
        labels: the model's.
        rule: resize and crop.
        advance: called for each picture.
        skip: called for pictures that are left out because they cannot be read.

    Raises:
        UsageError: no such split.
        BadFile: the folder cannot be read, or more than a tenth of its pictures.
        CheckFailed: a class has no pictures.
    """
    images, classes = [], []
    skipped: list[str] = []

    def note(name: str, error: BadFile) -> None:
        skipped.append(f"{name}: {error.message}")
        skip(name, error)

    for picture, label in pictures_of(dataset, labels, note):
        images.append(to_model_size(picture, rule))
        classes.append(label)
        advance(1)
    if len(skipped) > _MOST_SKIPPED * (len(images) + len(skipped)):
        raise BadFile(
            f"{len(skipped)} of {len(images) + len(skipped)} pictures cannot be read",
            where="\n".join(skipped[:5]),
            cure="mend or remove them",
        )
    if not images:
        raise BadFile("the data set has no pictures", where=dataset)
    if max(classes) >= len(labels):
        raise UsageError(f"the data set has class {max(classes)}, the model only {len(labels)}", where=dataset)
    missing = sorted(set(range(len(labels))) - set(classes))
    if missing:
        raise CheckFailed(
            f"no picture of {labels[missing[0]]!r}" + (f" and {len(missing) - 1} more classes" if missing[1:] else ""),
            where=dataset,
            cure="every class needs pictures: its sub-model is pruned on them",
        )
    return Labelled(np.stack(images), np.asarray(classes, np.int64))


def divide(pictures: Labelled, share: float, seed: int) -> tuple[Labelled, Labelled]:
    """Split into training and held-out pictures, class by class.

    Raises:
        CheckFailed: a class has fewer than two pictures.
    """
    rng, held = np.random.default_rng(seed), np.zeros(len(pictures), bool)
    for label in np.unique(pictures.labels):
        found = np.flatnonzero(pictures.labels == label)
        if len(found) < 2:
            raise CheckFailed(
                f"class {label} has one picture: none is left to measure on",
                cure="add pictures, or give --evaluate with others",
            )
        held[rng.permutation(found)[: max(1, round(share * len(found)))]] = True
    return pictures.part(np.flatnonzero(~held)), pictures.part(np.flatnonzero(held))


@dataclass(frozen=True)
class Pool:
    """Augmented views of the training pictures, with the original model's answers.

    Attributes:
        pictures: the plain pictures, N of them.
        maps: [views, N, 2, 3] float32, affine maps as `torch.nn.functional.affine_grid` takes them.
        answers: [views, N, classes] float32, the original model's logits.
        rule: the model's normalisation.
    """

    pictures: Labelled
    maps: NDArray[np.float32]
    answers: NDArray[np.float32]
    rule: Preprocessing

    @property
    def views(self) -> int:
        """How many views there are of each picture."""
        return len(self.maps)

    def batches(self, view: int) -> Iterator[Tensor]:
        """All batches of one view of every picture, in order."""
        return (self.batch(np.full(len(part), view), part) for part in _in_parts(len(self.pictures)))

    def batch(self, view: NDArray[Any], which: NDArray[Any]) -> Tensor:
        """One view of the pictures at some indices, normalised: [B, 3, H, W] float32."""
        plain = self.pictures.batch(which, self.rule)
        maps = torch.from_numpy(self.maps[view, which]).to(plain.device)
        grid = functional.affine_grid(maps, list(plain.shape), align_corners=False)
        return functional.grid_sample(plain, grid, padding_mode="border", align_corners=False)

    def on(self, device: torch.device) -> Pool:
        """The same pool, with batches on another device."""
        return replace(self, pictures=self.pictures.on(device))


def random_maps(views: int, count: int, seed: int, flip: bool) -> NDArray[np.float32]:
    """Random affine maps: rotation by 12 degrees, scale by 10 %, shift by 8 %, mirroring on request.

    View 0 is the plain picture.
    """
    rng = np.random.default_rng(seed)
    turn, scale, across, down = (rng.uniform(-1, 1, (views, count)) for _ in range(4))
    mirror = np.where(flip & (rng.uniform(size=(views, count)) < 0.5), -1.0, 1.0)
    angle, size = 0.21 * turn, 1 + 0.1 * scale
    rows = [
        [size * np.cos(angle) * mirror, -size * np.sin(angle), 0.16 * across],
        [size * np.sin(angle) * mirror, size * np.cos(angle), 0.16 * down],
    ]
    maps = np.stack([np.stack(row, -1) for row in rows], -2).astype(np.float32)
    maps[0] = np.eye(2, 3)
    return maps


@torch.no_grad()
def make_pool(
    model: nn.Module, pictures: Labelled, rule: Preprocessing, *, views: int, seed: int, flip: bool, advance: Advance
) -> Pool:
    """Compute the original model's answers to every view."""
    maps = random_maps(views, len(pictures), seed, flip)
    pool = Pool(pictures, maps, np.zeros((0, 0, 0), np.float32), rule).on(device_of(model))
    answers = []
    for view in range(views):
        found = []
        for start in range(0, len(pictures), _BATCH):
            which = np.arange(start, min(start + _BATCH, len(pictures)))
            found.append(model(pool.batch(np.full(len(which), view), which)).cpu().numpy())
            advance(len(which))
        answers.append(np.concatenate(found))
    return Pool(pictures, maps, np.stack(answers), rule)


def save_pool(pool: Pool, held: Labelled, folder: Path, skipped: Sequence[tuple[str, BadFile]] = ()) -> None:
    """Write a pool and the held-out pictures, as plain arrays that are mapped into memory when read.

    Args:
        pool: to write.
        held: the held-out pictures.
        folder: an existing folder.
        skipped: names of pictures that were left out, and why.
    """
    arrays: dict[str, NDArray[Any]] = {
        "images": pool.pictures.images,
        "labels": pool.pictures.labels,
        "maps": pool.maps,
        "answers": pool.answers,
        "held_images": held.images,
        "held_labels": held.labels,
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    rule = {"size": pool.rule.size, "mean": pool.rule.mean, "std": pool.rule.std}
    (folder / "rule.json").write_text(json.dumps(rule))
    told = [[name, error.message, error.where, error.cure] for name, error in skipped]
    (folder / _SKIPPED).write_text(json.dumps(told))


def skipped_pictures(folder: Path) -> list[tuple[str, BadFile]]:
    """The pictures that were left out of a pool, each with the reason."""
    return [
        (name, BadFile(message, where=where, cure=cure))
        for name, message, where, cure in json.loads((folder / _SKIPPED).read_text())
    ]


def read_pool(folder: Path) -> tuple[Pool, Labelled]:
    """The training pool and the held-out pictures that `save_pool` wrote, arrays memory-mapped."""

    def array(name: str) -> NDArray[Any]:
        return np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)

    given = {key: tuple(value) for key, value in json.loads((folder / "rule.json").read_text()).items()}
    rule = Preprocessing(given["size"], mean=given["mean"], std=given["std"])
    plain = Labelled(array("images"), np.array(array("labels")))
    return Pool(plain, array("maps"), array("answers"), rule), Labelled(
        array("held_images"), np.array(array("held_labels"))
    )


def noisy(images: Tensor, generator: torch.Generator) -> Tensor:
    """Add a little noise that the original model did not see."""
    return images + _NOISE * torch.randn(images.shape, generator=generator, device=images.device)
