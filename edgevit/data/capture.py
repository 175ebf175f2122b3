"""Where pictures come from: a folder, a picture, a camera, a video, or standard input."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING

from edgevit.data.images import picture_paths, read_picture
from edgevit.errors import BadFile, DeviceUnreachable, MissingDependency, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

VIDEO = frozenset({".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v"})
_CHUNK = 1 << 16
_JPEG, _END, _PNG = b"\xff\xd8", b"\xff\xd9", b"\x89PNG"
_MOST_FRAME = 64 << 20
_CAMERA_SIZE = (640, 480)


def is_live(source: str) -> bool:
    """Whether images come at their own pace, so that a late one is worth less than the next."""
    return source.partition(":")[0] == "camera"


def captured_pictures(source: str) -> Iterator[tuple[str, Picture]]:
    """All pictures of a source with their names, RGB and upright.

    Args:
        source: a folder, a picture, a video file, ``camera``, ``camera:1``, or ``-``: paths one a line, or a stream
            of JPEG frames as ``rpicam-vid --codec mjpeg -o -`` writes it. A camera is read with picamera2 where that
            is installed (Raspberry Pi OS), otherwise with OpenCV (V4L2).

    Raises:
        BadFile: it cannot be read.
        DeviceUnreachable: no camera answers.
        MissingDependency: a camera or video without OpenCV.
        UsageError: ``camera:`` with something else than a number.
    """
    path = Path(source)
    if source == "-":
        yield from _standard_input(sys.stdin.buffer)
    elif is_live(source):
        yield from _camera(source)
    elif path.suffix.lower() in VIDEO:
        yield from _video(path)
    else:
        for one in [path] if path.is_file() else picture_paths(path):
            yield str(one), read_picture(one)


def _standard_input(stream: IO[bytes]) -> Iterator[tuple[str, Picture]]:
    start = stream.read(4)
    if start[:2] == _JPEG:
        yield from _jpegs(start, stream)
    elif start == _PNG:
        yield "standard input", _decoded(start + stream.read(_MOST_FRAME), "standard input")
    else:
        text = io.TextIOWrapper(io.BufferedReader(_Joined(start, stream)), encoding="utf-8", errors="surrogateescape")
        for line in text:
            if line.strip():
                yield line.strip(), read_picture(Path(line.strip()))


class _Joined(io.RawIOBase):
    """A stream with the bytes already read put back before it."""

    def __init__(self, start: bytes, rest: IO[bytes]) -> None:
        self._start, self._rest = start, rest

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: object) -> int:
        """As `io.RawIOBase` has it."""
        view = memoryview(buffer)  # type: ignore[arg-type]
        data, self._start = (self._start, b"") if self._start else (self._rest.readline(len(view)), b"")
        view[: len(data)] = data
        return len(data)


def _jpegs(start: bytes, stream: IO[bytes]) -> Iterator[tuple[str, Picture]]:
    """Frames between a start and an end marker; the markers do not occur inside a frame's data."""
    buffer, number = start, 0
    while True:
        end = buffer.find(_END)
        if end < 0:
            more = stream.read1(_CHUNK) if hasattr(stream, "read1") else stream.read(_CHUNK)
            if not more:
                return
            buffer += more
            if len(buffer) > _MOST_FRAME:
                raise BadFile("a frame on standard input has no end", cure="write JPEG frames, or paths one a line")
            continue
        name = f"frame {number}"
        yield name, _decoded(buffer[buffer.find(_JPEG) : end + 2], name)
        buffer, number = buffer[end + 2 :], number + 1


def _decoded(data: bytes, name: str) -> Picture:
    from PIL import Image

    try:
        return Image.open(io.BytesIO(data), formats=("JPEG", "PNG")).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadFile(f"{name} is not an image that can be read: {error}") from error


def _camera(source: str) -> Iterator[tuple[str, Picture]]:
    number = source.partition(":")[2] or "0"
    if not number.isdecimal():
        raise UsageError(f"{source!r} names no camera", cure="camera is the first, camera:1 the second")
    name = f"camera {number}"
    yield from _pi_camera(int(number), name) if find_spec("picamera2") else _captured(int(number), name)


def _pi_camera(number: int, name: str) -> Iterator[tuple[str, Picture]]:
    """Raspberry Pi OS's own way to its camera modules. Not run on a real one by us: a stand-in has the same calls."""
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
