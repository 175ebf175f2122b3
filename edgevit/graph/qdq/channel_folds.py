"""Exact changes of a value's channels: scaled and shifted by its producer, undone by its readers.

RepQ-ViT (Li et al., ICCV 2023, section 3.2) does this after LayerNorm; here it is done wherever the maker of
a value can take a factor for each channel: a norm, a convolution or linear layer, also before a ReLU.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.fx import Node

from edgevit.errors import BadFile
from edgevit.graph.fx import add_constant, argument, aten, constant, is_call, operand, shape
from edgevit.graph.layouts import traced
from edgevit.graph.qdq.layers import CONVOLUTION, LINEAR, RELUS, SHAPE_OPERATORS, Layer, layers_of
from edgevit.graph.rewrites.fold_batch_norm import Affine, layer_constants, scale_inputs, scale_outputs, set_layer
from edgevit.schema.recipe import ChannelFold

if TYPE_CHECKING:
    from torch.fx import GraphModule

_LAYER_NORM, GROUP_NORM = aten.layer_norm.default, aten.group_norm.default


@dataclass(frozen=True)
class Site:
    """A value whose channels can be scaled (and perhaps shifted) without changing the model.

    Attributes:
        value: the fx node whose channels can be rescaled.
        maker: the layer or norm that computes it and takes the change.
        consumers: the layers that undo the change; nothing else reads the value.
        channels: number of channels.
        shifts: whether a shift is possible besides a factor.
        through: attention products that preserve the channels, so that their results change too.
    """

    value: Node
    maker: Node
    consumers: tuple[Layer, ...]
    channels: int
    shifts: bool
    through: tuple[Node, ...] = ()


def _channel_axis(maker: Node) -> int:
    """The axis of the channels in the result of a layer or norm."""
    return len(shape(maker) or ()) - 1 if is_call(maker, LINEAR, _LAYER_NORM) else 1


def _takes_factor(core: GraphModule, node: Node) -> bool:
    if is_call(node, CONVOLUTION, LINEAR):
        return layer_constants(core, node) is not None
    if is_call(node, _LAYER_NORM) and len(argument(node, "normalized_shape")) != 1:
        return False
    weight = argument(node, "weight") if is_call(node, _LAYER_NORM, GROUP_NORM) else None
    return is_call(node, _LAYER_NORM, GROUP_NORM) and (weight is None or constant(core, weight) is not None)


def _weighted(user: Node, value: Node, positions: torch.Tensor) -> torch.Tensor | None:
    """The channels of an attention product's result: sums over tokens, each of one channel of its values."""
    place = 2 if is_call(user, aten.scaled_dot_product_attention.default) else 1
    is_product = is_call(user, aten.scaled_dot_product_attention.default, aten.matmul.default, aten.bmm.default)
    if not is_product or [one is value for one in user.args[:3]].count(True) != 1 or user.args[place] is not value:
        return None
    size = shape(user) or ()
    row = positions[..., :1, :]
    return row.expand(*size) if bool((positions == row).all()) and row.shape[-1] == size[-1] else None


def _readers(value: Node, positions: torch.Tensor, through: list[Node]) -> Iterable[tuple[Node, torch.Tensor | None]]:
    """The operators that read a value, each with the channel of every element that it reads."""
    for user in value.users:
        if is_call(user, *SHAPE_OPERATORS):
            moved = traced(user, positions)
        else:
            moved = _weighted(user, value, positions)
            if moved is None:
                yield user, positions
                continue
            through.append(user)
        if isinstance(moved, torch.Tensor):
            yield from _readers(user, moved, through)
        else:
            yield user, None


def _reads_channels(layer: Layer, positions: torch.Tensor) -> bool:
    """Whether the layer's input channel c is the value's channel c."""
    axis = 1 if layer.is_convolution else positions.dim() - 1
    order = torch.arange(positions.shape[axis]).reshape(-1, *[1] * (positions.dim() - 1 - axis))
    return bool((positions == order).all())


def _is_pointwise(layer: Layer) -> bool:
    if not layer.is_convolution:
        return True
    padding = argument(layer.node, "padding")
    return tuple(layer.weight.shape[2:]) == (1, 1) and not any(padding) and layer.groups == 1


def _site(core: GraphModule, value: Node, layers: dict[Node, Layer]) -> Site | None:
    maker = operand(value) if is_call(value, *RELUS) else value
    if not _takes_factor(core, maker) or (maker is not value and len(maker.users) != 1):
        return None
    size, axis = shape(maker) or (), _channel_axis(maker)
    channels = size[axis]
    positions = torch.arange(channels).reshape(-1, *[1] * (len(size) - 1 - axis)).expand(size)
    consumers: list[Layer] = []
    through: list[Node] = []
    for user, read in _readers(value, positions, through):
        layer = layers.get(user)
        if layer is None or read is None or not _reads_channels(layer, read):
            return None
        consumers.append(layer)
    if not consumers:
        return None
    shifts = value is maker and not through and all(map(_is_pointwise, consumers))
    return Site(value, maker, tuple(consumers), channels, shifts, tuple(through))


def sites_of(core: GraphModule) -> list[Site]:
    """Every value of a graph whose channels can be changed exactly, in order."""
    layers = {layer.node: layer for layer in layers_of(core)}
    found = (_site(core, node, layers) for node in list(core.graph.nodes) if node.op == "call_function")
    return [site for site in found if site is not None]


def _change_norm(core: GraphModule, node: Node, affine: Affine) -> None:
    names = [one.name for one in node.target._schema.arguments]  # type: ignore[union-attr]
    weight, bias = constant(core, argument(node, "weight")), constant(core, argument(node, "bias"))
    changed = {
        "weight": (1 if weight is None else weight.double()) * affine.scale,
        "bias": (0 if bias is None else bias.double()) * affine.scale + affine.shift,
    }
    for name, value in changed.items():
        new = add_constant(core, node, value.float())
        place = names.index(name)
        if name in node.kwargs:
            node.update_kwarg(name, new)
        else:
            node.args = (*node.args, *[None] * (place + 1 - len(node.args)))
            node.update_arg(place, new)


def widened(weight: torch.Tensor, values: torch.Tensor, groups: int) -> torch.Tensor:
    """Values per input channel, shaped to broadcast against a weight [out, in / groups, ...]."""
    if groups > 1:
        values = values.reshape(groups, -1).repeat_interleave(weight.shape[0] // groups, 0)
    else:
        values = values.reshape(1, -1)
    return values.reshape(*values.shape, *[1] * (weight.dim() - 2))


def _change_input(core: GraphModule, layer: Layer, affine: Affine) -> None:
    if not layer.is_convolution:
        scale_inputs(core, layer.node, affine)
        return
    found = layer_constants(core, layer.node)
    assert found is not None
    weight, bias = found[0].double(), found[1]
    shift = (weight * widened(weight, affine.shift, layer.groups)).flatten(1).sum(1)
    scaled = weight * widened(weight, affine.scale, layer.groups)
    set_layer(core, layer.node, scaled, shift if bias is None else shift + bias.double())


@torch.no_grad()
def apply_fold(core: GraphModule, site: Site, factor: torch.Tensor, shift: torch.Tensor | None = None) -> None:
    """Change a value's channels exactly: x becomes (x - shift) / factor.

    Args:
        core: edited in place.
        site: the value, its producer and its readers.
        factor: positive, [channels].
        shift: [channels]; None for none.
    """
    factor = factor.double()
    moved = torch.zeros_like(factor) if shift is None else shift.double()
    made = Affine(1 / factor, -moved / factor)
    if is_call(site.maker, CONVOLUTION, LINEAR):
        scale_outputs(core, site.maker, made)
    else:
        _change_norm(core, site.maker, made)
    for layer in site.consumers:
        _change_input(core, layer, Affine(factor, moved))


def apply_folds(core: GraphModule, folds: Iterable[ChannelFold]) -> None:
    """Apply a recipe's channel changes, in order.

    Raises:
        BadFile: the graph has no such value, or one whose channels cannot be changed so.
    """
    sites = {site.value.name: site for site in sites_of(core)}
    for fold in folds:
        site = sites.get(fold.value)
        if site is None or site.channels != len(fold.factor) or (fold.shift and not site.shifts):
            raise BadFile(f"the recipe changes the channels of {fold.value}, which the model does not allow")
        shift = torch.tensor(fold.shift) if fold.shift else None
        apply_fold(core, site, torch.tensor(fold.factor), shift)
    core.recompile()
