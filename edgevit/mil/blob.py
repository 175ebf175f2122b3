"""Reads the weight file of an ML Program.

Layout (MIL blob storage, version 2, little-endian): a 64-byte header (uint32 count, uint32 version),
then records, each a 64-byte header (uint32 sentinel 0xDEADBEEF, uint32 type, uint64 bytes, uint64
offset of the data) and its data.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgevit.errors import BadFile
from edgevit.mil.dtypes import BY_BLOB, decode
from edgevit.mil.program import TensorType

_HEADER = 64
_SENTINEL = 0xDEADBEEF
_VERSION = 2


class WeightFile:
    """A memory-mapped weight file; every offset is checked before it is read."""

    def __init__(self, path: Path) -> None:
        """Open a weight file.

        Raises:
            BadFile: it is missing, too short, or of another version.
        """
        if not path.is_file():
            raise BadFile("the package's weight file is missing", where=str(path))
        self._path = path
        size = path.stat().st_size
        if size < _HEADER:
            raise BadFile(f"the weight file has only {size} bytes", where=str(path))
        with path.open("rb") as file:
            self._data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        version = struct.unpack_from("<II", self._data)[1]
        if version != _VERSION:
            raise BadFile(f"the weight file is of version {version}, not {_VERSION}", where=str(path))

    def read(self, offset: int, type_: TensorType) -> NDArray[np.generic]:
        """The tensor whose record starts at ``offset``.

        Args:
            offset: in bytes from the start of the file.
            type_: what the program says it is; the record must agree.

        Raises:
            BadFile: there is no such record, or it is not what the program says.
        """
        where = f"{self._path} at byte {offset}"
        if offset < _HEADER or offset + _HEADER > len(self._data):
            raise BadFile("the program points outside its weight file", where=where)
        sentinel, stored, size, start = struct.unpack_from("<IIQQ", self._data, offset)
        if sentinel != _SENTINEL:
            raise BadFile("the weight file is damaged: no record starts where the program points", where=where)
        if start + size > len(self._data):
            raise BadFile("the weight file is truncated: a record ends behind its end", where=where)
        if BY_BLOB.get(stored) != type_.dtype:
            found = BY_BLOB[stored].name if stored in BY_BLOB else f"type {stored}"
            raise BadFile(f"the weight file holds {found} where the program says {type_.dtype.name}", where=where)
        shape = tuple(size or 0 for size in type_.shape)
        try:
            return decode(self._data[start : start + size], type_.dtype, shape)
        except BadFile as error:
            raise BadFile(f"the weight file is damaged: {error.message}", where=where) from error
