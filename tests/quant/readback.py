"""Scales as they stand in finished model files, read without the code that wrote them.

Each function returns the per-tensor codes (scale, zero point of signed integers) of activations and the scale
vectors of weights.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

Found = tuple[set[tuple[float, int]], list[np.ndarray]]


def onnx_scales(path: Path) -> Found:
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    constants = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    values, weights = set(), []
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        scale, zero = constants[node.input[1]], constants[node.input[2]]
        if zero.dtype == np.int32:
            continue
        if scale.ndim == 0:
            values.add((float(scale), int(zero) - (128 if zero.dtype == np.uint8 else 0)))
        else:
            weights.append(scale)
    return values, weights


def litert_scales(path: Path) -> Found:
    from ai_edge_litert.interpreter import Interpreter

    values, weights = set(), []
    for tensor in Interpreter(str(path)).get_tensor_details():
        found = tensor["quantization_parameters"]
        if tensor["dtype"] != np.int8 or not len(found["scales"]):
            continue
        if len(found["scales"]) == 1:
            values.add((float(found["scales"][0]), int(found["zero_points"][0])))
        else:
            weights.append(found["scales"])
    return values, weights


def executorch_scales(path: Path) -> Found:
    """From the graphs of XNNPACK's delegates; the scales of weights are among the file's named data."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    from edgevit.backends.executorch.program_file import ExecutorchProgram
    from edgevit.core.binary import root

    file = deserialize_pte_binary(path.read_bytes())
    named = {key: file.named_data.buffers[one.buffer_index] for key, one in file.named_data.pte_data.items()}
    program = ExecutorchProgram(path)
    values, weights = set(), []
    for _, delegate in program.delegate_calls():
        blob = program.blob(delegate)
        start, size = (int.from_bytes(blob[at : at + 4], "little") for at in (10, 14))
        graph = root(blob[start : start + size])
        keys = [one.text(2) for one in graph.tables(8)]
        for entry in graph.tables(2):
            value = entry.table(1)
            if entry.integer(0, 1) != 2 or value is None:
                continue
            kind, numbers, tensor = value.integer(1, 1), value.table(2), value.table(0)
            assert numbers is not None and tensor is not None
            if tensor.integer(0, 2) == BIAS:
                continue
            if kind == PER_TENSOR:
                values.add((_real(numbers, 0), _signed(numbers.integer(1))))
            elif kind == PER_CHANNEL:
                data = bytes(named[keys[numbers.integer(2)]])
                weights.append(np.frombuffer(data, np.float32)[: numbers.integer(3)])
    return values, weights


PER_CHANNEL, PER_TENSOR = 1, 2
"""In the union XNNQuantParams."""
BIAS = 7
"""xnn_datatype_qcint32 in XNNDatatype."""


def _real(table: object, number: int) -> float:
    return struct.unpack("<f", struct.pack("<I", table.integer(number)))[0]  # type: ignore[attr-defined]


def _signed(value: int) -> int:
    return value - (1 << 32) if value >= 1 << 31 else value


def coreml_scales(path: Path) -> Found:
    import coremltools as ct
    from coremltools.converters.mil.frontend.milproto.load import load
    from coremltools.converters.mil.mil import types

    spec = ct.utils.load_spec(str(path))
    program = load(spec, spec.specificationVersion, str(path / "Data/com.apple.CoreML/weights"))
    values, weights = set(), []
    for op in program.functions["main"].operations:
        if op.op_type in ("quantize", "dequantize"):
            kind = op.output_dtype.val if op.op_type == "quantize" else types.builtin_to_string(op.input.dtype)
            zero = 0 if op.zero_point is None else int(op.zero_point.val)
            values.add((float(op.scale.val), zero - 128 if kind == "uint8" else zero))
        elif op.op_type == "constexpr_affine_dequantize":
            weights.append(np.asarray(op.scale.val, np.float32).ravel())
    return values, weights


READERS = {
    "onnx": onnx_scales,
    "litert": litert_scales,
    "executorch": executorch_scales,
    "coreml": coreml_scales,
}
