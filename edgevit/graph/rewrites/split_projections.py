"""A fused projection (query, key and value) as one layer for each part that is read.

A linear layer or convolution whose outputs are only split along its channels, and moved, becomes a layer
for each part with its rows of the weight. The copies that split it vanish, each part has one permutation
of its own, and the weights stay as large as they were. Exact: every output is the same sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgevit.graph.builder import Builder
from edgevit.graph.fx import LEAVES_GUARD, argument, aten, calls, finish, shape
from edgevit.graph.layouts import MOVES, PARTS, Move, as_move, traced
from edgevit.graph.rewrites import Rewrite
from edgevit.graph.rewrites.fold_batch_norm import layer_constants

_CHANNEL_AXIS: dict[Any, int] = {aten.linear.default: -1, aten.conv2d.default: 1}


@dataclass(frozen=True)
class _Part:
    """What one reader takes: these channels, moved so."""

    node: Node
    channels: torch.Tensor
    move: Move


def _leaves(node: Node, positions: Any, found: list[tuple[Node, Any]]) -> bool:
    """Collect the moved and split values that something computes with; False where one is not a plain value."""
    if node.meta.get(LEAVES_GUARD):
        return False
    users = list(node.users)
    moving = [user for user in users if user.target in MOVES | PARTS and user.args[0] is node]
    if len(moving) < len(users) or not users:
        found.append((node, positions))
        return isinstance(positions, torch.Tensor)
    return all(_leaves(user, traced(user, positions), found) for user in moving)


def _part(node: Node, positions: torch.Tensor, size: tuple[int, ...], axis: int) -> _Part | None:
    """A leaf as some whole channels of the layer, or None where it takes others, or not all of each."""
    inner, width = prod(size[axis + 1 :]), size[axis]
    outer, channel, place = positions // (inner * width), positions // inner % width, positions % inner
    channels = torch.unique(channel)
    if positions.numel() != prod(size) // width * len(channels):
        return None
    rank = torch.zeros(width, dtype=torch.long)
    rank[channels] = torch.arange(len(channels))
    own = (*size[:axis], len(channels), *size[axis + 1 :])
    move = as_move((outer * len(channels) + rank[channel]) * inner + place, own) if positions.numel() > 1 else None
    return _Part(node, channels, move) if move else None


def _parts(layer: Node) -> list[_Part] | None:
    size = shape(layer)
    leaves: list[tuple[Node, Any]] = []
    if not size or not _leaves(layer, torch.arange(prod(size)).reshape(size), leaves) or len(leaves) < 2:
        return None
    axis = _CHANNEL_AXIS[layer.target] % len(size)
    parts = [_part(node, positions, size, axis) for node, positions in leaves]
    known = [part for part in parts if part is not None]
    taken = sum(len(part.channels) for part in known)
    disjoint = known and len(torch.unique(torch.cat([part.channels for part in known]))) == taken
    return known if len(known) == len(parts) and disjoint else None


def _split(builder: Builder, layer: Node, parts: list[_Part]) -> bool:
    found = layer_constants(builder.graph_module, layer)
    if found is None or argument(layer, "groups", 1) != 1:
        return False
    weight, bias = found
    builder.at(layer)
    further = layer.args[3:]
    for part in parts:
        own = None if bias is None else builder.constant(bias[part.channels])
        rows = builder.constant(weight[part.channels])
        made = builder.call(layer.target, layer.args[0], rows, own, *further)
        part.node.replace_all_uses_with(part.move.emit(builder, made))
    return True


@torch.no_grad()
def edit(graph_module: GraphModule) -> int:
    """Split every such layer; returns how many."""
    builder, done = Builder(graph_module), 0
    for layer in calls(graph_module, *_CHANNEL_AXIS):
        fits = not layer.kwargs and layer_constants(graph_module, layer) is not None
        parts = _parts(layer) if fits else None
        done += bool(parts) and _split(builder, layer, parts)  # type: ignore[arg-type]
    finish(graph_module)
    return done


REWRITE = Rewrite(
    "split_projections",
    __doc__.splitlines()[0],
    order=70,
    backends=frozenset({"executorch", "onnx", "litert"}),
    edit=edit,
)
