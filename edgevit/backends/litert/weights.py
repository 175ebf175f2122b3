"""Integer weights for TFLite operators that compute in floating point, with the recipe's scales.

The converter is given weights that lie on the grid of their code; here they become the integers that they are.
Under a fully connected operator with a float input, integer weights mean that the runtime quantizes the input as it
comes; everywhere else a DEQUANTIZE operator stands between, which XNNPACK carries out once, at load.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevit.backends.litert.boundary import converting
from edgevit.schema.recipe import Recipe, TableCode, WeightCode

_LEAST_TABLE = 4096
"""Elements of a constant from which it is stored as integers, as in `edgevit.graph.qdq.constant_tables`."""
_NEAR = 1e-3
"""Of a step: how far a weight may be from the grid, as floats round."""


def _integers(weight: NDArray[np.float32], code: WeightCode | TableCode, axis: int) -> NDArray[np.int8] | None:
    """A constant as integers of a code, or None where it is not on its grid."""
    if weight.ndim < -axis or (len(code.scale) > 1 and weight.shape[axis] != len(code.scale)):
        return None
    low, high = (-127, 127) if isinstance(code, TableCode) else (code.low, code.high)
    shape = [1] * weight.ndim
    shape[axis] = -1
    steps = weight / np.asarray(code.scale, np.float32).reshape(shape)
    found = np.rint(steps)
    near = np.abs(steps - found).max(initial=0.0) <= _NEAR
    inside = found.min(initial=0) >= low and found.max(initial=0) <= high
    return found.astype(np.int8) if near and inside else None


def _matching(
    weight: NDArray[np.float32], codes: Iterable[WeightCode], axis: int
) -> tuple[NDArray[np.int8], WeightCode] | None:
    for code in codes:
        integers = _integers(weight, code, axis)
        if integers is not None:
            return integers, code
    return None


def _packed(integers: NDArray[np.int8]) -> NDArray[np.uint8]:
    """4-bit integers, two in a byte, the first in the lower half."""
    flat = integers.flatten()
    if len(flat) % 2:
        flat = np.append(flat, np.int8(0))
    nibbles = flat.view(np.uint8) & np.uint8(15)
    packed: NDArray[np.uint8] = nibbles[0::2] | (nibbles[1::2] << np.uint8(4))
    return packed


class _Writer:
    """One TFLite model that is being edited."""

    def __init__(self, model: Any, schema: Any) -> None:
        self.model, self.schema, self.graph = model, schema, model.subgraphs[0]
        names = schema.BuiltinOperator
        self.axes = {names.FULLY_CONNECTED: 0, names.CONV_2D: 0, names.DEPTHWISE_CONV_2D: 3}

    def code_of(self, operator: Any) -> int:
        """The builtin operator code of an operator, as the file's table of operator codes has it."""
        return int(self.model.operatorCodes[operator.opcodeIndex].builtinCode)

    def floats(self, place: int) -> NDArray[np.float32] | None:
        """The array of a float constant, or None for any other tensor."""
        tensor = self.graph.tensors[place]
        data = self.model.buffers[tensor.buffer].data
        if tensor.type != self.schema.TensorType.FLOAT32 or data is None or not len(data):
            return None
        return np.frombuffer(np.asarray(data, np.uint8).tobytes(), np.float32).reshape(tuple(tensor.shape))

    def layers(self) -> Iterator[tuple[Any, int, NDArray[np.float32]]]:
        """Operators with float constants for weights: (operator, the weight's channel axis, the weight)."""
        for operator in list(self.graph.operators):
            axis = self.axes.get(self.code_of(operator))
            weight = None if axis is None else self.floats(int(operator.inputs[1]))
            if axis is not None and weight is not None:
                yield operator, axis, weight

    def store(
        self, place: int, integers: NDArray[np.int8], scale: Sequence[float], axis: int, *, narrow: bool = False
    ) -> int:
        """Add an integer tensor like the tensor at an index; returns its own index."""
        plain, made, buffer = self.graph.tensors[place], self.schema.TensorT(), self.schema.BufferT()
        buffer.data = _packed(integers) if narrow else integers.reshape(-1).view(np.uint8)
        self.model.buffers.append(buffer)
        made.name, made.shape, made.hasRank = bytes(plain.name) + b"_integers", plain.shape, plain.hasRank
        made.isVariable = False
        made.type = self.schema.TensorType.INT4 if narrow else self.schema.TensorType.INT8
        made.buffer = len(self.model.buffers) - 1
        made.quantization = self.schema.QuantizationParametersT()
        made.quantization.scale = np.asarray(scale, np.float32)
        made.quantization.zeroPoint = np.zeros(len(scale), np.int64)
        made.quantization.quantizedDimension = axis
        self.graph.tensors.append(made)
        return len(self.graph.tensors) - 1

    def drop_unread(self, old: set[int]) -> None:
        """Empty the buffers that no tensor reads any more."""
        used = {int(place) for operator in self.graph.operators for place in operator.inputs if place >= 0}
        kept = {self.graph.tensors[place].buffer for place in used}
        for place in old - used:
            tensor = self.graph.tensors[place]
            if tensor.buffer not in kept:
                self.model.buffers[tensor.buffer].data = None
                tensor.buffer = 0


def store_integers(model: Any, schema: Any, recipe: Recipe) -> int:
    """Store weights as a recipe's integers, in place; returns how many.

    Args:
        model: `ModelT` of one subgraph.
        schema: the module of LiteRT's schema.
        recipe: of weights alone, or dynamic.

    Raises:
        ValueError: a layer of the recipe was not found in the model.
    """
    writer = _Writer(model, schema)
    made: dict[int, int] = {}
    old: set[int] = set()
    for operator, axis, weight in writer.layers():
        place = int(operator.inputs[1])
        if place not in made:
            found = _matching(weight, recipe.weights.values(), axis)
            if found is None:
                continue
            integers, code = found
            connected = writer.code_of(operator) == schema.BuiltinOperator.FULLY_CONNECTED
            at_once = connected and (recipe.dynamic or code.bits == 4)
            stored = writer.store(place, integers, code.scale, axis, narrow=code.bits == 4)
            if not at_once:
                before = list(writer.graph.operators).index(operator)
                stored = converting(model, schema, stored, before)
            made[place] = stored
        old.add(place)
        operator.inputs = [operator.inputs[0], made[place], *operator.inputs[2:]]
    writer.drop_unread(old)
    if not made:
        raise ValueError("the converter changed the weights: none of the recipe's is in the file")
    return len(made)


def store_tables(model: Any, schema: Any, recipe: Recipe) -> int:
    """Store large constants that are added as a recipe's integers, in place; XNNPACK makes floats of them at load.

    Args:
        model: `ModelT` of one subgraph.
        schema: the module of LiteRT's schema.
        recipe: of any kind.

    Returns:
        How many; one that the converter changed stays as it is.
    """
    writer = _Writer(model, schema)
    made: dict[int, int] = {}
    for operator in list(writer.graph.operators):
        if writer.code_of(operator) != schema.BuiltinOperator.ADD:
            continue
        for position, place in enumerate(map(int, operator.inputs)):
            value = writer.floats(place)
            if place not in made and value is not None and value.size >= _LEAST_TABLE:
                stored = _stored_table(writer, place, value, recipe)
                if stored is not None:
                    before = list(writer.graph.operators).index(operator)
                    made[place] = converting(model, schema, stored, before)
            if place in made:
                operator.inputs = [made[place] if at == position else one for at, one in enumerate(operator.inputs)]
    writer.drop_unread(set(made))
    return len(made)


def _stored_table(writer: _Writer, place: int, value: NDArray[np.float32], recipe: Recipe) -> int | None:
    for code in recipe.tables.values():
        integers = _integers(value, code, code.axis)
        if integers is not None:
            axis = code.axis + value.ndim if len(code.scale) > 1 else 0
            return writer.store(place, integers, code.scale, axis)
    return None
