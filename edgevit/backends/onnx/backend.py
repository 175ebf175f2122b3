"""ONNX: written by torch.onnx's dynamo exporter, run by ONNX Runtime."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgevit.backends.base import Backend, FileInterface, LowerRequest, Runner
from edgevit.backends.file_input import described, only
from edgevit.backends.onnx.integers import legalise
from edgevit.backends.onnx.placement import placement
from edgevit.core.binary import messages, string, string_map, varints
from edgevit.core.own_process import owns_process
from edgevit.errors import BadFile, import_failed
from edgevit.schema.manifest import MARKER

if TYPE_CHECKING:
    from edgevit.graph.qdq.prepare import Form

OPSET = 20
"""The ONNX operator set of every file but those with 4-bit weights, which need `NARROW_OPSET`."""
NARROW_OPSET = 21
"""The first with integers of 4 bits."""
_PROTOBUF_LIMIT = 2 << 30
"""Protobuf's limit for one message: a larger model cannot be a single file."""


def lower(request: LowerRequest) -> None:
    """Write one self-contained .onnx file with the manifest and labels in its metadata."""
    import onnx
    import torch

    manifest = request.manifest
    converted = torch.onnx.export(
        request.program,
        dynamo=True,
        opset_version=NARROW_OPSET if manifest.target.precision == "w4" else OPSET,
        verbose=False,
        input_names=[manifest.input.name],
        output_names=[manifest.output.name],
    )
    assert converted is not None
    model = _without_traces(converted.model_proto)
    if request.recipe is not None:
        model = legalise(model, request.recipe)
    model.producer_name = "edgevit"
    model.producer_version = manifest.edgevit
    for key, value in {MARKER: manifest.embedded(), "labels": "\n".join(manifest.labels)}.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    if model.ByteSize() > _PROTOBUF_LIMIT:
        raise ValueError("the model is larger than ONNX's 2 GiB limit for one file")
    onnx.checker.check_model(model)
    request.out.write_bytes(model.SerializeToString(deterministic=True))


def _quantized_form() -> Form:
    """ONNX Runtime makes one of two quantizations in a row, with a code that is neither's."""
    from edgevit.graph.qdq.prepare import Form

    return Form(carrying="moves")


def _without_traces(model: Any) -> Any:
    """Remove the exporter's notes on every node: they contain paths of the machine that made the file."""
    for holder in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        holder.ClearField("metadata_props")
        holder.ClearField("doc_string")
    for value in (*model.graph.input, *model.graph.output):
        value.ClearField("metadata_props")
    return model


def load(path: Path) -> Runner:
    """Run a file on ONNX Runtime's CPU provider."""
    if owns_process():
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
    except ImportError as error:
        raise import_failed(error, "onnxruntime", "running .onnx files", extra="runtime") from error
    try:
        session = _session(onnxruntime, path)
    except Exception as error:
        raise BadFile("ONNX Runtime cannot load the file", where=f"{path}: {_first_line(error)}") from error
    name, half = session.get_inputs()[0].name, session.get_inputs()[0].type == "tensor(float16)"

    def run(inputs: NDArray[Any]) -> NDArray[np.float32]:
        inputs = inputs.astype(np.float16) if half else inputs
        return np.array(session.run(None, {name: inputs})[0], dtype=np.float32, copy=True)

    return run  # a session may be run from several threads at once


def _session(onnxruntime: Any, path: Path) -> Any:
    """A session whose integer kernels are exact.

    x86 without VNNI adds products of bytes in 16 bits, which overflow; there the option has weights made unsigned. It
    fails on files of others whose weights share a zero point: those get a plain session.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.x64quantprecision", "1")
    providers = ["CPUExecutionProvider"]
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except onnxruntime.capi.onnxruntime_pybind11_state.Fail:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(str(path), options, providers=providers)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def operators(path: Path) -> Counter[str]:
    """Operator types of the main graph and its functions (ModelProto.graph.node.op_type)."""
    found: Counter[str] = Counter()
    for graph in messages(path.read_bytes(), 7):
        found.update(string(node, 4) for node in messages(graph, 1))
    return found


_DTYPES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 10: "float16", 11: "float64", 16: "bfloat16"}
"""TensorProto.DataType."""


def describe(path: Path) -> FileInterface:
    """What a file of any tool takes (ModelProto.graph.input, its initializers left out).

    Raises:
        UsageError: it takes something else than one picture, or has several inputs or outputs.
        BadFile: it is damaged.
    """
    graphs = list(messages(path.read_bytes(), 7))
    if not graphs:
        raise BadFile("not an ONNX model", where=str(path))
    graph = graphs[0]
    weights = {string(one, 8): (varints(one, 2) or [0])[0] for one in messages(graph, 5)}
    inputs = [one for one in messages(graph, 11) if string(one, 1) not in weights]
    only(path, "input", [string(one, 1) for one in inputs])
    only(path, "output", [string(one, 1) for one in messages(graph, 12)])
    tensors = [tensor for kind in messages(inputs[0], 2) for tensor in messages(kind, 1)]
    code = (varints(tensors[0], 1) or [0])[0] if tensors else 0
    sides = [side for tensor in tensors for shape in messages(tensor, 2) for side in messages(shape, 1)]
    shape = [(varints(side, 1) or [0])[0] for side in sides]
    dtype = _DTYPES.get(code, f"type {code}")
    return described(path, string(inputs[0], 1), dtype, shape, half=10 in weights.values(), dynamic=True)


def read_embedded(path: Path) -> str | None:
    """The manifest among the model's metadata properties."""
    return string_map(path.read_bytes(), 14).get(MARKER)


BACKEND = Backend(
    name="onnx",
    suffix=".onnx",
    extra="onnx",
    packages=("torch", "onnx", "onnxscript"),
    runtime_packages=("onnxruntime",),
    layout=lambda variant: "image_nhwc_uint8",
    half_program=lambda variant: True,
    input_name="image",
    output_name="probabilities",
    opset=f"ai.onnx {OPSET}",
    lower=lower,
    load=load,
    operators=operators,
    read_embedded=read_embedded,
    describe=describe,
    placement=placement,
    quantized_form=_quantized_form,
    keeps_fp32=lambda variant: True,
    available=lambda variant: "",
    effort=5,
    imports=("edgevit.graph.prepare", "torch.onnx", "onnxscript", "onnxruntime"),
)
