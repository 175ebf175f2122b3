"""Adds conversions between floats and integers to TFLite models, where the converter left them out."""

from __future__ import annotations

from typing import Any


def float_boundary(model: Any, schema: Any) -> None:
    """Give a model whose input or output is an integer tensor a float one, in place.

    The converter moves a quantization of the input, and a dequantization of the output, out of the model.

    Args:
        model: `ModelT` of one subgraph, with one input and one output.
        schema: the module of LiteRT's schema.
    """
    graph = model.subgraphs[0]
    kinds, codes = schema.TensorType, schema.BuiltinOperator
    (source,), (result,) = graph.inputs, graph.outputs
    if graph.tensors[source].type == kinds.INT8:
        graph.inputs = [_float_twin(graph, source, schema)]
        graph.tensors[source].name = bytes(graph.tensors[source].name) + b"_integers"
        graph.operators.insert(0, _operator(model, codes.QUANTIZE, graph.inputs[0], source, schema))
    if graph.tensors[result].type == kinds.INT8:
        graph.outputs = [_float_twin(graph, result, schema)]
        graph.tensors[result].name = bytes(graph.tensors[result].name) + b"_integers"
        graph.operators.append(_operator(model, codes.DEQUANTIZE, result, graph.outputs[0], schema))
    for signature in model.signatureDefs or []:
        signature.inputs[0].tensorIndex, signature.outputs[0].tensorIndex = graph.inputs[0], graph.outputs[0]


def converting(model: Any, schema: Any, place: int, before: int) -> int:
    """Insert a dequantization of a tensor before an operator; returns the index of the float tensor."""
    graph = model.subgraphs[0]
    floats = _float_twin(graph, place, schema)
    graph.tensors[floats].name = bytes(graph.tensors[place].name) + b"_floats"
    graph.operators.insert(before, _operator(model, schema.BuiltinOperator.DEQUANTIZE, place, floats, schema))
    return floats


def _float_twin(graph: Any, place: int, schema: Any) -> int:
    """Add a float tensor of the same name and shape; returns its index."""
    plain, made = graph.tensors[place], schema.TensorT()
    made.name, made.shape, made.shapeSignature = plain.name, plain.shape, plain.shapeSignature
    made.type, made.buffer, made.isVariable, made.hasRank = schema.TensorType.FLOAT32, 0, False, plain.hasRank
    graph.tensors.append(made)
    return len(graph.tensors) - 1


def _operator(model: Any, code: int, source: int, result: int, schema: Any) -> Any:
    """A new QUANTIZE or DEQUANTIZE operator."""
    known = [one.builtinCode for one in model.operatorCodes]
    if code not in known:
        added = schema.OperatorCodeT()
        added.builtinCode = added.deprecatedBuiltinCode = code
        added.version = 2
        model.operatorCodes.append(added)
        known.append(code)
    made = schema.OperatorT()
    made.opcodeIndex, made.inputs, made.outputs = known.index(code), [source], [result]
    return made


def float_activations(model: Any, schema: Any) -> int:
    """Compute activations that XNNPACK supports in floating point only as floats, in place; returns how many.

    LiteRT's own kernels for these look integers up in a table or compare them one after another, outside of XNNPACK:
    half as much time as TinyViT's products take, and XNNPACK's part falls into 22 pieces.
    """
    graph, codes = model.subgraphs[0], schema.BuiltinOperator
    slow = (codes.GELU, codes.MAXIMUM, codes.MINIMUM)
    found = [
        operator
        for operator in graph.operators
        if model.operatorCodes[operator.opcodeIndex].builtinCode in slow
        and graph.tensors[operator.outputs[0]].type == schema.TensorType.INT8
    ]
    for operator in found:
        place, result = graph.operators.index(operator), int(operator.outputs[0])
        operator.inputs = [converting(model, schema, int(source), place) for source in operator.inputs]
        floats = _float_twin(graph, result, schema)
        graph.tensors[floats].name = bytes(graph.tensors[result].name) + b"_floats"
        operator.outputs = [floats]
        after = graph.operators.index(operator) + 1
        graph.operators.insert(after, _operator(model, codes.QUANTIZE, floats, result, schema))
    return len(found)


def short_names(model: Any) -> None:
    """Number the tensors inside of a model: their names are module paths, several hundred bytes each."""
    graph = model.subgraphs[0]
    public = {*graph.inputs, *graph.outputs}
    for place, tensor in enumerate(graph.tensors):
        if place not in public:
            tensor.name = f"t{place}".encode()
