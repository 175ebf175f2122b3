"""Take in-place operators out of a captured graph where something else still reads what they overwrite.

``mask = torch.ones(4, 4); mask[:2] = 0`` is captured as ``slice`` and ``fill_`` on a view of ``ones``: whoever reads
``ones`` afterwards reads the written values, although the graph has no edge that says so. Rewrites follow edges, so
such a write is made a value of its own first, as `torch.func.functionalize` does, but with the layers left whole.
An in-place operator whose operand nothing reads again (``x = relu_(x)``) computes the same as its plain form and stays.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgevit.graph.builder import Builder, abstract
from edgevit.graph.fx import argument, aten, finish, shape
from edgevit.graph.layouts import VIEWS, permutation

_SAME_SHAPE = (
    aten.alias.default,
    aten.detach.default,
    aten.detach_.default,
    aten.contiguous.default,
    aten.dropout.default,
    aten.to.dtype,
    aten.to.device,
    aten.to.dtype_layout,
    aten.to.other,
    aten.type_as.default,
)
"""They return their operand itself, or a copy of it."""
_RESHAPES = VIEWS | {aten.view_as.default, aten.reshape_as.default}
_RANDOM = torch.Tag.nondeterministic_seeded


class _NotFunctional(Exception):
    """A write that has no plain form here."""


def written_operand(node: Node) -> Node | None:
    """The node whose memory an in-place operator overwrites, or None for an operator that only reads."""
    schema = getattr(node.target, "_schema", None) if node.op == "call_function" else None
    if schema is None or not schema.is_mutable:
        return None
    written = [place for place, one in enumerate(schema.arguments) if one.alias_info and one.alias_info.is_write]
    return node.args[written[0]] if written and written[0] < len(node.args) else None  # type: ignore[return-value]


def is_written(node: Node) -> bool:
    """Whether an operator later overwrites a node's value, directly or through a view of it."""
    return any(
        written_operand(user) is node or (_aliased(user) is node and is_written(user)) for user in list(node.users)
    )


def _aliased(node: Node) -> Node | None:
    """The operand whose memory a node's value lies in, or None where the value has memory of its own."""
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], Node):
        return None
    source = node.args[0]
    if node.target is operator.getitem:
        return source if _aliased(source) is not None else None
    if written_operand(node) is not None:
        return written_operand(node)
    schema = getattr(node.target, "_schema", None)
    may_alias = schema is not None and any(one.alias_info for one in schema.arguments)
    composite = node.target in (*_SAME_SHAPE, *_RESHAPES)
    if not may_alias and not composite:
        return None
    given = abstract(source)
    if not isinstance(given, torch.Tensor):
        return None
    try:
        arguments = torch.fx.map_arg(node.args[1:], abstract)
        made = node.target(given, *arguments, **torch.fx.map_arg(node.kwargs, abstract))  # type: ignore[operator]
    except (RuntimeError, TypeError, NotImplementedError):
        return source
    first = made[0] if isinstance(made, (tuple, list)) and made else made
    return source if first is given or (isinstance(first, torch.Tensor) and first._base is given) else None


@dataclass
class _Memory:
    """One piece of memory and every value that lies in it.

    Attributes:
        base: the node that made it.
        chains: for each value in it, the operators that lead from the base to the value.
    """

    base: Node
    chains: dict[Node, tuple[Node, ...]] = field(default_factory=dict)


def _moved(node: Node, places: Any) -> Any:
    """The places of a view of a value, of each part where it has several."""
    if node.target is operator.getitem:
        return places[node.args[1]]
    if node.target in _SAME_SHAPE or written_operand(node) is not None:
        return places
    if node.target in (aten.view_as.default, aten.reshape_as.default):
        return places.reshape(shape(node))
    return node.target(places, *node.args[1:], **node.kwargs)  # type: ignore[operator]


def _memory_of(node: Node) -> _Memory:
    """The memory that a node's value lies in, with all its views."""
    memory = _Memory(node)
    while (source := _aliased(memory.base)) is not None:
        memory.base = source
    waiting: list[tuple[Node, tuple[Node, ...]]] = [(memory.base, ())]
    while waiting:
        value, chain = waiting.pop()
        memory.chains[value] = chain
        views = [user for user in value.users if _aliased(user) is value and user not in memory.chains]
        waiting += [(view, chain if written_operand(view) is not None else (*chain, view)) for view in views]
    return memory


def _places(memory: _Memory) -> dict[Node, torch.Tensor]:
    """For each value, the elements of the base that it holds: int64, in any shape."""
    size = shape(memory.base)
    if size is None:
        raise _NotFunctional(str(memory.base.target))
    found: dict[Node, Any] = {memory.base: torch.arange(prod(size)).reshape(size)}
    for value, chain in memory.chains.items():
        places = found[memory.base]
        for step in chain:
            places = _moved(step, places)
        found[value] = places
    return {
        value: places if isinstance(places, torch.Tensor) else torch.cat([part.flatten() for part in places])
        for value, places in found.items()
    }


def _stale(memory: _Memory, write: Node, order: dict[Node, int]) -> list[Node]:
    """The values that a write changes and that are read after it by another name than the write's own result."""
    late = [
        value
        for value in memory.chains
        if order[value] < order[write] and any(order[user] > order[write] for user in value.users)
    ]
    if not late:
        return []
    places = _places(memory)
    return [value for value in late if bool(torch.isin(places[value].flatten(), places[write].flatten()).any())]


def _plain_form(make: Builder, write: Node, given: Node) -> Node:
    """What an in-place operator computes, as a value of its own."""
    target = write.target
    size, dtype = shape(given), given.meta["val"].dtype
    if _RANDOM in getattr(target, "tags", ()):
        raise _NotFunctional(str(target))
    if target is aten.copy_.default:
        made = write.args[1]
    elif target in (aten.fill_.Scalar, aten.fill_.Tensor):
        made = write.args[1]
        if not isinstance(made, Node):
            return make.call(aten.full_like.default, given, made)
    elif target is aten.zero_.default:
        return make.call(aten.full_like.default, given, 0)
    else:
        made = make.call(_without_underscore(target), given, *write.args[1:], **write.kwargs)
    assert isinstance(made, Node)
    if made.meta["val"].dtype != dtype:
        made = make.call(aten.to.dtype, made, dtype)
    return made if shape(made) == size else make.call(aten.expand.default, made, list(size or ()))


def _without_underscore(target: Any) -> Any:
    name, overload = target._schema.name.partition("::")[2], target._overloadname
    if not name.endswith("_") or target.namespace != "aten":
        raise _NotFunctional(str(target))
    packet = getattr(aten, name.rstrip("_"), None)
    plain = getattr(packet, overload, None)
    if plain is None or plain._schema.is_mutable or len(plain._schema.arguments) != len(target._schema.arguments):
        raise _NotFunctional(str(target))
    return plain


def _part_of(make: Builder, whole: Node, steps: tuple[Node, ...]) -> list[Node]:
    """The values along a chain of views, taken of another base; the first is the base."""
    values = [whole]
    for step in steps:
        values.append(make.call(step.target, values[-1], *step.args[1:], **step.kwargs))
    return values


def _write_back(make: Builder, whole: Node, part: Node, step: Node) -> Node:
    """``whole`` with the view of it that ``step`` takes replaced by ``part``."""
    if step.target in _SAME_SHAPE:
        return part
    if step.target in _RESHAPES:
        return make.reshape(part, shape(whole) or ())
    rank = len(shape(whole) or ())
    if step.target in (aten.permute.default, aten.transpose.int, aten.t.default):
        order = permutation(step, rank)
        return make.permute(part, [order.index(axis) for axis in range(rank)])
    if step.target is aten.slice.Tensor:
        names = ("dim", "start", "end", "step")
        return make.call(aten.slice_scatter.default, whole, part, *(argument(step, name) for name in names))
    if step.target is aten.select.int:
        return make.call(aten.select_scatter.default, whole, part, step.args[1], step.args[2])
    raise _NotFunctional(str(step.target))


def _part_write_back(make: Builder, whole: Node, part: Node, steps: tuple[Node, Node]) -> Node:
    """The same for one part of a split or an unbinding, which takes two operators to name."""
    several, chosen = steps
    index, size = int(chosen.args[1]), shape(whole) or ()  # type: ignore[arg-type]
    axis = argument(several, "dim", 0) % len(size)
    if several.target is aten.unbind.int:
        return make.call(aten.select_scatter.default, whole, part, axis, index)
    if several.target not in (aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default):
        raise _NotFunctional(str(several.target))
    starts = torch.arange(size[axis])
    parts = several.target(starts, *several.args[1:2], 0)
    start = int(parts[index][0]) if len(parts[index]) else 0
    return make.call(aten.slice_scatter.default, whole, part, axis, start, start + len(parts[index]), 1)


def _whole_after(make: Builder, whole: Node, part: Node, steps: tuple[Node, ...]) -> Node:
    """The base once the view at the end of a chain was overwritten."""
    values = _part_of(make, whole, steps)
    place = len(steps)
    while place:
        step = steps[place - 1]
        if step.target is operator.getitem:
            part = _part_write_back(make, values[place - 2], part, (steps[place - 2], step))
            place -= 2
        else:
            part = _write_back(make, values[place - 1], part, step)
            place -= 1
    return part


def _replace(graph_module: GraphModule, memory: _Memory, write: Node, stale: list[Node]) -> None:
    """Make one write a value of its own, and let everything that reads the memory afterwards read it."""
    make = Builder(graph_module).at(write)
    given = written_operand(write)
    assert given is not None
    whole = _whole_after(make, memory.base, _plain_form(make, write, given), memory.chains[given])
    after = False
    for node in list(graph_module.graph.nodes):
        if after:
            for value in [one for one in node.all_input_nodes if one in stale]:
                node.replace_input_with(value, _part_of(make.at(node), whole, memory.chains[value])[-1])
        after |= node is write
    graph_module.graph.erase_node(write)


def _is_shared(base: Node) -> bool:
    """Whether memory must never be overwritten: a weight, an input, or a copy that may become a view.

    A reshape copies where strides ask for it; a rewrite that changes the strides before it makes it a view.
    """
    return base.op != "call_function" or base.target in (*_SAME_SHAPE, *_RESHAPES)


@torch.no_grad()
def make_functional(graph_module: GraphModule) -> bool:
    """Make every write that something else reads a value of its own, in place.

    Returns:
        False where such a write has no plain form here; the graph then computes what it did, but is not fit for
        rewrites.
    """
    kept: set[Node] = set()
    while True:
        order = {node: index for index, node in enumerate(graph_module.graph.nodes)}
        write = next((node for node in order if node not in kept and written_operand(node) is not None), None)
        if write is None:
            break
        try:
            memory = _memory_of(write)
            stale = _stale(memory, write, order)
            if stale or _is_shared(memory.base):
                _replace(graph_module, memory, write, [write, *stale])
        except _NotFunctional:
            return False
        kept.add(write)
    finish(graph_module)
    return True
