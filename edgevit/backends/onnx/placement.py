"""The operators of an ONNX file with their work.

ONNX Runtime's CPU provider executes them all, or refuses the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path

from edgevit.core.binary import Buffer, messages, string, varints
from edgevit.schema.placement import Placed, Placement, gathered

_PLACE = "ONNX Runtime's CPU kernels"


def _strings(data: Buffer, number: int) -> list[str]:
    return [bytes(value).decode("utf-8", "replace") for value in messages(data, number)]


def _dims(value_info: Buffer) -> tuple[int, ...]:
    """ValueInfoProto.type.tensor_type.shape.dim.dim_value; a size that is not known counts as 1."""
    for kind in messages(value_info, 2):
        for tensor in messages(kind, 1):
            for shape in messages(tensor, 2):
                return tuple((varints(dim, 1) or [1])[0] for dim in messages(shape, 1))
    return ()


def _sizes(graph: Buffer) -> dict[str, tuple[int, ...]]:
    """Shapes of initializers, inputs, outputs and what the exporter noted in between."""
    found = {string(tensor, 8): tuple(varints(tensor, 1)) for tensor in messages(graph, 5)}
    for number in (11, 12, 13):
        found |= {string(value, 1): _dims(value) for value in messages(graph, number)}
    return found


def _macs(operator: str, inputs: list[str], result: str, sizes: dict[str, tuple[int, ...]]) -> int:
    if operator not in ("Conv", "Gemm", "MatMul", "MatMulInteger"):
        return 0
    left, right, made = (sizes.get(name, ()) for name in (inputs[0], inputs[1], result))
    if not made or not right or not left:
        return 0
    return prod(made) * (prod(right[1:]) if operator == "Conv" else left[-1])


def _fuses(inputs: list[str], result: str, makers: dict[str, str], readers: dict[str, set[str]]) -> bool:
    """Whether ONNX Runtime fuses an operator between Q/DQ nodes into one integer kernel."""
    between = all(makers.get(name) == "DequantizeLinear" for name in inputs[:2])
    return between and readers.get(result, set()) == {"QuantizeLinear"}


def _placed(data: Buffer) -> Iterator[Placed]:
    for graph in messages(data, 7):
        sizes = _sizes(graph)
        nodes = [(string(node, 4), _strings(node, 1), _strings(node, 2)) for node in messages(graph, 1)]
        makers = {name: operator for operator, _, outputs in nodes for name in outputs}
        readers: dict[str, set[str]] = {}
        for operator, inputs, _ in nodes:
            for name in inputs:
                readers.setdefault(name, set()).add(operator)
        for operator, inputs, outputs in nodes:
            macs = _macs(operator, inputs, outputs[0], sizes) if len(inputs) > 1 and outputs else 0
            whole = macs and (operator == "MatMulInteger" or _fuses(inputs, outputs[0], makers, readers))
            yield Placed(operator, _PLACE, delegated=True, macs=macs, integer_macs=macs if whole else 0)


def placement(path: Path) -> Placement:
    """The placement of all operators, as one piece.

    Raises:
        BadFile: the file is not a protobuf message.
    """
    return gathered(list(_placed(path.read_bytes())), 1)
