"""Reads ExecuTorch programs (schema/program.fbs of executorch) without its runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from math import prod
from pathlib import Path

from edgevit.backends.executorch import xnnpack_file as _xnnpack
from edgevit.core.binary import Table, item, root
from edgevit.errors import BadFile
from edgevit.schema.manifest import MARKER
from edgevit.schema.placement import Placed, Placement, gathered

_TENSOR_VALUE, _STRING_VALUE = 5, 6
_KERNEL_CALL, _DELEGATE_CALL = 1, 2
_IN_SEGMENT = 1
_SEGMENT_BASE = slice(24, 32)
"""Of the extended header that follows the first eight bytes."""
_PORTABLE = "ExecuTorch's own kernels"
_WHY = {
    "native_layer_norm": "XNNPACK has no LayerNorm",
    "native_group_norm": "XNNPACK has no GroupNorm",
    "expand_copy": "XNNPACK expands values inside of its operators only",
    "split_with_sizes_copy": "XNNPACK takes slices, not splits",
    "select_copy": "XNNPACK takes slices, not selections",
    "slice_copy": "XNNPACK takes slices of neighbours only, without a step",
    "squeeze_copy": "XNNPACK takes reshapes",
    "unsqueeze_copy": "XNNPACK takes reshapes",
    "index": "XNNPACK has no lookup",
    "index_select": "XNNPACK has no lookup",
    "embedding": "XNNPACK has no lookup",
    "mean": "XNNPACK takes means over the two axes of an image only",
    "sum": "XNNPACK has no sums along an axis",
    "_to_dim_order_copy": "a change of dtype, or a copy",
    "permute_copy": "XNNPACK takes floats; this moves bytes",
    **dict.fromkeys(
        ("eq", "any", "full_like", "logical_not", "where"), "the guard of a softmax against rows that are wholly masked"
    ),
}
_OTHERWISE = "ExecuTorch's partitioner for XNNPACK does not take it in this form"


class ExecutorchProgram:
    """One ExecuTorch file, parsed.

    Raises:
        BadFile: it is not an ExecuTorch program, or it points outside itself.
    """

    def __init__(self, path: Path) -> None:
        self._data = path.read_bytes()
        if self._data[4:6] != b"ET":
            raise BadFile("not an ExecuTorch program", where=str(path))
        self._root = root(self._data)

    @cached_property
    def _plans(self) -> dict[str, Table]:
        return {plan.text(0): plan for plan in self._root.tables(1)}

    @cached_property
    def _forward(self) -> Table | None:
        return self._plans.get("forward")

    def _calls(self) -> Iterator[tuple[int, Table]]:
        """Instructions of the forward method: (kind, its arguments)."""
        for chain in self._forward.tables(5) if self._forward else ():
            for instruction in chain.tables(2):
                arguments = instruction.table(1)
                if arguments is not None:
                    yield instruction.integer(0, 1), arguments

    def kernel_calls(self) -> Iterator[tuple[str, list[tuple[int, ...]]]]:
        """Calls outside delegates, in order: the operator's name, and the shapes of its tensors."""
        if self._forward is None:
            return
        names = [".".join(part for part in (op.text(0), op.text(1)) if part) for op in self._forward.tables(6)]
        values = list(self._forward.tables(2))
        for kind, call in self._calls():
            if kind != _KERNEL_CALL:
                continue
            operands = [item(values, number) for number in call.integers(1)]
            tensors = (one.table(1) for one in operands if one.integer(0, 1) == _TENSOR_VALUE)
            yield item(names, call.integer(0)), [tensor.integers(2) for tensor in tensors if tensor is not None]

    def delegate_calls(self) -> Iterator[tuple[str, Table]]:
        """Calls of delegates: the backend's name, and the delegate's table."""
        delegates = list(self._forward.tables(7)) if self._forward else []
        for kind, call in self._calls():
            if kind == _DELEGATE_CALL:
                delegate = item(delegates, call.integer(0))
                yield delegate.text(0), delegate

    def blob(self, delegate: Table) -> bytes:
        """The data of a delegate."""
        reference = delegate.table(1)
        if reference is None:
            return b""
        index = reference.integer(1)
        if reference.integer(0, 1) != _IN_SEGMENT:
            return item(list(self._root.tables(3)), index).raw(0) or b""
        segment = item(list(self._root.tables(4)), index)
        start = int.from_bytes(self._data[_SEGMENT_BASE], "little") + segment.integer(0, 8)
        return self._data[start : start + segment.integer(1, 8)]

    def constant_string(self, method: str) -> str | None:
        """The string that a constant method returns."""
        plan = self._plans.get(method)
        for value in plan.tables(2) if plan else ():
            text = value.table(1)
            if value.integer(0, 1) == _STRING_VALUE and text is not None:
                return text.text(0)
        return None


def operators(path: Path) -> Counter[str]:
    """How often each delegate's backend is called, and each operator outside delegates."""
    program = ExecutorchProgram(path)
    found = Counter(name for name, _ in program.kernel_calls())
    found.update(f"delegate: {name}" for name, _ in program.delegate_calls())
    return found


def read_embedded(path: Path) -> str | None:
    """The string that the constant method ``edgevit_manifest`` returns."""
    return ExecutorchProgram(path).constant_string(MARKER)


def _macs(name: str, sizes: list[tuple[int, ...]]) -> int:
    """Multiply-accumulates of a call outside delegates; its last tensor is its result."""
    if name in ("bmm", "mm", "linear") and len(sizes) > 2:
        return prod(sizes[-1]) * sizes[0][-1]
    if name == "addmm" and len(sizes) > 3:
        return prod(sizes[-1]) * sizes[1][-1]
    if name == "convolution" and len(sizes) > 2:
        return prod(sizes[-1]) * prod(sizes[1][1:])
    return 0


def placement(path: Path) -> Placement:
    """Which operators XNNPACK executes and which ExecuTorch's own kernels do, which run on one thread."""
    program, found, delegates = ExecutorchProgram(path), [], 0
    for name, sizes in program.kernel_calls():
        plain = name.rpartition("::")[2].partition(".")[0]
        found.append(
            Placed(plain, _PORTABLE, delegated=False, why=_WHY.get(plain, _OTHERWISE), macs=_macs(plain, sizes))
        )
    for name, delegate in program.delegate_calls():
        delegates += 1
        if name == "XnnpackBackend":
            found += _xnnpack.placed(program.blob(delegate))
        else:
            found.append(Placed("delegate", name, delegated=True))
    return gathered(found, delegates)
