"""Reads pictures from a source: a folder, a picture, a camera, a video, or standard input."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING

from edgevit.data.folders import Skip, picture_paths, refuse
from edgevit.data.frames import MAX_FRAME, CutOff, pictures_in
from edgevit.data.pixels import decode_picture, read_picture
from edgevit.errors import BadFile, DeviceUnreachable, MissingDependency, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

VIDEO = frozenset({".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v"})
MAX_HEADER = 1 << 18
"""Bytes at a JPEG's start that its index of further images is looked for in."""
_CAMERA_SIZE = (640, 480)
"""(width, height) in pixels asked of a camera; pictures are then resized to the model's input."""


def is_live(source: str) -> bool:
    """Whether a source delivers images at its own pace, so that a late one is worth less than the next."""
    return source.partition(":")[0] == "camera"


def captured_pictures(source: str, skip: Skip = refuse) -> Iterator[tuple[str, Picture]]:
    """All pictures of a source with their names, RGB and upright.

    Args:
        source: a folder, a picture, a video file, ``camera``, ``camera:1``, or ``-``: paths one a line, a stream of
            JPEG frames as ``rpicam-vid --codec mjpeg -o -`` writes it, or any picture file. A camera is read with
            picamera2 where that is installed (Raspberry Pi OS), otherwise with OpenCV (V4L2).
        skip: called for pictures that cannot be read; without it the first one is an error.

    Raises:
        BadFile: it cannot be read.
        DeviceUnreachable: no camera answers.
        MissingDependency: a camera or video without OpenCV.
        UsageError: ``camera:`` with something else than a number.
    """
    path = Path(source)
    if source == "-":
        yield from _standard_input(sys.stdin.buffer, skip)
    elif is_live(source):
        yield from _camera(source)
    elif path.suffix.lower() in VIDEO:
        yield from _video(path)
    elif not path.exists():
        raise BadFile(f"there is no picture or folder {path}")
    else:
        for one in picture_paths(path) if path.is_dir() else [path]:
            yield from _or_skipped(str(one), lambda name: read_picture(Path(name)), skip)


def _standard_input(stream: IO[bytes], skip: Skip) -> Iterator[tuple[str, Picture]]:
    start = stream.read(4)
    if not start:
        raise BadFile("standard input is empty", cure="write paths one a line, or JPEG or PNG files, into it")
    if start[:2] == b"\xff\xd8" or start == b"\x89PNG":
        yield from _stream(start, stream, skip)
    elif _is_other_picture(start):
        yield from _or_skipped("standard input", partial(_decoded, start + stream.read(MAX_FRAME)), skip)
    else:
        text = io.TextIOWrapper(io.BufferedReader(_Joined(start, stream)), encoding="utf-8", errors="surrogateescape")
        for line in text:
            name = line.rstrip("\r\n").removeprefix("\ufeff")
            if name.strip():
                yield from _or_skipped(name, lambda name: read_picture(Path(name)), skip)


def _is_other_picture(start: bytes) -> bool:
    """Whether the first four bytes are those of a picture that is neither JPEG nor PNG; no path holds a zero byte."""
    return start in (b"RIFF", b"GIF8", b"qoif") or b"\0" in start


def _or_skipped(name: str, read: Callable[[str], Picture], skip: Skip) -> Iterator[tuple[str, Picture]]:
    """Yields one picture with its name, or nothing where it cannot be read."""
    try:
        picture = read(name)
    except BadFile as error:
        skip(name, error)
        return
    yield name, picture


class _Joined(io.RawIOBase):
    """A stream with bytes that were read already put back in front."""

    def __init__(self, start: bytes, rest: IO[bytes]) -> None:
        self._start, self._rest = start, rest

    def readable(self) -> bool:
        """Always True, as the stream interface of `io` demands."""
        return True

    def readinto(self, buffer: object) -> int:
        """Fill a buffer, as `io.RawIOBase` demands."""
        view = memoryview(buffer)  # type: ignore[arg-type]
        data, self._start = (self._start, b"") if self._start else (self._rest.readline(len(view)), b"")
        view[: len(data)] = data
        return len(data)


def _stream(start: bytes, stream: IO[bytes], skip: Skip) -> Iterator[tuple[str, Picture]]:
    """The frames of a stream; further images inside one file (MPF: gain maps, other views) are passed over."""
    inner = 0
    for number, frame in enumerate(pictures_in(start, stream)):
        if inner:
            inner -= 1
            continue
        name = f"frame {number}"
        if isinstance(frame, CutOff):
            skip(name, BadFile(f"{name} is not a whole picture: {frame.message}", cure=frame.cure))
            continue
        inner = _further_images(frame)
        yield from _or_skipped(name, partial(_decoded, frame), skip)


def _further_images(frame: bytes) -> int:
    """The number of images that follow a JPEG in the same file, by its multi-picture index."""
    if b"MPF\0" not in frame[:MAX_HEADER]:
        return 0
    from PIL import Image

    try:
        with Image.open(io.BytesIO(frame), formats=("JPEG",)) as picture:
            return max(0, getattr(picture, "n_frames", 1) - 1)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return 0


def _decoded(data: bytes, name: str) -> Picture:
    return decode_picture(io.BytesIO(data), name)


def _camera(source: str) -> Iterator[tuple[str, Picture]]:
    number = source.partition(":")[2] or "0"
    if not number.isdecimal():
        raise UsageError(f"{source!r} names no camera", cure="camera is the first, camera:1 the second")
    name = f"camera {number}"
    yield from _pi_camera(int(number), name) if find_spec("picamera2") else _captured(int(number), name)


def _pi_camera(number: int, name: str) -> Iterator[tuple[str, Picture]]:
    """Frames of a camera module through picamera2.

    Tested with a stand-in that has the same calls, not on a real camera.
    """
    from picamera2 import Picamera2
    from PIL import Image

    try:
        camera = Picamera2(number)
    except (IndexError, RuntimeError) as error:
        raise DeviceUnreachable(
            f"{name} does not answer: {error}", cure="rpicam-hello --list-cameras shows those that are connected"
        ) from error
    try:
        # What libcamera calls BGR888 lies in memory as red, green, blue.
        camera.configure(camera.create_video_configuration(main={"size": _CAMERA_SIZE, "format": "BGR888"}))
        camera.start()
        frame = 0
        while True:
            yield f"{name} frame {frame}", Image.fromarray(camera.capture_array("main"))
            frame += 1
    finally:
        camera.close()


def _video(path: Path) -> Iterator[tuple[str, Picture]]:
    if not path.is_file():
        raise BadFile(f"there is no video {path}")
    yield from _captured(str(path), path.name)


def _captured(what: int | str, name: str) -> Iterator[tuple[str, Picture]]:
    try:
        import cv2
    except ImportError as error:
        raise MissingDependency("opencv-python-headless", "a camera or a video", extra="camera") from error
    from PIL import Image

    capture = cv2.VideoCapture(what)
    try:
        if not capture.isOpened():
            if isinstance(what, int):
                raise DeviceUnreachable(
                    f"{name} does not answer",
                    cure="--input camera:1 is another; or rpicam-vid ... -o - | ... --input -",
                )
            raise BadFile("the video cannot be read", where=what)
        number = 0
        while True:
            there, pixels = capture.read()
            if not there:
                return
            yield f"{name} frame {number}", Image.fromarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
            number += 1
    finally:
        capture.release()
