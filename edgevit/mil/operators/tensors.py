"""Operators that make, join, split and pad tensors, and the classifier's last step."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from edgevit.mil.registry import Ints, Strings, operator, positive, take


@operator("concat")
def concat(*, values: list[Tensor], axis: int, interleave: bool = False) -> Tensor:
    """Join along an axis, one after the other or interleaved; scalars become a vector."""
    parts = [one.reshape(1) if one.ndim == 0 else one for one in values]
    axis = positive(axis, parts[0].ndim)
    return torch.stack(parts, axis + 1).flatten(axis, axis + 1) if interleave else torch.cat(parts, axis)


@operator("stack")
def stack(*, values: list[Tensor], axis: int) -> Tensor:
    """Join along a new axis."""
    return torch.stack(values, axis)


@operator("split")
def split(
    *, x: Tensor, axis: int, num_splits: int | None = None, split_sizes: Ints | None = None
) -> tuple[Tensor, ...]:
    """Split into parts of given sizes, or into equal ones."""
    if split_sizes is not None:
        return torch.split(x, list(split_sizes), axis)
    if not num_splits or x.shape[axis] % num_splits:
        raise ValueError(f"{x.shape[axis]} elements cannot be split into {num_splits} equal parts")
    return torch.split(x, x.shape[axis] // num_splits, axis)


@operator("tile")
def tile(*, x: Tensor, reps: Ints) -> Tensor:
    """Repeat along each axis."""
    return x.tile(reps)


@operator("fill")
def fill(*, shape: Ints, value: Tensor | None = None) -> Tensor:
    """A tensor of one value, 0 if none is given."""
    return (torch.zeros(()) if value is None else value).reshape(()).expand(shape)


@operator("fill_like")
def fill_like(*, ref_tensor: Tensor, value: Tensor | None = None) -> Tensor:
    """A tensor of one value in another's shape."""
    return fill(shape=tuple(ref_tensor.shape), value=value)


@operator("range_1d")
def range_1d(*, start: Tensor, end: Tensor, step: Tensor) -> Tensor:
    """Numbers from ``start`` by ``step`` up to, but without, ``end``."""
    return torch.arange(start.item(), end.item(), step.item())


@operator("one_hot")
def one_hot(
    *,
    indices: Tensor,
    one_hot_vector_size: int,
    axis: int = -1,
    on_value: Tensor | None = None,
    off_value: Tensor | None = None,
) -> Tensor:
    """``on_value`` at the index along a new axis, ``off_value`` elsewhere, nowhere for an index outside."""
    places = torch.arange(one_hot_vector_size)
    axis = positive(axis, indices.ndim + 1)
    hot = indices.unsqueeze(axis) == places.reshape([-1 if i == axis else 1 for i in range(indices.ndim + 1)])
    on = torch.ones((), dtype=torch.int32) if on_value is None else on_value
    return torch.where(hot, on, torch.zeros_like(on) if off_value is None else off_value)


@operator("non_zero")
def non_zero(*, x: Tensor) -> Tensor:
    """Indices [N, rank] of elements that are not 0."""
    return torch.nonzero(x)


@operator("band_part")
def band_part(*, x: Tensor, lower: int = -1, upper: int = -1) -> Tensor:
    """Zero all elements outside a band around the diagonal; a negative width keeps everything on that side."""
    below = torch.arange(x.shape[-2]).unsqueeze(1) - torch.arange(x.shape[-1])
    band = ((lower < 0) | (below <= lower)) & ((upper < 0) | (-below <= upper))
    return torch.where(band, x, torch.zeros_like(x))


@operator("pad")
def pad(*, x: Tensor, pad: Ints, mode: str = "constant", constant_val: float = 0.0) -> Tensor:
    """Pad the last ``len(pad) / 2`` axes: (before, after) of each, the first of them first.

    ``reflect`` leaves the edge element out, ``replicate`` repeats it.
    """
    pairs = list(zip(pad[::2], pad[1::2], strict=True))
    if mode == "constant":
        return functional.pad(x, [one for pair in reversed(pairs) for one in pair], value=constant_val)
    for axis, (before, after) in enumerate(pairs, x.ndim - len(pairs)):
        size = x.shape[axis]
        places = torch.arange(-before, size + after)
        if mode == "replicate":
            places = places.clamp(0, size - 1)
        elif mode == "reflect":
            if max(before, after) >= size:
                raise ValueError(f"{size} elements cannot be reflected {max(before, after)} deep")
            places = (size - 1) - (places.abs() - (size - 1)).abs()
        else:
            raise ValueError(f"there is no padding mode {mode!r}")
        x = take(x, axis, places)
    return x


@operator("crop")
def crop(*, x: Tensor, crop_height: Ints, crop_width: Ints) -> Tensor:
    """Remove rows and columns at the edges of the last two axes."""
    (top, bottom), (left, right) = crop_height, crop_width
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


@operator("classify")
def classify(*, probabilities: Tensor, classes: Strings) -> tuple[str, dict[str, float]]:
    """The most likely class, and every class's probability."""
    scores = probabilities.reshape(-1)
    if len(scores) != len(classes):
        raise ValueError(f"there are {len(classes)} classes for {len(scores)} probabilities")
    if not bool(torch.isfinite(scores).all()):
        return "", dict.fromkeys(classes, math.nan)
    return classes[int(scores.argmax())], dict(zip(classes, scores.tolist(), strict=True))
