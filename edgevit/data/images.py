"""Turns pictures into a model's exact input: resize, crop, layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgevit.data.folders import labelled_folder, picture_paths, readable_pictures
from edgevit.data.pixels import MAX_MEGAPIXELS, read_picture, to_rgb
from edgevit.schema.manifest import InputInfo
from edgevit.schema.model import Preprocessing

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

__all__ = [
    "MAX_MEGAPIXELS",
    "as_input",
    "labelled_folder",
    "normalise",
    "picture_paths",
    "read_picture",
    "readable_pictures",
    "resize_width_first",
    "to_model_size",
]
Pixels = NDArray[np.uint8]


def to_model_size(picture: Picture, rule: Preprocessing) -> Pixels:
    """Resize and crop as timm's evaluation transform does, the width first whatever the version of Pillow.

    Args:
        picture: of any size and mode; its EXIF orientation is applied.
        rule: resize mode, filter and crop.

    Returns:
        [H, W, 3] uint8 RGB.
    """
    from PIL import Image

    picture = to_rgb(picture)
    filters = {
        "bicubic": Image.Resampling.BICUBIC,
        "bilinear": Image.Resampling.BILINEAR,
        "nearest": Image.Resampling.NEAREST,
        "lanczos": Image.Resampling.LANCZOS,
    }
    width, height = _resized(picture.size, rule)
    if picture.size != (width, height):
        picture = resize_width_first(picture, (width, height), filters[rule.interpolation])
    return _centre(np.asarray(picture, dtype=np.uint8), rule)


def resize_width_first(picture: Picture, size: tuple[int, int], resample: int) -> Picture:
    """Pillow's resize in the order that it had before version 13, which begins with the height of some pictures.

    The bytes differ between the two orders; the input contract names this one.
    """
    from PIL import Image

    if resample != Image.Resampling.NEAREST:
        picture = picture.resize((size[0], picture.height), resample)
    return picture.resize(size, resample)


def _resized(size: tuple[int, int], rule: Preprocessing) -> tuple[int, int]:
    """(width, height) after resizing, before cropping."""
    width, height = size
    goal_height, goal_width = (int(np.floor(side / rule.crop_pct)) for side in rule.size)
    if rule.crop_mode == "squash":
        return goal_width, goal_height
    if rule.crop_mode == "center" and goal_height == goal_width:
        short = goal_height
        if width <= height:
            return short, int(short * height / width)
        return int(short * width / height), short
    ratios = (height / goal_height, width / goal_width)
    ratio = max(ratios) if rule.crop_mode == "border" else min(ratios)
    return round(width / ratio), round(height / ratio)


def _centre(pixels: Pixels, rule: Preprocessing) -> Pixels:
    """Crop the centre; missing pixels are filled with the model's mean colour (border) or black."""
    height, width = rule.size
    short = [max(0, goal - have) for goal, have in zip((height, width), pixels.shape[:2], strict=True)]
    if any(short):
        fill = [round(255 * value) for value in rule.mean] if rule.crop_mode == "border" else [0, 0, 0]
        padded = np.empty((pixels.shape[0] + short[0], pixels.shape[1] + short[1], 3), np.uint8)
        padded[:] = fill
        padded[short[0] // 2 :, short[1] // 2 :][: pixels.shape[0], : pixels.shape[1]] = pixels
        pixels = padded
    top = round((pixels.shape[0] - height) / 2)
    left = round((pixels.shape[1] - width) / 2)
    return np.ascontiguousarray(pixels[top : top + height, left : left + width])


def normalise(pixels: Pixels, rule: Preprocessing) -> NDArray[np.float32]:
    """[N, H, W, 3] uint8 to the normalised [N, 3, H, W] float32 that the PyTorch model takes."""
    mean, std = (np.asarray(values, np.float32) for values in (rule.mean, rule.std))
    scaled = (pixels.astype(np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def as_input(pixels: Pixels, rule: Preprocessing, source: InputInfo) -> NDArray[np.uint8] | NDArray[np.float32]:
    """Resized pictures in the layout, dtype and range that a model's input asks for.

    Args:
        pixels: [N, H, W, 3] uint8 RGB.
        rule: mean and std, where the input is a normalised tensor.
        source: the input, as the manifest describes it.
    """
    if source.kind == "tensor":
        return normalise(pixels, rule)
    if source.layout == "NCHW":
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2).astype(np.float32))
    return pixels
