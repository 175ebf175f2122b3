"""The data types of ML Programs: how each is stored in a file and held in torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgevit.errors import BadFile

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DType:
    """One data type.

    Attributes:
        name: as MIL writes it, e.g. ``fp16``.
        number: in MIL's ``DataType`` enumeration.
        blob: in the weight file's record headers, 0 where it cannot occur there.
        bits: of one stored element.
        storage: numpy type of stored elements; sub-byte integers are unpacked into it.
        holder: name of the torch type that holds values in memory.
    """

    name: str
    number: int
    blob: int
    bits: int
    storage: str
    holder: str

    @property
    def is_float(self) -> bool:
        """Whether values are real numbers."""
        return self.name in ("fp16", "fp32", "fp64")

    @property
    def is_integer(self) -> bool:
        """Whether values are integers."""
        return "int" in self.name

    @property
    def signed(self) -> bool:
        """Whether an integer type has a sign."""
        return not self.name.startswith("u")

    @property
    def bounds(self) -> tuple[int, int]:
        """Smallest and largest value of an integer type."""
        return (-(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1) if self.signed else (0, (1 << self.bits) - 1)

    @property
    def held_exactly(self) -> bool:
        """Whether the torch type has exactly the same values, so that arithmetic in it wraps as it should."""
        return np.dtype(self.storage).name == self.holder and np.dtype(self.storage).itemsize * 8 == self.bits

    @cached_property
    def torch(self) -> torch.dtype:
        """The torch type that holds values in memory."""
        import torch

        return getattr(torch, self.holder)


_TABLE = (
    DType("bool", 1, 0, 8, "?", "bool"),
    DType("string", 2, 0, 0, "U", "uint8"),
    DType("fp16", 10, 1, 16, "<f2", "float16"),
    DType("fp32", 11, 2, 32, "<f4", "float32"),
    DType("fp64", 12, 0, 64, "<f8", "float64"),
    DType("int8", 21, 4, 8, "<i1", "int8"),
    DType("int16", 22, 6, 16, "<i2", "int16"),
    DType("int32", 23, 14, 32, "<i4", "int32"),
    DType("int64", 24, 0, 64, "<i8", "int64"),
    DType("int4", 25, 8, 4, "<i1", "int8"),
    DType("uint8", 31, 3, 8, "<u1", "uint8"),
    DType("uint16", 32, 7, 16, "<u2", "int32"),
    DType("uint32", 33, 15, 32, "<u4", "int64"),
    DType("uint64", 34, 0, 64, "<u8", "int64"),
    DType("uint4", 35, 11, 4, "<u1", "uint8"),
    DType("uint2", 36, 10, 2, "<u1", "uint8"),
    DType("uint1", 37, 9, 1, "<u1", "uint8"),
    DType("uint6", 38, 13, 6, "<u1", "uint8"),
    DType("uint3", 39, 12, 3, "<u1", "uint8"),
)
DTYPES = {one.number: one for one in _TABLE}
BY_BLOB = {one.blob: one for one in _TABLE if one.blob}


def dtype_of(number: int) -> DType:
    """The data type with a number of MIL's enumeration.

    Raises:
        BadFile: ML Programs have no such type, or it is one that no exported model uses.
    """
    if number not in DTYPES:
        raise BadFile(f"the program uses the data type {number}, which edgevit does not know")
    return DTYPES[number]


def unpack(raw: bytes | memoryview, bits: int, count: int, *, signed: bool) -> NDArray[np.integer]:
    """Unpack integers of fewer than eight bits, packed from the least significant bit upwards.

    Args:
        raw: the packed bytes.
        bits: of one integer, 1 to 7.
        count: how many.
        signed: two's complement.

    Returns:
        int8 or uint8 [count].

    Raises:
        BadFile: there are too few bytes.
    """
    data = np.frombuffer(raw, np.uint8)
    if len(data) * 8 < count * bits:
        raise BadFile(f"{len(data)} bytes are too few for {count} values of {bits} bits")
    each = np.unpackbits(data, bitorder="little")[: count * bits].reshape(count, bits).astype(np.int16)
    values = (each << np.arange(bits, dtype=np.int16)).sum(axis=1, dtype=np.int16)
    if signed:
        values = np.where(values >= 1 << (bits - 1), values - (1 << bits), values)
    return values.astype(np.int8 if signed else np.uint8)


def decode(raw: bytes | memoryview, dtype: DType, shape: tuple[int, ...]) -> NDArray[np.generic]:
    """Decode a stored tensor.

    Args:
        raw: little-endian elements in row-major order; more bytes than needed are padding.
        dtype: of the elements.
        shape: of the tensor.

    Raises:
        BadFile: there are too few bytes.
    """
    count = int(np.prod(shape, dtype=np.int64))
    if 0 < dtype.bits < 8:
        return unpack(raw, dtype.bits, count, signed=dtype.signed).reshape(shape)
    needed = count * dtype.bits // 8
    if len(raw) < needed:
        raise BadFile(f"{len(raw)} bytes are too few for a tensor of shape {shape} and type {dtype.name}")
    return np.frombuffer(raw[:needed], dtype.storage).reshape(shape)
