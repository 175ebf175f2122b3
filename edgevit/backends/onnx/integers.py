"""Brings Q/DQ nodes into the form that ONNX Runtime's integer kernels take.

Activations become unsigned (zero point + 128, same scale): the x86 kernels for signed ones are far slower.
Biases become 32-bit integers with the scale of the input times that of the weight.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgevit.schema.recipe import Recipe

_MOVES = frozenset(
    {"Reshape", "Transpose", "Slice", "Split", "Concat", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Expand"}
)


class _Graph:
    """An ONNX graph with indices of its constants and producers."""

    def __init__(self, graph: Any) -> None:
        from onnx import numpy_helper

        self.graph = graph
        self._numpy = numpy_helper
        self._lift_constants()
        self.constants = {one.name: one for one in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output}

    def _lift_constants(self) -> None:
        """Turn Constant nodes into initializers."""
        for node in [node for node in self.graph.node if node.op_type == "Constant"]:
            value = self.graph.initializer.add()
            value.CopyFrom(node.attribute[0].t)
            value.name = node.output[0]
            self.graph.node.remove(node)

    def value(self, name: str) -> np.ndarray[Any, Any] | None:
        """The array of the constant of that name, or None where the name is no constant."""
        return self._numpy.to_array(self.constants[name]) if name in self.constants else None

    def add(self, name: str, value: np.ndarray[Any, Any]) -> str:
        """Add a constant, unless it exists."""
        if name not in self.constants:
            self.graph.initializer.append(self._numpy.from_array(value, name))
            self.constants[name] = self.graph.initializer[-1]
        return name

    def declare_like(self, known: str, name: str, kind: int) -> None:
        """Record for a value the shape of another, if that is recorded."""
        for value in [one for one in self.graph.value_info if one.name == known]:
            made = self.graph.value_info.add()
            made.CopyFrom(value)
            made.name = name
            made.type.tensor_type.elem_type = kind

    def drop_unread(self) -> None:
        """Remove constants that no node reads."""
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
    """Names of integer activations: quantized values, and what layout operators make of them."""
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


def _own_zero_points(graph: _Graph) -> None:
    """Give each weight its own zero-point constant.

    ONNX Runtime 1.31 cannot make weights unsigned that share one (`session.x64quantprecision`, see the loader).
    """
    for node in graph.graph.node:
        weight = graph.value(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if weight is not None and weight.dtype == np.int8:
            zero = graph.value(node.input[2])
            assert zero is not None
            node.input[2] = graph.add(node.output[0] + "_zero_point", zero)


def _dynamic_products(graph: _Graph) -> None:
    """Replace Gemm on integer weights by ONNX Runtime's integer product with a dynamically quantized input."""
    from onnx import TensorProto, helper

    for node in [node for node in graph.graph.node if node.op_type == "Gemm"]:
        weight = graph.makers.get(node.input[1])
        if weight is None or weight.op_type != "DequantizeLinear" or len(node.input) < 3:
            continue
        integers, scale = graph.value(weight.input[0]), graph.value(weight.input[1])
        transposed = any(one.name == "transB" and one.i for one in node.attribute)
        if integers is None or scale is None:
            continue
        name = node.output[0]
        kernel = graph.add(name + "_kernel", np.ascontiguousarray(integers.T if transposed else integers))
        factor = graph.add(name + "_factor", scale.astype(np.float32))
        parts = [f"{name}_{part}" for part in ("input", "step", "zero", "sum", "floats", "steps", "product")]
        rows, step, zero, total, floats, steps, product = parts
        made = [
            helper.make_node("DynamicQuantizeLinear", [node.input[0]], [rows, step, zero], name=rows),
            helper.make_node("MatMulInteger", [rows, kernel, zero], [total], name=total),
            helper.make_node("Cast", [total], [floats], name=floats, to=1),
            helper.make_node("Mul", [step, factor], [steps], name=steps),
            helper.make_node("Mul", [floats, steps], [product], name=product),
            helper.make_node("Add", [product, node.input[2]], [name], name=node.name),
        ]
        graph.declare_like(node.input[0], rows, TensorProto.UINT8)
        graph.declare_like(name, total, TensorProto.INT32)
        place = list(graph.graph.node).index(node)
        graph.graph.node.remove(node)
        for offset, one in enumerate(made):
            graph.graph.node.insert(place + offset, one)
    _drop_unread_nodes(graph)


def _drop_unread_nodes(graph: _Graph) -> None:
    read = {name for node in graph.graph.node for name in node.input} | {one.name for one in graph.graph.output}
    for node in [node for node in graph.graph.node if not any(name in read for name in node.output)]:
        graph.graph.node.remove(node)


def _narrow_weights(graph: _Graph, recipe: Recipe) -> None:
    """Store 4-bit weights as such, two in a byte."""
    from onnx import TensorProto, helper

    for node in [node for node in graph.graph.node if node.op_type == "DequantizeLinear"]:
        integers, scale = graph.value(node.input[0]), graph.value(node.input[1])
        if integers is None or scale is None or not _has_bits(recipe, 4, scale):
            continue
        stored = graph.constants[node.input[0]]
        narrow = helper.make_tensor(stored.name, TensorProto.INT4, integers.shape, integers.flatten().tolist())
        stored.CopyFrom(narrow)
        zero = helper.make_tensor(node.input[2] + "_narrow", TensorProto.INT4, scale.shape, [0] * scale.size)
        if zero.name not in graph.constants:
            graph.graph.initializer.append(zero)
            graph.constants[zero.name] = graph.graph.initializer[-1]
        node.input[2] = zero.name


def _has_bits(recipe: Recipe, bits: int, scale: np.ndarray[Any, Any]) -> bool:
    return any(
        code.bits == bits
        and len(code.scale) == scale.size
        and np.array_equal(np.asarray(code.scale, np.float32), scale)
        for code in recipe.weights.values()
    )


def legalise(model: Any, recipe: Recipe) -> Any:
    """Rewrite a ModelProto in place, exactly; returns it."""
    graph = _Graph(model.graph)
    if recipe.dynamic:
        _dynamic_products(graph)
    elif recipe.activation_bits is None:
        _narrow_weights(graph, recipe)
    else:
        _integer_biases(graph)
        _unsigned_activations(graph)
        _own_zero_points(graph)
    graph.drop_unread()
    return model
