"""A program in half precision: which values are fp16, which stay in fp32, and where one becomes the other.

A program is captured in float32, where a cast to float32 says nothing: it may be the model's guard
(``x.float().softmax(-1)``) or its way back (``y.to(x.dtype)``). So the rule goes by operands, as PyTorch's autocast
does: what is cast to float32 stays so until an operator meets a value in half precision. What the model guards, and
what the user keeps, is computed in float32 with float32 weights.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node
from torch.fx.node import map_aggregate, map_arg
from torch.utils import _pytree as pytree

from edgevit.errors import UsageError
from edgevit.graph.fx import GUARDED, RuleInterpreter, aten, attribute, drop_unread_attributes, module_path
from edgevit.graph.layouts import MOVES, PARTS
from edgevit.graph.rewrites.drop_checks import is_check

LARGEST = 65504.0
"""The largest number of fp16."""
_PRODUCTS = frozenset({aten.linear.default, aten.matmul.default, aten.bmm.default, aten.mm.default, aten.addmm.default})
_CONVOLUTIONS = frozenset(
    overload for one in (aten.conv1d, aten.conv2d, aten.conv3d) for overload in (one.default, one.padding)
) | {aten.convolution.default}
_CASTS = (aten.to.dtype, aten._to_copy.default, aten.to.device, aten.to.dtype_layout)


def names_of(node: Node) -> tuple[str, ...]:
    """The names by which a pattern can refer to an operation: operator type, node name, module path."""
    target = str(node.target)
    kind = target.split(".")[1] if target.count(".") > 1 else target
    return kind.lower(), target, node.name, module_path(node)


def matches(node: Node, pattern: str) -> bool:
    """Whether a glob matches an operation; a module's pattern includes all modules inside it."""
    return any(
        fnmatchcase(name, one) or fnmatchcase(name, f"{one}.*")
        for name in names_of(node)
        if name
        for one in {pattern, pattern.lower()}
    )


def kept_nodes(core: GraphModule, patterns: Sequence[str]) -> set[Node]:
    """The operations of a graph that stay in fp32: those the model guards, and those the patterns name."""
    operations = [node for node in core.graph.nodes if node.op == "call_function"]
    kept = {
        node for node in operations if node.meta.get(GUARDED) or any(matches(node, pattern) for pattern in patterns)
    }
    for node in reversed(operations):  # between kept operations nothing is rounded on the way
        if node.target in MOVES | PARTS and node.users and kept.issuperset(node.users):
            kept.add(node)
    for node in operations:  # a part of a kept split is kept with it
        if node.target is operator.getitem and node.args[0] in kept:
            kept.add(node)
    return kept


def check_patterns(core: GraphModule, patterns: Sequence[str]) -> None:
    """Refuse patterns that match no operation of a graph.

    Raises:
        UsageError: a pattern matches nothing.
    """
    operations = [node for node in core.graph.nodes if node.op == "call_function"]
    for pattern in patterns:
        if not any(matches(node, pattern) for node in operations):
            raise UsageError(f"--keep-fp32 {pattern} matches no operation, name or module")


def all_but_products(core: GraphModule) -> tuple[str, ...]:
    """The ``--keep-fp32`` patterns that keep everything but matrix products in fp32.

    Products (linear layers, ``matmul`` and convolutions of one tap) have most of the weights and of the work, and
    toolchains add them up in fp32 or exactly enough; what lies between is rounded after every step.

    Returns:
        Operator types, and the module of each convolution of more than one tap (the operation's name where it has
        none), in the program's order.
    """
    found = []
    for node in core.graph.nodes:
        if node.op != "call_function" or node.target in MOVES | PARTS | _PRODUCTS or is_check(node):
            continue
        if node.target not in _CONVOLUTIONS:
            found.append(names_of(node)[0])
        elif max(_taps(node)) > 1:
            found.append(module_path(node) or node.name)
    return tuple(dict.fromkeys(found))


def _taps(convolution: Node) -> tuple[int, ...]:
    """The size of a convolution's kernel along each spatial axis."""
    weight = convolution.args[1]
    assert isinstance(weight, Node)
    return tuple(weight.meta["val"].shape[2:])


def halve_constants(core: GraphModule, kept: Iterable[Node]) -> None:
    """Turn float32 weights and constants of a graph into float16, in place.

    Those that only operations kept in fp32 read stay as they are.

    Raises:
        UsageError: a weight is too large for fp16.
    """
    kept = set(kept)
    halves: dict[str, str] = {}
    for node in [node for node in core.graph.nodes if node.op == "get_attr"]:
        value = attribute(core, str(node.target))
        if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
            continue
        others = [user for user in node.users if user not in kept]
        if not others:
            continue
        path = str(node.target)
        if path not in halves:
            halves[path] = _half_of(core, path, value)
        with core.graph.inserting_before(node):
            half = core.graph.get_attr(halves[path])
        half.meta = {**node.meta, "val": attribute(core, halves[path])}
        for user in others:
            user.replace_input_with(node, half)
        if not node.users:
            core.graph.erase_node(node)
    drop_unread_attributes(core)
    core.recompile()


def _half_of(core: GraphModule, path: str, value: torch.Tensor) -> str:
    """Register a tensor in fp16 beside the float32 one; returns its path."""
    half = value.detach().half()
    if bool(torch.isinf(half).any()) and not bool(torch.isinf(value).any()):
        raise UsageError(
            f"the weight {path} reaches {float(value.abs().max()):.3g}, and fp16 ends at {LARGEST:,.0f}",
            cure="keep what reads it in fp32: --keep-fp32 MODULE; or choose --precision fp32",
        )
    owner, _, leaf = path.rpartition(".")
    module: nn.Module = core.get_submodule(owner)
    name = f"{leaf}_half"
    while hasattr(module, name):
        name += "_"
    module.register_buffer(name, half)
    return f"{owner}.{name}" if owner else name


def _tensors(values: Any) -> list[torch.Tensor]:
    return [value for value in pytree.tree_leaves(values) if isinstance(value, torch.Tensor)]


def _cast(values: Any, source: torch.dtype, goal: torch.dtype) -> Any:
    def one(value: Any) -> Any:
        return value.to(goal) if isinstance(value, torch.Tensor) and value.dtype == source else value

    return map_aggregate(values, one)


class HalfInterpreter(RuleInterpreter):
    """Runs a graph with fp16 constants on an fp16 input, with some operations in float32."""

    def __init__(self, core: GraphModule, rules: Mapping[Any, Callable[..., Any]], kept: set[Node]) -> None:
        super().__init__(core, dict(rules))
        self._kept = kept

    def run_node(self, n: Node) -> Any:
        """Execute one node with its operands in the precision that it computes in."""
        if is_check(n):
            return None  # it names the dtype that the program was captured in
        return super().run_node(n)

    def fetch_args_kwargs_from_env(self, n: Node) -> tuple[Any, Any]:
        """The operands of a node, cast for `run_node`; overrides `torch.fx.Interpreter`."""
        if n.op != "call_function":
            return super().fetch_args_kwargs_from_env(n)
        keeps = n in self._kept

        def read(source: Node) -> Any:
            value = self.env[source]
            if keeps:
                return _cast(value, torch.float16, torch.float32)
            if source in self._kept:
                return _cast(value, torch.float32, torch.float16)
            return value

        args, kwargs = map_arg((n.args, n.kwargs), read)
        if not keeps and n.target not in _CASTS and n.target is not operator.getitem:
            given = {value.dtype for value in _tensors((args, kwargs))}
            if {torch.float16, torch.float32} <= given:
                args, kwargs = _cast((args, kwargs), torch.float32, torch.float16)
        return args, kwargs
