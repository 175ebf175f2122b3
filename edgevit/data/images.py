"""Read pictures from outside, and turn them into exactly what a model takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgevit.core.manifest import InputInfo
from edgevit.core.spec import Preprocessing
from edgevit.errors import BadFile, MissingDependency

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

MAX_MEGAPIXELS = 40.0
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})

Pixels = NDArray[np.uint8]


def read_picture(path: Path, max_megapixels: float = MAX_MEGAPIXELS) -> Picture:
    """Decode a picture, upright and in RGB.

    Args:
        path: any format that Pillow reads.
        max_megapixels: larger pictures are refused before they are decoded.

    Raises:
        BadFile: missing, empty, truncated, not a picture, or too large.
        MissingDependency: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise MissingDependency("pillow", "reading pictures", extra="runtime") from error
    if not path.is_file():
        raise BadFile(f"there is no picture {path}")
    if path.stat().st_size == 0:
        raise BadFile("the picture is an empty file", where=str(path))
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with Image.open(path) as picture:
            megapixels = picture.width * picture.height / 1e6
            if megapixels > max_megapixels:
                raise BadFile(
                    f"the picture has {megapixels:.1f} megapixels, more than {max_megapixels:g}",
                    where=str(path),
                    cure="make it smaller, or raise --max-megapixels",
                )
            return ImageOps.exif_transpose(picture).convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        if isinstance(error, BadFile):
            raise
        raise BadFile(
            "the file is not a picture that can be read",
            where=f"{path}: {error}",
            cure="it may be damaged or cut off: open it in a viewer, or convert it to PNG or JPEG",
        ) from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def to_model_size(picture: Picture, rule: Preprocessing) -> Pixels:
    """Resize and crop as timm's evaluation transform does, the width first whatever the version of Pillow.

    Args:
        picture: RGB, any size.
        rule: resize mode, filter and crop.

    Returns:
        [H, W, 3] uint8 RGB.
    """
    from PIL import Image

    picture = picture.convert("RGB")
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
    """Crop the centre; what is missing is padded with the model's mean colour (border) or black."""
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


def picture_paths(folder: Path) -> list[Path]:
    """All pictures below a folder, in order.

    Raises:
        BadFile: there is no such folder or it has no pictures.
    """
    if not folder.is_dir():
        raise BadFile(f"there is no folder {folder}")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise BadFile(
            "the folder has no pictures", where=str(folder), cure=f"put {', '.join(sorted(SUFFIXES))} files in it"
        )
    return found


def labelled_folder(folder: Path, labels: tuple[str, ...]) -> Iterator[tuple[Path, int]]:
    """The pictures of a folder with one sub-folder a class, with class indices.

    A sub-folder is named by a label, by an index, or, where their number is the number of
    classes, by anything: then their sorted order is the order of the classes.

    Raises:
        BadFile: a sub-folder that stands for no class.
    """
    if not folder.is_dir():
        raise BadFile(f"there is no folder {folder}")
    names = sorted(child.name for child in folder.iterdir() if child.is_dir())
    if not names:
        raise BadFile(
            "the folder has no sub-folders",
            where=str(folder),
            cure="put the pictures of each class in a sub-folder of its own",
        )
    classes = {label: index for index, label in enumerate(labels)}
    by_index = {str(index): index for index in range(len(labels))}
    in_order = dict(zip(names, range(len(labels)), strict=False)) if len(names) == len(labels) else {}
    for table in (classes, by_index, in_order):
        if all(name in table for name in names):
            for name in names:
                for path in picture_paths(folder / name):
                    yield path, table[name]
            return
    stranger = next(name for name in names if name not in classes)
    raise BadFile(
        f"the sub-folder {stranger!r} stands for no class of the model",
        where=str(folder),
        cure="name each sub-folder by a label or a class index",
    )
