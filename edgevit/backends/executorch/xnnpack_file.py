"""Reads the graph inside an XNNPACK delegate of an ExecuTorch program (runtime_schema.fbs of executorch)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from edgevit.core.binary import Table, item, root
from edgevit.errors import BadFile
from edgevit.schema.placement import Placed

PLACE = "XNNPACK"
_QUANTIZED_VALUE = 2
_MAGIC = b"XH00"
_NODES = """
none add fully_connected softmax sigmoid transpose clamp conv2d divide resize_bilinear constant_pad avg_pool2d
minimum depthwise_conv2d max_pool2d multiply subtract floor convert global_avg_pool2d reshape argmax_pool2d
square_root ceiling hardswish leaky_relu maximum negate square elu abs prelu concatenate concatenate
concatenate slice scaled_dot_product_attention batch_matmul concatenate conv_transpose2d
reciprocal_square_root log gelu tanh exp sin copy cos
"""
_NAMES = _NODES.split()
"""By their number in the union of nodes."""
_CONVOLUTIONS = ("conv2d", "depthwise_conv2d", "conv_transpose2d")


@dataclass(frozen=True)
class _Value:
    dims: tuple[int, ...]
    integer: bool = False


def _values(graph: Table) -> dict[int, _Value]:
    found = {}
    for entry in graph.tables(2):
        value, quantized = entry.table(1), entry.integer(0, 1) == _QUANTIZED_VALUE
        if value is not None and quantized:
            value = value.table(0)
        if value is not None:
            found[value.integer(6)] = _Value(value.integers(2), quantized)
    return found


def _dims(values: dict[int, _Value], number: int) -> tuple[int, ...]:
    if number not in values:
        raise BadFile("the model file is damaged: a delegate's operator takes a value that is not there")
    return values[number].dims


def _macs(name: str, node: Table, values: dict[int, _Value]) -> int:
    if name == "fully_connected":
        return prod(_dims(values, node.integer(3))) * _dims(values, node.integer(0))[-1]
    if name == "batch_matmul":
        return prod(_dims(values, node.integer(2))) * _dims(values, node.integer(0))[-1]
    if name in _CONVOLUTIONS:
        window = node.integer(4) * node.integer(5)
        # A transposed convolution works once for each of its inputs, the others once for each output.
        over, channels = (15, 11) if name == "conv_transpose2d" else (18, 10)
        return prod(_dims(values, node.integer(over))) * window * node.integer(channels)
    return 0


def placed(blob: bytes) -> Iterator[Placed]:
    """The operators of one delegate.

    Raises:
        BadFile: the delegate's data is not a graph for XNNPACK.
    """
    if blob[4:8] != _MAGIC:
        raise BadFile("the model file is damaged: a delegate does not hold a graph for XNNPACK")
    start, size = (int.from_bytes(blob[at : at + 4], "little") for at in (10, 14))
    graph = root(blob[start : start + size])
    values = _values(graph)
    for entry in graph.tables(1):
        node = entry.table(1)
        if node is not None:
            name = item(_NAMES, entry.integer(0, 1))
            macs = _macs(name, node, values)
            weight = node.integer(16 if name in _CONVOLUTIONS else 1)
            whole = macs if macs and weight in values and values[weight].integer else 0
            yield Placed(name, PLACE, delegated=True, macs=macs, integer_macs=whole)
