"""Which operators of a loaded TFLite model XNNPACK took, and which LiteRT's own kernels execute."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

import numpy as np

from edgevit.schema.placement import Placed, Placement, gathered

_DELEGATE = "DELEGATE"
_BUILTIN = "LiteRT's own kernels"
_WHY = {
    "FULLY_CONNECTED": "its weights are computed at run time; XNNPACK wants constants",
    "STRIDED_SLICE": "XNNPACK takes slices of neighbours only, without a step",
    "AVERAGE_POOL_2D": "XNNPACK does not take this window with this padding",
    "GATHER": "XNNPACK has no lookup",
    "CAST": "a change of dtype",
    "QUANTIZE": "a change of dtype",
}
_OTHERWISE = "LiteRT's delegate for XNNPACK does not take it in this form"


def _macs(operator: Mapping[str, Any], sizes: Mapping[int, tuple[int, ...]]) -> int:
    name = operator["op_name"]
    inputs = [sizes.get(int(index), ()) for index in operator["inputs"]]
    result = prod(sizes.get(int(operator["outputs"][0]), ()))
    if name == "CONV_2D":
        return result * prod(inputs[1][1:])
    if name == "DEPTHWISE_CONV_2D":
        return result * prod(inputs[1][1:3])
    if name == "TRANSPOSE_CONV":
        return prod(inputs[2]) * prod(inputs[1][:3])
    return result * inputs[0][-1] if name in ("FULLY_CONNECTED", "BATCH_MATMUL") else 0


def _weight(operator: Mapping[str, Any]) -> int:
    """An operator's second operand; its kernel is an integer one exactly where that is an integer tensor."""
    return int(operator["inputs"][1]) if len(operator["inputs"]) > 1 else -1


def _executed(operators: Iterable[Mapping[str, Any]], outputs: Iterable[int]) -> set[int]:
    """Indices of the operators and delegates that the outputs need, given what delegates compute."""
    giver: dict[int, Mapping[str, Any]] = {}
    for operator in operators:
        for tensor in operator["outputs"]:
            if operator["op_name"] == _DELEGATE or int(tensor) not in giver:
                giver[int(tensor)] = operator
    wanted, needed = list(outputs), set[int]()
    while wanted:
        operator_needed = giver.get(int(wanted.pop()))
        if operator_needed is not None and operator_needed["index"] not in needed:
            needed.add(operator_needed["index"])
            wanted.extend(int(tensor) for tensor in operator_needed["inputs"] if tensor >= 0)
    return needed


def placed(interpreter: Any) -> Placement:
    """The operators of a model whose tensors are allocated.

    Args:
        interpreter: `ai_edge_litert.interpreter.Interpreter`; it lists a delegate beside what it replaced.
    """
    operators = interpreter._get_ops_details()
    details = interpreter.get_tensor_details()
    sizes = {one["index"]: tuple(int(size) for size in one["shape"]) for one in details}
    integers = {one["index"] for one in details if np.issubdtype(one["dtype"], np.integer)}
    needed = _executed(operators, (one["index"] for one in interpreter.get_output_details()))
    found, delegates = [], 0
    for operator in operators:
        name, outside = operator["op_name"], operator["index"] in needed
        if name == _DELEGATE:
            delegates += 1
            continue
        why = _WHY.get(name, _OTHERWISE) if outside else ""
        place = _BUILTIN if outside else "XNNPACK"
        macs = _macs(operator, sizes)
        whole = macs if macs and _weight(operator) in integers else 0
        found.append(Placed(name, place, delegated=not outside, why=why, macs=macs, integer_macs=whole))
    return gathered(found, delegates)
