"""Calibration pictures, good and bad."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgevit.errors import BadFile, UsageError
from edgevit.quant.calibration import read_pictures
from edgevit.quant.options import QuantizeOptions, parse_bits, parse_budget
from edgevit.schema.model import Preprocessing
from edgevit.testing import structured_images

RULE = Preprocessing(size=(32, 32), crop_pct=1.0)


def folder_of(tmp_path: Path, count: int) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, pixels in enumerate(structured_images(count, (40, 48))):
        Image.fromarray(pixels).save(folder / f"{index:02}.png")
    return folder


def test_a_seed_decides_which(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 12)
    first, again, other = (read_pictures(str(folder), RULE, wanted=8, seed=seed) for seed in (0, 0, 1))
    assert first.pixels.shape == (8, 32, 32, 3)
    assert np.array_equal(first.pixels, again.pixels)
    assert first.info.sha256 == again.info.sha256 != other.info.sha256
    assert first.info.source == "pictures"


def test_an_empty_folder_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadFile, match="no pictures"):
        read_pictures(str(tmp_path / "empty"), RULE)


def test_fewer_than_asked_and_one_alone_are_taken_with_a_warning(tmp_path: Path) -> None:
    said: list[str] = []
    found = read_pictures(str(folder_of(tmp_path, 1)), RULE, wanted=32, warn=said.append)
    assert len(found) == 1
    assert any("has 1 pictures, not the 32" in one for one in said)
    assert any("few" in one for one in said)


def test_grey_palette_cmyk_and_animated_pictures_become_rgb(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 1)
    pixels = Image.fromarray(structured_images(1, (40, 40), 4)[0])
    pixels.convert("L").save(folder / "grey.png")
    pixels.convert("P").save(folder / "palette.png")
    pixels.convert("CMYK").save(folder / "print.jpg")
    pixels.convert("RGBA").save(folder / "alpha.png")
    Image.new("RGB", (40, 40), "red").save(
        folder / "moving.gif", save_all=True, append_images=[Image.new("RGB", (40, 40), "blue")]
    )
    found = read_pictures(str(folder), RULE, wanted=32)
    assert len(found) == 6
    red = [one for one in found.pixels if one[..., 0].min() > 200 and one[..., 2].max() < 60]
    assert len(red) == 1, "of an animation the first frame counts"


def test_unreadable_pictures_are_named_counted_and_skipped_up_to_a_share(tmp_path: Path) -> None:
    folder, said = folder_of(tmp_path, 19), list[str]()
    (folder / "broken.jpg").write_bytes(b"not a picture")
    found = read_pictures(str(folder), RULE, wanted=32, warn=said.append)
    assert (len(found), found.info.skipped) == (19, 1)
    assert any("broken.jpg" in one for one in said)
    for index in range(4):
        (folder / f"cut{index}.png").write_bytes((folder / "00.png").read_bytes()[:60])
    with pytest.raises(BadFile, match=r"5 of 24 pictures cannot be read") as caught:
        read_pictures(str(folder), RULE, wanted=32)
    assert "broken.jpg" in caught.value.where or "cut" in caught.value.where
    assert "--max-unreadable" in caught.value.cure
    assert len(read_pictures(str(folder), RULE, wanted=32, most_unreadable=0.5)) == 19


def test_plain_colours_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    for index, colour in enumerate(("red", "white", "black")):
        Image.new("RGB", (40, 40), colour).save(folder / f"{index}.png")
    with pytest.raises(BadFile, match="one plain colour"):
        read_pictures(str(folder), RULE)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (QuantizeOptions(None), "without pictures"),
        (QuantizeOptions("nowhere"), "no folder nowhere"),
        (QuantizeOptions("digits:train", images=0), "0 pictures"),
        (QuantizeOptions("digits:train", floor=98), "not a share"),
    ],
)
def test_options_that_cannot_work(options: QuantizeOptions, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        options.check()


@pytest.mark.parametrize("text", ["8", "w9a8", "int8", "w8a8-static", "w6a6-dynamic"])
def test_bits_that_make_no_sense(text: str) -> None:
    with pytest.raises(UsageError, match="not understood"):
        parse_bits(text)


def test_bits_and_budgets() -> None:
    assert (parse_bits("w6a4").weights, parse_bits("w6a4").activations) == (6, 4)
    assert parse_bits("w4").activations is None and not parse_bits("w4").dynamic
    assert parse_bits("w8a8-dynamic").dynamic
    assert parse_budget("size=1.25").factor == 1.25
    for text in ("size", "speed=2", "latency=0.9"):
        with pytest.raises(UsageError, match="not understood"):
            parse_budget(text)
