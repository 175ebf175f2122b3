"""The effect of rounding alone on a model: its captured program in float64, and with every value rounded to fp16.

The difference between a model in float32 and the same program in float64 predicts the error of a right artifact
within a factor of three, so it is what a verdict measures errors by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.fx import GraphModule, Node
from torch.fx.node import map_aggregate

from edgevit.graph.fx import first_output, module_path
from edgevit.graph.half import LARGEST, kept_nodes, names_of
from edgevit.graph.prepare import graph_of
from edgevit.graph.rewrites import rewrites
from edgevit.graph.rewrites.drop_checks import is_check

Rounding = Literal["values", "weights"]
"""What of a model is stored in fp16: every value, or the weights alone."""
Function = Callable[[torch.Tensor], torch.Tensor]
_WIDER: Mapping[Any, Any] = {torch.float32: torch.float64, torch.complex64: torch.complex128}
_REGIONS = "inline_autocast"


@dataclass(frozen=True)
class Overflow:
    """An operation whose result is too large for fp16.

    Attributes:
        operation: the node's name.
        operator: its ATen operator, e.g. ``linear``.
        module: dotted path of the PyTorch module that it came from, or an empty string.
        value: the largest magnitude that was seen.
    """

    operation: str
    operator: str
    module: str
    value: float

    @property
    def keep(self) -> str:
        """The ``--keep-fp32`` pattern that keeps it in fp32: its module, or its own name where it has none."""
        return self.module or self.operation

    def sentence(self) -> str:
        """One line that reports the overflow, worded as for the hazards of a Core ML file."""
        place = f"{self.operator} {self.operation}" + (f" in {self.module}" if self.module else "")
        return f"{place} reaches {self.value:.3g}, fp16 ends at {LARGEST:,.0f}"


def _open_graph(program: Any) -> GraphModule:
    """A captured program's graph with the regions that the model guards from half precision inlined."""
    core = graph_of(program)
    for rewrite in rewrites():
        if rewrite.name == _REGIONS and rewrite.edit:
            rewrite.edit(core)
    return core


class _Exact(torch.fx.Interpreter):
    """Runs a graph that was captured in float32 in float64."""

    def run_node(self, n: Node) -> Any:
        """Execute one node; its result is float64."""
        return None if is_check(n) else _widened(super().run_node(n))

    def fetch_args_kwargs_from_env(self, n: Node) -> tuple[Any, Any]:
        """The operands of a node; a dtype among them is the wider one."""
        args, kwargs = super().fetch_args_kwargs_from_env(n)
        return _wider_dtypes(args), _wider_dtypes(kwargs)


def _widened(values: Any) -> Any:
    def one(value: Any) -> Any:
        return value.to(_WIDER[value.dtype]) if isinstance(value, torch.Tensor) and value.dtype in _WIDER else value

    return map_aggregate(values, one)


def _wider_dtypes(values: Any) -> Any:
    return map_aggregate(values, lambda value: _WIDER.get(value, value) if isinstance(value, torch.dtype) else value)


def exact(program: Any) -> Function:
    """A captured program in float64: normalised [1, 3, H, W] to float64 logits [1, classes]."""
    return exact_graph(_open_graph(program))


def exact_graph(core: GraphModule) -> Function:
    """The same as `exact`, for a program's graph."""

    @torch.no_grad()
    def run(inputs: torch.Tensor) -> torch.Tensor:
        return first_output(_Exact(core).run(inputs.double()))

    return run


class _Rounded(torch.fx.Interpreter):
    """Runs a graph in float32 with values, or weights alone, rounded to fp16."""

    def __init__(self, core: GraphModule, rounding: Rounding, kept: set[Node]) -> None:
        super().__init__(core)
        self._all, self._kept = rounding == "values", kept

    def run_node(self, n: Node) -> Any:
        """Execute one node and round its result to fp16."""
        if is_check(n):
            return None
        made = super().run_node(n)
        if n.op == "get_attr":
            is_kept = all(user in self._kept for user in n.users)
        else:
            is_kept = n in self._kept or not self._all or n.op == "output"
        return made if is_kept else _halved(made)


def _halved(values: Any) -> Any:
    def one(value: Any) -> Any:
        is_wide = isinstance(value, torch.Tensor) and value.dtype == torch.float32
        return value.half().float() if is_wide else value

    return map_aggregate(values, one)


def rounded(program: Any, rounding: Rounding, keep_fp32: tuple[str, ...] = ()) -> Function:
    """A captured program as half precision stores it: normalised float32 [1, 3, H, W] to logits [1, classes].

    Args:
        program: as captured.
        rounding: what is rounded to fp16.
        keep_fp32: patterns of operations that are not.
    """
    core = _open_graph(program)
    kept = kept_nodes(core, keep_fp32)

    @torch.no_grad()
    def run(inputs: torch.Tensor) -> torch.Tensor:
        return first_output(_Rounded(core, rounding, kept).run(inputs))

    return run


def rounded_forms(
    program: Any, precision: str, halves: Iterable[Rounding], keep_fp32: tuple[str, ...]
) -> dict[str, Function]:
    """The variants of a captured program that differ from the model only by rounding, by name.

    Args:
        program: as captured.
        precision: ``fp32``: the program in float64; ``fp16``: what is stored in half precision, one form for each way.
        halves: the ways in which fp16 files store the model.
        keep_fp32: patterns of operations that are computed in fp32.

    Returns:
        ``fp32``, or ``fp16 values`` and ``fp16 weights``; nothing for other precisions.
    """
    if precision == "fp32":
        return {"fp32": exact(program)}
    return {f"fp16 {way}": rounded(program, way, keep_fp32) for way in set(halves)} if precision == "fp16" else {}


@torch.no_grad()
def overflows(core: GraphModule, inputs: torch.Tensor, keep_fp32: tuple[str, ...] = ()) -> list[Overflow]:
    """The operations at which a program first exceeds the range of fp16.

    Args:
        core: the graph as it is lowered: rewritten, for ``--keep-fp32`` names what is there.
        inputs: normalised float32 [N, 3, H, W].
        keep_fp32: patterns of operations that are computed in fp32.

    Returns:
        Those whose operands are all in range, in the program's order.
    """
    kept = kept_nodes(core, keep_fp32)
    largest: dict[Node, float] = {}
    for one in inputs:
        seen = _Observed(core)
        seen.run(one[None])
        largest = {node: max(value, largest.get(node, 0.0)) for node, value in seen.largest.items()}
    found = {node for node, value in largest.items() if value > LARGEST and node not in kept}
    return [
        Overflow(node.name, names_of(node)[0], module_path(node), largest[node])
        for node in core.graph.nodes
        if node in found and not found & set(node.all_input_nodes)
    ]


class _Observed(torch.fx.Interpreter):
    """Runs a graph in float32 and keeps the largest magnitude of every value."""

    def __init__(self, core: GraphModule) -> None:
        super().__init__(core)
        self.largest: dict[Node, float] = {}

    def run_node(self, n: Node) -> Any:
        """Execute one node and record the largest magnitude of its result."""
        made = None if is_check(n) else super().run_node(n)
        if n.op == "call_function" and isinstance(made, torch.Tensor) and made.dtype == torch.float32 and made.numel():
            self.largest[n] = float(made.abs().max())
        return made
