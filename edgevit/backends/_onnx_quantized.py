"""Q/DQ nodes in the form that ONNX Runtime's integer kernels take.

Activations become unsigned (zero point + 128, same scale): the x86 kernels for signed ones are far slower.
Biases become 32-bit integers with the scale of the input times that of the weight.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_MOVES = frozenset(
    {"Reshape", "Transpose", "Slice", "Split", "Concat", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Expand"}
)


class _Graph:
    """A graph with its constants and makers at hand."""

    def __init__(self, graph: Any) -> None:
        from onnx import numpy_helper

        self.graph = graph
        self._numpy = numpy_helper
        self._lift_constants()
        self.constants = {one.name: one for one in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output}

    def _lift_constants(self) -> None:
        """Constant nodes as initializers."""
        for node in [node for node in self.graph.node if node.op_type == "Constant"]:
            value = self.graph.initializer.add()
            value.CopyFrom(node.attribute[0].t)
            value.name = node.output[0]
            self.graph.node.remove(node)

    def value(self, name: str) -> np.ndarray[Any, Any] | None:
        """A constant."""
        return self._numpy.to_array(self.constants[name]) if name in self.constants else None

    def add(self, name: str, value: np.ndarray[Any, Any]) -> str:
        """A new constant, once."""
        if name not in self.constants:
            self.graph.initializer.append(self._numpy.from_array(value, name))
            self.constants[name] = self.graph.initializer[-1]
        return name

    def drop_unread(self) -> None:
        """Forget constants that no node reads."""
        read = {name for node in self.graph.node for name in node.input}
        for one in [one for one in self.graph.initializer if one.name not in read]:
            self.graph.initializer.remove(one)


def _integer_biases(graph: _Graph) -> None:
    from onnx import helper

    for node in [node for node in graph.graph.node if node.op_type in ("Conv", "Gemm") and len(node.input) > 2]:
        source, weight = graph.makers.get(node.input[0]), graph.makers.get(node.input[1])
        bias = graph.value(node.input[2])
        if bias is None or any(one is None or one.op_type != "DequantizeLinear" for one in (source, weight)):
            continue
        assert source is not None and weight is not None
        scales = graph.value(source.input[1]), graph.value(weight.input[1])
        if scales[0] is None or scales[1] is None or scales[0].ndim:
            continue
        step = (scales[0].astype(np.float32) * scales[1].astype(np.float32)).astype(np.float32)
        limits = np.iinfo(np.int32)
        integers = np.clip(np.rint(bias.astype(np.float64) / step), limits.min, limits.max).astype(np.int32)
        name = node.output[0] + "_bias"
        inputs = [
            graph.add(name + "_integers", integers),
            graph.add(name + "_scale", step),
            graph.add(name + "_zero", np.zeros(step.shape, np.int32)),
        ]
        made = helper.make_node("DequantizeLinear", inputs, [name], name=name, axis=0)
        graph.graph.node.insert(list(graph.graph.node).index(node), made)
        node.input[2] = name


def _integer_values(graph: _Graph) -> set[str]:
    """Names of activations that are integers: what is quantized, and what only moves it."""
    found = {node.output[0] for node in graph.graph.node if node.op_type == "QuantizeLinear"}
    for node in graph.graph.node:  # in the order of execution
        if node.op_type in _MOVES and node.input[0] in found:
            found.update(node.output)
    return found


def _unsigned_activations(graph: _Graph) -> None:
    from onnx import TensorProto

    integers = _integer_values(graph)
    for node in graph.graph.node:
        if node.op_type == "QuantizeLinear" or (node.op_type == "DequantizeLinear" and node.input[0] in integers):
            zero = graph.value(node.input[2])
            if zero is not None and zero.dtype == np.int8:
                shifted = (zero.astype(np.int16) + 128).astype(np.uint8)
                node.input[2] = graph.add(f"zero_point_{int(shifted)}", shifted)
    for value in graph.graph.value_info:
        if value.name in integers:
            value.type.tensor_type.elem_type = TensorProto.UINT8


def legalise(model: Any) -> Any:
    """Rewrite a ModelProto in place, exactly; returns it."""
    graph = _Graph(model.graph)
    _integer_biases(graph)
    _unsigned_activations(graph)
    graph.drop_unread()
    return model
