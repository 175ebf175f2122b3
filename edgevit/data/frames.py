"""Finds where each JPEG or PNG begins and ends in a stream of pictures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

from edgevit.errors import BadFile

MAX_FRAME = 64 << 20
"""Bytes of one picture; a stream without an end is given up."""
_CHUNK = 1 << 16
"""Most bytes taken from a stream at once (64 KiB)."""
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_EOI, _SOI, _SOS, _TEM = 0xD9, 0xD8, 0xDA, 0x01
_RESTARTS = range(0xD0, 0xD8)


class CutOff(BadFile):
    """A picture that ends before its own end marker.

    Attributes:
        used: number of bytes that belonged to it.
    """

    def __init__(self, message: str, used: int) -> None:
        super().__init__(message, cure="write whole JPEG or PNG files one after the other, or paths one a line")
        self.used = used


class _Buffer:
    """A stream with look-ahead."""

    def __init__(self, start: bytes, stream: IO[bytes]) -> None:
        self.data, self._stream, self._ended = bytearray(start), stream, False

    def has(self, count: int) -> bool:
        """Read ahead until ``count`` bytes are available; False where the stream ends before."""
        while len(self.data) < count and not self._ended:
            if len(self.data) > MAX_FRAME:
                raise CutOff(f"it has no end within {MAX_FRAME >> 20} MiB", len(self.data))
            # what is there now: the rest of a chunk may be the next frame, which a camera has not taken yet
            more = getattr(self._stream, "read1", self._stream.read)(_CHUNK)
            self._ended = not more
            self.data += more
        return len(self.data) >= count

    def take(self, count: int) -> bytes:
        """Remove and return the next bytes, which must be available."""
        taken = bytes(self.data[:count])
        del self.data[:count]
        return taken

    def need(self, count: int) -> None:
        """Like `has`, but raises an error at the end of the stream."""
        if not self.has(count):
            raise CutOff("the stream ends in the middle of it", len(self.data))


def pictures_in(start: bytes, stream: IO[bytes]) -> Iterator[bytes | CutOff]:
    """The pictures of a stream of JPEGs and PNGs, each as soon as its last byte has arrived.

    Markers are followed segment by segment: the thumbnail inside a JPEG has an end marker too. Bytes between pictures,
    such as a multipart stream's headers, are passed over.

    Args:
        start: what was read of the stream before.
        stream: the rest.

    Yields:
        A picture's bytes, or why there is none.
    """
    buffer = _Buffer(start, stream)
    while _find_start(buffer):
        try:
            length = _jpeg_length(buffer) if buffer.data.startswith(_JPEG) else _png_length(buffer)
        except CutOff as error:
            buffer.take(max(1, min(error.used, len(buffer.data))))
            yield error
            continue
        yield buffer.take(length)


def _find_start(buffer: _Buffer) -> bool:
    """Skip to the start of the next picture; False at the end of the stream."""
    while buffer.has(len(_PNG)) or buffer.has(len(_JPEG)):
        starts = [at for at in (buffer.data.find(_JPEG), buffer.data.find(_PNG)) if at >= 0]
        if starts:
            buffer.take(min(starts))
            return True
        buffer.take(max(1, len(buffer.data) - len(_PNG) + 1))  # a signature may lie across two reads
    return False


def _png_length(buffer: _Buffer) -> int:
    at = len(_PNG)
    while True:
        buffer.need(at + 8)
        size, kind = int.from_bytes(buffer.data[at : at + 4], "big"), bytes(buffer.data[at + 4 : at + 8])
        at += 12 + size
        if size > MAX_FRAME:
            raise CutOff("it has a chunk of impossible length", at - size)
        buffer.need(at)
        if kind == b"IEND":
            return at


def _jpeg_length(buffer: _Buffer) -> int:
    at = 2
    while True:
        buffer.need(at + 2)
        if buffer.data[at] != 0xFF:
            raise CutOff("it has no marker where one must be", at)
        marker = buffer.data[at + 1]
        if marker == 0xFF:  # fill bytes may stand before any marker
            at += 1
        elif marker == _EOI:
            return at + 2
        elif marker == _SOI:
            raise CutOff("another picture begins in the middle of it", at)
        elif marker in _RESTARTS or marker == _TEM:
            at += 2
        else:
            buffer.need(at + 4)
            at += 2 + int.from_bytes(buffer.data[at + 2 : at + 4], "big")
            if marker == _SOS:
                at = _scan_end(buffer, at)


def _scan_end(buffer: _Buffer, at: int) -> int:
    """The position of the marker after a scan's compressed data."""
    while True:
        buffer.need(at + 2)
        at = buffer.data.find(0xFF, at)
        if at < 0:
            at = len(buffer.data)
        elif at + 1 < len(buffer.data):
            following = buffer.data[at + 1]
            if following and following not in _RESTARTS and following != 0xFF:
                return at
            at += 1 if following == 0xFF else 2
