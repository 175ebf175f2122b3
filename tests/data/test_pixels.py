"""Whatever holds a picture becomes the same upright RGB bytes, and nothing of the host's process is touched."""

from __future__ import annotations

import io
import re
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgevit.data.images import to_model_size
from edgevit.data.pixels import PICTURE_SUFFIXES, as_picture, read_picture, readable_suffixes, to_rgb
from edgevit.errors import BadFile, UsageError
from edgevit.schema.model import Preprocessing
from edgevit.testing import structured_images

PIXELS = structured_images(1, (20, 30))[0]
TURNS = {1: lambda p: p, 3: lambda p: p[::-1, ::-1], 6: lambda p: np.rot90(p, -1), 8: lambda p: np.rot90(p), 5: None}


def turned_jpeg(orientation: int) -> bytes:
    exif, out = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).save(out, "JPEG", quality=100, subsampling=0, exif=exif)
    return out.getvalue()


def upright(orientation: int) -> np.ndarray[Any, Any]:
    stored = np.asarray(Image.open(io.BytesIO(turned_jpeg(1))))
    turn = TURNS[orientation]
    return np.swapaxes(stored, 0, 1) if turn is None else turn(stored)


@pytest.mark.parametrize("orientation", sorted(TURNS))
def test_a_picture_is_turned_once_however_it_comes(tmp_path: Path, orientation: int) -> None:
    data = turned_jpeg(orientation)
    (tmp_path / "p.jpg").write_bytes(data)
    ways: list[Any] = [
        tmp_path / "p.jpg",
        str(tmp_path / "p.jpg"),
        data,
        io.BytesIO(data),
        Image.open(io.BytesIO(data)),
    ]
    ways += [read_picture(tmp_path / "p.jpg"), Image.open(io.BytesIO(data)).convert("RGB")]
    for given in ways:
        assert np.array_equal(np.asarray(as_picture(given)), upright(orientation)), type(given)
    rule = Preprocessing((16, 16), 1.0, "squash")
    expected = to_model_size(Image.fromarray(upright(orientation)), rule)
    assert np.array_equal(to_model_size(Image.open(io.BytesIO(data)), rule), expected)
    assert np.array_equal(to_model_size(to_rgb(Image.open(io.BytesIO(data))), rule), expected)


def test_a_damaged_exif_block_is_ignored() -> None:
    out = io.BytesIO()
    Image.fromarray(PIXELS).save(out, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert as_picture(out.getvalue()).size == (30, 20)


GREY16 = (np.arange(600, dtype=np.uint32).reshape(20, 30) * 109).astype(np.uint16)


@pytest.mark.parametrize("name", ["p.png", "p.tif", "big.tif", "p.pgm", "p.jp2"])
def test_sixteen_bit_grey_is_its_upper_byte(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "big.tif":  # the other order of bytes
        Image.frombytes("I;16B", (30, 20), GREY16.astype(">u2").tobytes()).save(path)
    elif name == "p.jp2":
        Image.fromarray(GREY16).save(path, irreversible=False)
    else:
        Image.fromarray(GREY16).save(path)
    expected = np.repeat((GREY16 >> 8).astype(np.uint8)[..., None], 3, axis=2)
    assert np.array_equal(np.asarray(read_picture(path)), expected)
    assert np.array_equal(np.asarray(to_rgb(Image.open(path))), expected)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_an_agreed_range_are_refused_by_name(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (4, 4)).save(tmp_path / "p.tif")
    with pytest.raises(BadFile, match=r"pixels, which have no agreed range"):
        read_picture(tmp_path / "p.tif")


def test_alpha_is_dropped_and_the_colour_below_it_kept(tmp_path: Path) -> None:
    rgba = np.dstack([PIXELS, np.zeros((20, 30), np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "p.png")
    assert np.array_equal(np.asarray(read_picture(tmp_path / "p.png")), PIXELS)
    grey = np.dstack([PIXELS[..., 0], np.zeros((20, 30), np.uint8)])
    Image.fromarray(grey, "LA").save(tmp_path / "la.png")
    assert np.array_equal(np.asarray(read_picture(tmp_path / "la.png")), np.repeat(grey[..., :1], 3, 2))
    palette = Image.fromarray(PIXELS).quantize(16)
    palette.save(tmp_path / "pal.png", transparency=bytes(16))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(np.asarray(read_picture(tmp_path / "pal.png")), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize(
    ("name", "options"), [("a.gif", {}), ("a.png", {}), ("a.webp", {"lossless": True}), ("a.tif", {})]
)
def test_of_several_frames_the_first_counts(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime")]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
    assert read_picture(tmp_path / name).getpixel((0, 0)) == (255, 0, 0)


def test_the_limit_of_the_process_is_neither_read_nor_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (400, 300)).save(tmp_path / "p.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow itself would raise DecompressionBombError
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_picture(tmp_path / "p.png").size == (400, 300)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 70_000)  # it would warn
        assert read_picture(tmp_path / "p.png").size == (400, 300)
    seen = set()

    def work() -> None:
        for _ in range(20):
            read_picture(tmp_path / "p.png")
            seen.add(Image.MAX_IMAGE_PIXELS)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {70_000}


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (PIXELS, PIXELS),
        (PIXELS[..., 0], np.repeat(PIXELS[..., :1], 3, 2)),
        (PIXELS[..., :1], np.repeat(PIXELS[..., :1], 3, 2)),
        (np.dstack([PIXELS, PIXELS[..., 0]]), PIXELS),
        (PIXELS[::-1, ::2], PIXELS[::-1, ::2]),
    ],
)
def test_arrays(array: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> None:
    assert np.array_equal(np.asarray(as_picture(array)), expected)


def test_a_tensor_is_an_array() -> None:
    import torch

    assert np.array_equal(np.asarray(as_picture(torch.from_numpy(PIXELS))), PIXELS)
    with pytest.raises(UsageError, match=r"detach\(\).cpu\(\)"):
        as_picture(torch.zeros(2, 2, 3, requires_grad=True))


@pytest.mark.parametrize(
    ("array", "cure"),
    [
        (PIXELS / 255, r"array \* 255"),
        (PIXELS.astype(np.uint16), ">> 8"),
        (PIXELS > 3, r"\* 255"),
        (PIXELS.astype(np.int64), "astype"),
        (PIXELS.transpose(2, 0, 1), r"transpose\(1, 2, 0\)"),
        (PIXELS[None], r"list\(array\)"),
        (np.zeros((0, 4, 3), np.uint8), "give uint8"),
        (np.zeros((5, 6, 2), np.uint8), "give uint8"),
        (object(), "give a path"),
        (None, "give a path"),
    ],
)
def test_other_arrays_are_refused_by_name(array: Any, cure: str) -> None:
    with pytest.raises(UsageError) as caught:
        as_picture(array)
    assert re.search(cure, caught.value.cure), caught.value.cure


def test_what_cannot_be_decoded_here_says_so(tmp_path: Path) -> None:
    path = tmp_path / "IMG_0001.HEIC"
    path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    assert ".heic" in PICTURE_SUFFIXES - readable_suffixes()
    with pytest.raises(BadFile, match="heic pictures cannot be decoded"):
        read_picture(path)


@pytest.mark.parametrize("suffix", [".avif", ".jfif", ".jpe", ".ppm", ".jp2", ".tga", ".webp", ".bmp", ".tiff", ".gif"])
def test_every_suffix_that_is_called_readable_is_read(tmp_path: Path, suffix: str) -> None:
    if suffix not in readable_suffixes():
        pytest.skip(f"this Pillow has no {suffix}")
    Image.fromarray(PIXELS).save(tmp_path / f"p{suffix}")
    assert read_picture(tmp_path / f"p{suffix}").size == (30, 20)


def test_a_program_is_not_started_for_a_picture(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "p.eps")
    (tmp_path / "p.eps").rename(tmp_path / "p.png")  # Pillow would call Ghostscript
    with pytest.raises(BadFile, match="not a picture"):
        read_picture(tmp_path / "p.png")


def test_a_folder_is_not_a_picture(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="is a folder, not a picture"):
        as_picture(tmp_path)
