"""Preprocessing is timm's own, pixel for pixel; hostile pictures are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgevit.data.images import normalise, read_picture, to_model_size
from edgevit.errors import BadFile
from edgevit.schema.model import Preprocessing
from edgevit.testing import structured_images
from edgevit.verify.probes import timm_transform


def timm_input(picture: Image.Image, rule: Preprocessing) -> np.ndarray:
    return timm_transform(rule)(picture).numpy()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(9, 90),
    st.integers(9, 90),
    st.integers(16, 48),
    st.sampled_from([0.8, 0.875, 0.9, 0.95, 1.0]),
    st.sampled_from(["bicubic", "bilinear"]),
    st.sampled_from(["center", "squash"]),
)
def test_the_same_pixels_as_timm(width: int, height: int, side: int, crop: float, filter_: str, mode: str) -> None:
    rule = Preprocessing((side, side), crop, mode, filter_)
    picture = Image.fromarray(structured_images(1, (height, width), width)[0])
    found = normalise(to_model_size(picture, rule)[None], rule)[0]
    np.testing.assert_allclose(found, timm_input(picture, rule), atol=2e-6)


@pytest.mark.parametrize("filter_", ["bicubic", "bilinear", "lanczos"])
def test_the_width_is_resized_first_by_every_version_of_pillow(filter_: str) -> None:
    noise = np.random.default_rng(0).integers(0, 2, (96, 64, 3), np.uint8) * 255
    picture, kind = Image.fromarray(noise), getattr(Image.Resampling, filter_.upper())
    one_by_one = picture.resize((67, 96), kind).resize((67, 67), kind)
    other_order = picture.resize((64, 67), kind).resize((67, 67), kind)
    found = to_model_size(picture, Preprocessing((67, 67), 1.0, "squash", filter_))
    assert np.array_equal(found, np.asarray(one_by_one))
    assert filter_ == "bilinear" or not np.array_equal(found, np.asarray(other_order))


@pytest.mark.parametrize("size", [(40, 80), (80, 40), (50, 50)])
def test_border_mode_as_timm(size: tuple[int, int]) -> None:
    rule = Preprocessing((32, 32), 1.0, "border", "bicubic")
    picture = Image.fromarray(structured_images(1, size)[0])
    found = normalise(to_model_size(picture, rule)[None], rule)[0]
    np.testing.assert_allclose(found, timm_input(picture, rule), atol=0.02)


def test_a_rotated_photo_is_turned_upright(tmp_path: Path) -> None:
    pixels = structured_images(1, (20, 30))[0]
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(pixels).save(tmp_path / "p.png", exif=exif)
    assert np.array_equal(np.asarray(read_picture(tmp_path / "p.png")), pixels[::-1, ::-1])


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "I;16"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    source = Image.new("I;16", (12, 10)) if mode == "I;16" else Image.new("RGB", (12, 10), "red").convert(mode)
    path = tmp_path / ("p.tiff" if mode in ("CMYK", "I;16") else "p.png")
    source.save(path)
    assert to_model_size(read_picture(path), Preprocessing((16, 16))).shape == (16, 16, 3)


def damaged(path: Path) -> Path:
    Image.fromarray(structured_images(1, (64, 64))[0]).save(path)
    path.write_bytes(path.read_bytes()[:400])
    return path


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: p, "there is no picture"),
        (lambda p: (p.write_bytes(b"") and p) or p, "empty file"),
        (lambda p: (p.write_text("not a picture"), p)[1], "not a picture"),
        (damaged, "not a picture"),
        (lambda p: (Image.new("1", (10_000, 5_001)).save(p), p)[1], "50.0 megapixels"),
    ],
)
def test_bad_pictures(tmp_path: Path, make: object, says: str) -> None:
    with pytest.raises(BadFile, match=says):
        read_picture(make(tmp_path / "p.png"))  # type: ignore[operator]


def test_the_limit_can_be_raised(tmp_path: Path) -> None:
    Image.new("L", (300, 300)).save(tmp_path / "p.png")
    with pytest.raises(BadFile):
        read_picture(tmp_path / "p.png", max_megapixels=0.01)
    assert read_picture(tmp_path / "p.png", max_megapixels=0.1).size == (300, 300)
