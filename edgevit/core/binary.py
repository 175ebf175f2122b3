"""Read-only walks over FlatBuffers and protobuf files, without their toolchains.

Enough to find the embedded manifest and the operators of a model file on a device that has no
converter installed. Every offset is checked: a damaged file gives `BadFile`, never a crash.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from edgevit.errors import BadFile

Buffer = bytes | memoryview
T = TypeVar("T")


@dataclass(frozen=True)
class Table:
    """A FlatBuffers table; fields are numbered as in the schema, from 0."""

    data: Buffer
    at: int

    def _field(self, number: int) -> int | None:
        vtable = self.at - _signed(self.data, self.at)
        slot = 4 + 2 * number
        if slot >= _unsigned(self.data, vtable, 2):
            return None
        offset = _unsigned(self.data, vtable + slot, 2)
        return self.at + offset if offset else None

    def integer(self, number: int, width: int = 4, default: int = 0) -> int:
        """An unsigned scalar of ``width`` bytes."""
        at = self._field(number)
        return default if at is None else _unsigned(self.data, at, width)

    def table(self, number: int) -> Table | None:
        """A sub-table field, or None where it is absent."""
        at = self._field(number)
        return None if at is None else Table(self.data, at + _unsigned(self.data, at))

    def raw(self, number: int) -> bytes | None:
        """The bytes of a string or byte vector."""
        at = self._field(number)
        if at is None:
            return None
        start = at + _unsigned(self.data, at)
        length = _unsigned(self.data, start)
        if start + 4 + length > len(self.data):
            raise _damaged()
        return bytes(self.data[start + 4 : start + 4 + length])

    def integers(self, number: int, width: int = 4) -> tuple[int, ...]:
        """A vector of unsigned scalars of ``width`` bytes."""
        at = self._field(number)
        if at is None:
            return ()
        start = at + _unsigned(self.data, at)
        count = _unsigned(self.data, start)
        if start + 4 + width * count > len(self.data):
            raise _damaged()
        return tuple(_unsigned(self.data, start + 4 + width * index, width) for index in range(count))

    def text(self, number: int) -> str:
        """A string field, empty where it is absent."""
        return (self.raw(number) or b"").decode("utf-8", "replace")

    def tables(self, number: int) -> Iterator[Table]:
        """The elements of a vector of tables."""
        at = self._field(number)
        if at is None:
            return
        start = at + _unsigned(self.data, at)
        count = _unsigned(self.data, start)
        if start + 4 + 4 * count > len(self.data):
            raise _damaged()
        for index in range(count):
            slot = start + 4 + 4 * index
            yield Table(self.data, slot + _unsigned(self.data, slot))


def item(values: Sequence[T], index: int) -> T:
    """The element at an index that came from a file.

    Raises:
        BadFile: there is no such element.
    """
    if index >= len(values):
        raise _damaged()
    return values[index]


def root(data: Buffer) -> Table:
    """The root table of a FlatBuffers file."""
    return Table(data, _unsigned(data, 0))


def _unsigned(data: Buffer, at: int, width: int = 4) -> int:
    if at < 0 or at + width > len(data):
        raise _damaged()
    return int.from_bytes(data[at : at + width], "little")


def _signed(data: Buffer, at: int) -> int:
    if at < 0 or at + 4 > len(data):
        raise _damaged()
    return int(struct.unpack_from("<i", data, at)[0])


def _damaged() -> BadFile:
    return BadFile("the model file is damaged: it points outside itself")


def _varint(data: Buffer, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise _damaged()
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7


def fields(data: Buffer) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a protobuf message: (number, integer or bytes), in file order."""
    view, at = memoryview(data), 0
    while at < len(view):
        key, at = _varint(view, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(view, at)
            yield number, value
            continue
        if kind == 2:
            length, at = _varint(view, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise _damaged()
        if at + length > len(view):
            raise _damaged()
        yield number, view[at : at + length]
        at += length


def messages(data: Buffer, number: int) -> Iterator[memoryview]:
    """All length-delimited fields with a number, in file order."""
    for found, value in fields(data):
        if found == number and isinstance(value, memoryview):
            yield value


def string(data: Buffer, number: int) -> str:
    """The last string field with a number, empty where it is absent."""
    found = b""
    for value in messages(data, number):
        found = bytes(value)
    return found.decode("utf-8", "replace")


def string_map(data: Buffer, number: int) -> dict[str, str]:
    """A field of type ``map<string, string>``, or of repeated key/value messages, as a dictionary."""
    return {string(entry, 1): string(entry, 2) for entry in messages(data, number)}


def varints(data: Buffer, number: int) -> list[int]:
    """A repeated signed integer field, packed or not, as a list."""
    found: list[int] = []
    for key, value in fields(data):
        if key != number:
            continue
        if isinstance(value, int):
            found.append(value)
            continue
        at = 0
        while at < len(value):
            one, at = _varint(value, at)
            found.append(one)
    return [one - (1 << 64) if one >= 1 << 63 else one for one in found]
