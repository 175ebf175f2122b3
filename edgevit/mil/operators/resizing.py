"""Resizing of the last two axes; sample positions follow coremltools' documentation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgevit.mil.registry import Ints, operator, take


def sample_positions(size: int, wanted: int, mode: str) -> Tensor:
    """The positions of ``wanted`` samples on a grid of ``size`` points: float64 [wanted] within [0, size - 1].

    Args:
        size: of the input axis.
        wanted: of the output axis.
        mode: ``STRICT_ALIGN_CORNERS``, ``ALIGN_CORNERS``, ``DEFAULT``, ``OFFSET_CORNERS`` or ``UNALIGN_CORNERS``.

    Raises:
        ValueError: there is no such mode.
    """
    steps = torch.arange(wanted, dtype=torch.float64)
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        if wanted == 1:
            return torch.full((1,), (size - 1) / 2 if mode == "ALIGN_CORNERS" else 0.0, dtype=torch.float64)
        places = steps * ((size - 1) / (wanted - 1))
    elif mode == "DEFAULT":
        places = steps * (size / wanted)
    elif mode == "OFFSET_CORNERS":
        places = (steps + 0.5) * (max(1, size - 1) / wanted)
    elif mode == "UNALIGN_CORNERS":
        places = (steps + 0.5) * (size / wanted) - 0.5
    else:
        raise ValueError(f"there is no sampling mode {mode!r}")
    return places.clamp(0, size - 1)


def _linear(x: Tensor, axis: int, places: Tensor) -> Tensor:
    """Linear interpolation along one axis."""
    low = places.floor()
    share = (places - low).to(x.dtype).reshape([-1 if index == axis % x.ndim else 1 for index in range(x.ndim)])
    first, last = low.long(), places.ceil().long()
    below = take(x, axis, first)
    return below + (take(x, axis, last) - below) * share


def _bilinear(x: Tensor, height: int, width: int, mode: str) -> Tensor:
    rows = _linear(x, -2, sample_positions(x.shape[-2], height, mode))
    return _linear(rows, -1, sample_positions(x.shape[-1], width, mode))


def _nearest(x: Tensor, height: int, width: int) -> Tensor:
    for axis, wanted in ((-2, height), (-1, width)):
        x = take(x, axis, torch.arange(wanted) * x.shape[axis] // wanted)
    return x


def _scaled(x: Tensor, height: float, width: float) -> tuple[int, int]:
    return math.floor(x.shape[-2] * height), math.floor(x.shape[-1] * width)


@operator("resize_bilinear")
def resize_bilinear(
    *, x: Tensor, target_size_height: int = 1, target_size_width: int = 1, sampling_mode: str = "DEFAULT"
) -> Tensor:
    """Bilinear resizing to a given size."""
    return _bilinear(x, target_size_height, target_size_width, sampling_mode)


@operator("resize_nearest_neighbor")
def resize_nearest_neighbor(*, x: Tensor, target_size_height: int, target_size_width: int) -> Tensor:
    """Nearest-neighbour resizing to a given size."""
    return _nearest(x, target_size_height, target_size_width)


@operator("upsample_nearest_neighbor")
def upsample_nearest_neighbor(
    *, x: Tensor, scale_factor_height: float = 1.0, scale_factor_width: float = 1.0
) -> Tensor:
    """Nearest-neighbour upsampling by a factor."""
    return _nearest(x, *_scaled(x, scale_factor_height, scale_factor_width))


@operator("upsample_bilinear")
def upsample_bilinear(
    *,
    x: Tensor,
    scale_factor_height: float = 1.0,
    scale_factor_width: float = 1.0,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> Tensor:
    """Bilinear upsampling by a factor, which is computed again from the sizes."""
    half = not align_corners if half_pixel_centers is None else half_pixel_centers
    modes = {(True, False): "STRICT_ALIGN_CORNERS", (False, True): "UNALIGN_CORNERS", (False, False): "DEFAULT"}
    if (align_corners, half) not in modes:
        raise ValueError("align_corners and half_pixel_centers exclude each other")
    return _bilinear(x, *_scaled(x, scale_factor_height, scale_factor_width), modes[align_corners, half])


@operator("resize")
def resize(
    *, x: Tensor, shape: Ints, resized_dims: int, interpolation_mode: str = "LINEAR", sampling_mode: str = "DEFAULT"
) -> Tensor:
    """Resize the last ``resized_dims`` axes to the last sizes of ``shape``, where 0 keeps an axis."""
    wanted = shape[len(shape) - resized_dims :]
    sizes = [size or have for size, have in zip(wanted, x.shape[x.ndim - resized_dims :], strict=True)]
    nearest = interpolation_mode == "NEAREST_NEIGHBOR"
    if nearest and sampling_mode != "DEFAULT":
        raise ValueError(f"nearest neighbour with the sampling mode {sampling_mode!r} is not documented")
    for axis, size in enumerate(sizes, x.ndim - resized_dims):
        if nearest:
            x = take(x, axis, torch.arange(size) * x.shape[axis] // size)
        else:
            x = _linear(x, axis, sample_positions(x.shape[axis], size, sampling_mode))
    return x
