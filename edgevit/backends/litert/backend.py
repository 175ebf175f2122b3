"""LiteRT (TFLite): written by litert-torch, run by ai-edge-litert."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgevit.backends.base import Backend, FileInterface, LowerRequest, Runner, one_at_a_time
from edgevit.backends.file_input import described, only
from edgevit.backends.litert.boundary import float_activations, float_boundary, short_names
from edgevit.backends.litert.operators import NAMES
from edgevit.backends.litert.placement import placed
from edgevit.backends.litert.weights import store_integers, store_tables
from edgevit.core.binary import Table, item, root
from edgevit.core.own_process import silenced
from edgevit.errors import BadFile, EnvironmentIncomplete, UsageError, import_failed
from edgevit.schema.manifest import MARKER
from edgevit.schema.placement import Placement

if TYPE_CHECKING:
    from edgevit.graph.qdq.prepare import Form

_METADATA = "TFLITE_METADATA"


def lower(request: LowerRequest) -> None:
    """Write a .tflite file with named input and output, TFLite metadata and the manifest."""
    import litert_torch

    name = request.manifest.input.name
    example = request.program.example_inputs[0][0]
    module = request.program.module(check_guards=False)
    options: dict[str, Any] = {}
    if request.recipe is not None and request.recipe.activation_bits is not None:
        from edgevit.backends.litert.qdq import static_config, unfold_weights

        module, options = unfold_weights(module), {"quant_config": static_config()}
    converted = litert_torch.convert(module, sample_args=(example,), **options)
    plain = request.out.with_suffix(".plain")
    converted.export(str(plain))
    try:
        if request.manifest.target.precision == "fp16":
            _half_weights(plain)
        request.out.write_bytes(_finish(plain.read_bytes(), request, name))
    finally:
        plain.unlink()


def _quantized_form() -> Form:
    """litert-torch 0.10.0 drops a quantization that follows a dequantization, whatever their numbers are."""
    from edgevit.graph.qdq.prepare import Form

    return Form(carrying="moves", weights=False)


def _half_weights(path: Path) -> None:
    """Store the weights in fp16; XNNPACK unpacks them once when the model is loaded."""
    from ai_edge_quantizer import qtyping, quantizer

    rewriter = quantizer.Quantizer(str(path))
    rewriter.update_quantization_recipe(
        regex=".*",
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        op_config=qtyping.OpQuantizationConfig(
            weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT),
            compute_precision=qtyping.ComputePrecision.FLOAT,
            explicit_dequantize=True,
        ),
        algorithm_key="float_casting",
    )
    rewriter.quantize().export_model(str(path), overwrite=True)


def _finish(data: bytes, request: LowerRequest, input_name: str) -> bytes:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    from edgevit.backends.litert.metadata import append_labels, model_metadata

    manifest, recipe = request.manifest, request.recipe
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    for stored in model.buffers:
        _bring_inside(stored, data)
    float_boundary(model, schema)
    if recipe is not None:
        if recipe.activation_bits is None and not request.partial:
            store_integers(model, schema, recipe)
        store_tables(model, schema, recipe)
        float_activations(model, schema)
        short_names(model)
    graph = model.subgraphs[0]
    graph.tensors[graph.inputs[0]].name = input_name
    graph.tensors[graph.outputs[0]].name = manifest.output.name
    for signature in model.signatureDefs or []:
        signature.inputs[0].name, signature.outputs[0].name = input_name, manifest.output.name
    model.description = f"edgevit {manifest.edgevit}"
    model.metadata = model.metadata or []
    for name, content in {_METADATA: model_metadata(manifest), MARKER: manifest.embedded().encode()}.items():
        buffer, entry = schema.BufferT(), schema.MetadataT()
        buffer.data = np.frombuffer(content, np.uint8)
        entry.name, entry.buffer = name, len(model.buffers)
        model.buffers.append(buffer)
        model.metadata.append(entry)
    builder = flatbuffers.Builder(len(data) + (1 << 20))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return append_labels(bytes(builder.Output()), manifest.labels)


def _bring_inside(buffer: Any, data: bytes) -> None:
    """Move a buffer that the quantizer keeps behind the FlatBuffers part into it."""
    if buffer.offset > 1:
        buffer.data = np.frombuffer(data, np.uint8, count=buffer.size, offset=buffer.offset)
        buffer.offset = buffer.size = 0


def _interpreter(path: Path) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise import_failed(error, "ai-edge-litert", "running .tflite files", extra="runtime") from error
    try:
        with silenced():
            interpreter = Interpreter(model_path=str(path))
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise BadFile("LiteRT cannot load the file", where=f"{path}: {error}") from error
    return interpreter


def load(path: Path) -> Runner:
    """Run a file on the CPU with XNNPACK."""
    interpreter = _interpreter(path)
    source = interpreter.get_input_details()[0]["index"]
    result = interpreter.get_output_details()[0]["index"]

    def run(inputs: NDArray[Any]) -> NDArray[np.float32]:
        interpreter.set_tensor(source, inputs)
        interpreter.invoke()
        return np.asarray(interpreter.get_tensor(result), dtype=np.float32)

    return one_at_a_time(run)


def placement(path: Path) -> Placement | None:
    """What XNNPACK executes on this machine, as the runtime says once it has loaded the file; None without it."""
    try:
        return placed(_interpreter(path))
    except EnvironmentIncomplete:
        return None


def _model(path: Path) -> Table:
    data = path.read_bytes()
    if data[4:8] != b"TFL3":
        raise BadFile("not a TFLite model", where=str(path))
    return root(data)


def operators(path: Path) -> Counter[str]:
    """Operator names of all subgraphs; numbers of operators that are younger than edgevit."""
    model = _model(path)
    names = []
    for code in model.tables(1):
        number = max(code.integer(0, 1), code.integer(3))
        known = NAMES[number] if number < len(NAMES) else "-"
        names.append(code.text(1) or (known if known != "-" else f"builtin {number}"))
    return Counter(item(names, op.integer(0)) for graph in model.tables(2) for op in graph.tables(3))


_DTYPES = {0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 9: "int8"}
"""TensorType of the TFLite schema."""
_MOST_SIDE = 1 << 31
"""Sizes are read as unsigned: from here on they are negative numbers, TFLite's sign for a size that is not fixed."""


def describe(path: Path) -> FileInterface:
    """What a file of any tool takes (Model.subgraphs[0].inputs).

    Raises:
        UsageError: it takes something else than one picture, or has several inputs or outputs.
        BadFile: it is damaged.
    """
    graph = item(list(_model(path).tables(2)), 0)
    tensors = list(graph.tables(0))
    inputs, outputs = ([item(tensors, at) for at in graph.integers(number)] for number in (1, 2))
    only(path, "input", [one.text(3) for one in inputs])
    only(path, "output", [one.text(3) for one in outputs])
    given = outputs[0].integer(1, 1)
    if given != 0:
        raise UsageError(
            f"the output {outputs[0].text(3)!r} is {_DTYPES.get(given, f'type {given}')}, not float32",
            where=str(path),
            cure="convert it again with a float output",
        )
    source = inputs[0]
    shape = [side if side < _MOST_SIDE else 0 for side in source.integers(7) or source.integers(0)]
    code = source.integer(1, 1)
    half = any(one.integer(1, 1) == 1 for one in tensors)
    return described(path, source.text(3), _DTYPES.get(code, f"type {code}"), shape, half=half)


def read_embedded(path: Path) -> str | None:
    """The manifest in the model's metadata buffers (Model.metadata, Model.buffers)."""
    model = _model(path)
    for entry in model.tables(6):
        if entry.text(0) == MARKER:
            buffer = item(list(model.tables(4)), entry.integer(1))
            return (buffer.raw(0) or b"").decode("utf-8", "replace")
    return None


BACKEND = Backend(
    name="litert",
    suffix=".tflite",
    extra="litert",
    packages=("torch", "litert-torch", "litert-converter", "ai-edge-quantizer"),
    runtime_packages=("ai-edge-litert",),
    layout=lambda variant: "image_nhwc_uint8",
    half_program=lambda variant: False,
    half="weights",
    input_name="image",
    output_name="probabilities",
    opset="TFLite schema 3",
    lower=lower,
    load=load,
    operators=operators,
    read_embedded=read_embedded,
    describe=describe,
    placement=placement,
    quantized_form=_quantized_form,
    available=lambda variant: "",
    effort=14,
    imports=("edgevit.graph.prepare", "litert_torch"),
)
