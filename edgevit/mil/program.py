"""Parses an ML Program from a Core ML specification (protobuf); nothing is executed.

Field numbers are those of ``MIL.proto`` in coremltools. Reading them here keeps coremltools, whose
import takes seconds, out of everything that only inspects or evaluates a package.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgevit.core.binary import Buffer, fields, messages, string, varints
from edgevit.errors import BadFile
from edgevit.mil.dtypes import DType, decode, dtype_of

T = TypeVar("T")
Array = NDArray[np.generic]


@dataclass(frozen=True)
class TensorType:
    """Element type and shape of a tensor; a dimension that is not fixed is None."""

    dtype: DType
    shape: tuple[int | None, ...]

    def holds(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of a shape is of this type."""
        return len(shape) == len(self.shape) and all(
            w is None or g == w for g, w in zip(shape, self.shape, strict=True)
        )


@dataclass(frozen=True)
class InFile:
    """A constant that is stored in the weight file."""

    file: str
    offset: int
    type: TensorType


Constant = Array | str | list["Constant"] | InFile
"""A value written into the program: a tensor, a string, a list of either, or a place in the weight file."""


@dataclass(frozen=True)
class Name:
    """A value that another operation produced."""

    name: str


Binding = Name | Array | str | list[Constant] | InFile


@dataclass(frozen=True)
class Output:
    """One result of an operation; ``type`` is None where it is no tensor."""

    name: str
    type: TensorType | None


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        type: the operator, e.g. ``conv``.
        inputs: its parameters; one that takes several values has several bindings.
        outputs: its results.
        attributes: constants that some operators carry instead of inputs; ``name`` among them.
        blocks: number of nested blocks (control flow).
    """

    type: str
    inputs: dict[str, tuple[Binding, ...]]
    outputs: tuple[Output, ...]
    attributes: dict[str, Constant]
    blocks: int

    @property
    def name(self) -> str:
        """The name of its first result, which messages show."""
        return self.outputs[0].name if self.outputs else self.type


@dataclass(frozen=True)
class Function:
    """A function: inputs, operations in order, and names of the outputs."""

    name: str
    opset: str
    inputs: tuple[Output, ...]
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]


def _entries(data: Buffer, number: int, read: Callable[[Buffer], T]) -> dict[str, T]:
    """A protobuf field of type ``map<string, message>`` as a dictionary of decoded messages."""
    return {string(entry, 1): read(next(messages(entry, 2), memoryview(b""))) for entry in messages(data, number)}


def _integer(data: Buffer, number: int) -> int:
    return next((value for found, value in fields(data) if found == number and isinstance(value, int)), 0)


def _dimension(data: Buffer) -> int | None:
    constant = next(messages(data, 1), None)
    return None if constant is None else _integer(constant, 1)


def _tensor_type(data: Buffer) -> TensorType:
    return TensorType(dtype_of(_integer(data, 1)), tuple(_dimension(one) for one in messages(data, 3)))


def _value_type(data: Buffer) -> TensorType | None:
    tensor = next(messages(data, 1), None)
    return None if tensor is None else _tensor_type(tensor)


def _output(data: Buffer) -> Output:
    return Output(string(data, 1), _value_type(next(messages(data, 2), memoryview(b""))))


def _floats(data: Buffer, storage: str) -> list[float]:
    return [value for one in messages(data, 1) for value in np.frombuffer(one, storage).tolist()]


_IMMEDIATE: dict[int, Callable[[Buffer], list[float] | list[int]]] = {
    1: lambda data: _floats(data, "<f4"),
    2: lambda data: varints(data, 1),
    3: lambda data: varints(data, 1),
    5: lambda data: varints(data, 1),
    6: lambda data: _floats(data, "<f8"),
}


def _fixed(type_: TensorType) -> tuple[int, ...]:
    if any(size is None for size in type_.shape):
        raise BadFile("a constant of the program has no fixed shape")
    return tuple(size for size in type_.shape if size is not None)


def _immediate_tensor(data: Buffer, type_: TensorType) -> Constant:
    shape = _fixed(type_)
    number, payload = next(((n, v) for n, v in fields(data) if isinstance(v, memoryview)), (0, memoryview(b"")))
    if type_.dtype.name == "string":
        texts = [bytes(one).decode("utf-8", "replace") for one in messages(payload, 1)]
        if len(texts) != math.prod(shape):
            raise BadFile("a string constant of the program is incomplete")
        return list[Constant](texts) if shape else texts[0]
    if number == 7:
        return decode(next(messages(payload, 1), memoryview(b"")), type_.dtype, shape)
    values = _IMMEDIATE[number](payload) if number in _IMMEDIATE else []
    if len(values) != math.prod(shape):
        raise BadFile(f"a constant of the program has {len(values)} values for the shape {list(shape)}")
    return np.array(values).astype(type_.dtype.storage).reshape(shape)


def _value(data: Buffer) -> Constant:
    type_ = _value_type(next(messages(data, 2), memoryview(b"")))
    in_file = next(messages(data, 5), None)
    if in_file is not None:
        if type_ is None:
            raise BadFile("a weight of the program has no tensor type")
        return InFile(string(in_file, 1), _integer(in_file, 2), type_)
    immediate = next(messages(data, 3), memoryview(b""))
    listed = next(messages(immediate, 3), None)
    if listed is not None:
        return [_value(one) for one in messages(listed, 1)]
    tensor = next(messages(immediate, 1), None)
    if tensor is None:
        return []
    if type_ is None:
        raise BadFile("a constant of the program has no tensor type")
    return _immediate_tensor(tensor, type_)


def _binding(data: Buffer) -> Binding:
    value = next(messages(data, 2), None)
    return Name(string(data, 1)) if value is None else _value(value)


def _operation(data: Buffer) -> Operation:
    return Operation(
        type=string(data, 1),
        inputs=_entries(data, 2, lambda argument: tuple(_binding(one) for one in messages(argument, 1))),
        outputs=tuple(_output(one) for one in messages(data, 3)),
        attributes=_entries(data, 5, _value),
        blocks=sum(1 for _ in messages(data, 4)),
    )


def read_function(program: Buffer, name: str) -> Function:
    """One function of a ``Program`` message.

    Raises:
        BadFile: there is no such function, or the message is damaged.
    """
    for entry in messages(program, 2):
        if string(entry, 1) != name:
            continue
        body = next(messages(entry, 2), memoryview(b""))
        opset = string(body, 2)
        blocks = _entries(body, 3, lambda block: block)
        if opset not in blocks:
            raise BadFile(f"the program's function {name!r} has no body for its operator set {opset!r}")
        block = blocks[opset]
        return Function(
            name=name,
            opset=opset,
            inputs=tuple(_output(one) for one in messages(body, 1)),
            operations=tuple(_operation(one) for one in messages(block, 3)),
            outputs=tuple(bytes(one).decode("utf-8", "replace") for one in messages(block, 2)),
        )
    raise BadFile(f"the program has no function {name!r}")
