"""Standard input as a source: one picture after the other, found by the structure of the files."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgevit.data.capture import captured_pictures
from edgevit.errors import BadFile
from edgevit.testing import structured_images

PIXELS = structured_images(1, (40, 60))[0]


def encoded(kind: str = "JPEG", **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(PIXELS).save(out, kind, **options)
    return out.getvalue()


def with_thumbnail(orientation: int = 1) -> bytes:
    """A JPEG as cameras write it: a whole smaller JPEG inside its EXIF block."""
    small = io.BytesIO()
    Image.fromarray(PIXELS[::4, ::4]).save(small, "JPEG")
    exif = Image.Exif()
    exif[0x0112] = orientation
    block = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0") + small.getvalue()
    plain = encoded()
    return plain[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + plain[2:]


class Pipe(io.RawIOBase):
    """Gives a few bytes at a time, as a pipe does, and says how many were asked for before each frame came."""

    def __init__(self, data: bytes, step: int) -> None:
        self.data, self.step, self.at = data, step, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        count = min(self.step, len(view), len(self.data) - self.at)
        view[:count] = self.data[self.at : self.at + count]
        self.at += count
        return count


@pytest.fixture
def feed(monkeypatch: pytest.MonkeyPatch) -> object:
    def give(data: bytes, step: int = 1000) -> Pipe:
        pipe = Pipe(data, step)
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(pipe, 16)))
        return pipe

    return give


def sizes(pictures: Iterator[tuple[str, Image.Image]]) -> list[tuple[int, int]]:
    return [picture.size for _, picture in pictures]


@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_frames_of_every_make(feed: object, step: int) -> None:
    makes = [
        with_thumbnail(),
        encoded(progressive=True),
        encoded(restart_marker_blocks=1),
        encoded("PNG"),
        encoded(comment=b"\xff\xd9 \xff\xd8\xff\xd9"),
        encoded(quality=100),
    ]
    feed(b"".join(makes), step)  # type: ignore[operator]
    assert sizes(captured_pictures("-")) == [(60, 40)] * len(makes)


def test_bytes_between_frames_are_passed_over(feed: object) -> None:
    part = b"--frame\r\nContent-Type: image/jpeg\r\n\r\n"
    feed(encoded() + b"\r\n" + part + encoded() + bytes(300) + encoded("PNG") + b"\r\n--frame--")  # type: ignore[operator]
    assert sizes(captured_pictures("-")) == [(60, 40)] * 3


def test_a_turned_frame_is_turned_upright(feed: object) -> None:
    feed(with_thumbnail(orientation=6))  # type: ignore[operator]
    [(name, picture)] = captured_pictures("-")
    assert name == "frame 0"
    stored = np.asarray(Image.open(io.BytesIO(encoded())))
    assert np.array_equal(np.asarray(picture), np.rot90(stored, -1))


def test_a_frame_comes_as_soon_as_its_last_byte(feed: object) -> None:
    first = with_thumbnail()
    pipe = feed(first + encoded(), 64)  # type: ignore[operator]
    assert next(captured_pictures("-"))[1].size == (60, 40)
    assert pipe.at < len(first) + 128


def test_frames_that_are_cut_off_are_told_of_and_the_next_ones_read(feed: object) -> None:
    whole = encoded(quality=100)
    feed(whole[: len(whole) // 2] + whole + whole[:-300])  # type: ignore[operator]
    said: list[str] = []
    assert sizes(captured_pictures("-", lambda name, error: said.append(error.message))) == [(60, 40)]
    assert said == [
        "frame 0 is not a whole picture: another picture begins in the middle of it",
        "frame 2 is not a whole picture: the stream ends in the middle of it",
    ]


def test_the_further_images_of_one_file_are_no_frames(feed: object) -> None:
    out = io.BytesIO()
    views = [Image.fromarray(PIXELS[:, :width]) for width in (60, 50)]
    views[0].save(out, "MPO", save_all=True, append_images=views[1:])
    feed(out.getvalue() + encoded("PNG"))  # type: ignore[operator]
    assert sizes(captured_pictures("-")) == [(60, 40), (60, 40)]


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "TIFF"])
def test_any_other_picture_alone(feed: object, kind: str) -> None:
    feed(encoded(kind))  # type: ignore[operator]
    assert sizes(captured_pictures("-")) == [(60, 40)]


def test_paths_one_a_line(feed: object, tmp_path: Path) -> None:
    for name in ("a b .png", "c.png"):
        Image.fromarray(PIXELS).save(tmp_path / name)
    lines = f"\ufeff{tmp_path / 'a b .png'}\r\n\n{tmp_path}/no.png\n{tmp_path / 'c.png'}"
    feed(lines.encode())  # type: ignore[operator]
    said: list[str] = []
    found = [name for name, _ in captured_pictures("-", lambda name, error: said.append(name))]
    assert [Path(name).name for name in found] == ["a b .png", "c.png"]
    assert [Path(name).name for name in said] == ["no.png"]


def test_nothing_on_standard_input_and_no_such_source(feed: object, tmp_path: Path) -> None:
    feed(b"")  # type: ignore[operator]
    with pytest.raises(BadFile, match="standard input is empty"):
        list(captured_pictures("-", lambda name, error: None))
    with pytest.raises(BadFile, match="there is no picture or folder"):
        list(captured_pictures(str(tmp_path / "nowhere"), lambda name, error: None))
