"""Cuts a model down to the units that are kept: smaller dense tensors, no masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgevit.compress.width.structure import Structure
from edgevit.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

FAMILIES = ("ViT and DeiT", "TinyViT", "SHViT")


def structure_of(model: nn.Module) -> Structure:
    """The structure of a model as it is now: the groups that can be cut.

    Raises:
        UsageError: its architecture is not supported.
    """
    from timm.models.shvit import SHViT
    from timm.models.tiny_vit import TinyVit
    from timm.models.vision_transformer import VisionTransformer

    from edgevit.compress.width.shvit import describe_shvit
    from edgevit.compress.width.tinyvit import describe_tinyvit
    from edgevit.compress.width.vit import describe_vit

    for family, describe in ((VisionTransformer, describe_vit), (TinyVit, describe_tinyvit), (SHViT, describe_shvit)):
        if isinstance(model, family):
            return describe(model)
    raise UsageError(
        f"{type(model).__name__} cannot be pruned here",
        cure=f"choose a model of {', '.join(FAMILIES)}: edgevit models lists them",
    )


def cut(model: nn.Module, kept: Mapping[str, Sequence[int]], *, rescale: bool = True) -> nn.Module:
    """Remove every unit that is not kept, in place.

    Args:
        model: of a known family.
        kept: by group, the indices of the units that stay, in ascending order; groups left out stay whole.
        rescale: keep the function as it was. Where the softmax scale follows the head dimension, queries are
            multiplied by sqrt(kept/original); where a norm divides by the mean over its channels, its weights are
            by sqrt(original/kept), so that a removed channel counts as one of zeros.

    Returns:
        The model itself.

    Raises:
        UsageError: the architecture is not known, or the widths do not fit together.
    """
    import torch

    structure = structure_of(model)
    order = {
        name: torch.as_tensor(kept[name] if name in kept else range(group.size), dtype=torch.long)
        for name, group in structure.groups.items()
    }
    _check_layers(structure, {name: len(indices) for name, indices in order.items()})
    for axis in structure.axes:
        starts, position = [], 0
        for part in axis.parts:
            starts.append(order[part] + position)
            position += structure.groups[part].size
        _replace(model, axis.tensor, axis.dim, torch.cat(starts))
    sizes = {name: len(indices) for name, indices in order.items()}
    if rescale:
        _rescale_norms(model)
    _settle_layers(model)
    structure.settle(model, sizes)
    if rescale:
        _rescale(model, structure, sizes)
    return model


def narrow(model: nn.Module, widths: Mapping[str, int]) -> nn.Module:
    """Give a freshly built model the widths of a pruned one, so that it can load its weights.

    Args:
        model: the original architecture.
        widths: units by group, as `Structure.sizes` of the pruned model gave them.

    Raises:
        UsageError: a group is unknown or would grow.
    """
    groups = structure_of(model).groups
    for name, width in widths.items():
        if name not in groups or not 1 <= width <= groups[name].size:
            raise UsageError(f"the architecture has no {name!r} with {width} units", cure="split the model again")
    return cut(model, {name: range(width) for name, width in widths.items()}, rescale=False)


def _check_layers(structure: Structure, sizes: Mapping[str, int]) -> None:
    layers: dict[str, int] = {}
    for name, group in structure.groups.items():
        if group.layer and layers.setdefault(group.layer, sizes[name]) != sizes[name]:
            raise UsageError(f"{name} would keep {sizes[name]} units, the rest of its layer {layers[group.layer]}")
        if sizes[name] < 1:
            raise UsageError(f"{name} would keep no units", cure="prune less: --keep with a larger share")


def _replace(model: nn.Module, name: str, dim: int, indices: Tensor) -> None:
    from torch import nn

    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    value: Tensor = getattr(module, leaf)
    new = value.detach().index_select(dim, indices)
    if leaf in module._parameters:
        module._parameters[leaf] = nn.Parameter(new, requires_grad=value.requires_grad)
    else:
        module._buffers[leaf] = new


def _settle_layers(model: nn.Module) -> None:
    """Update the sizes that layers store beside their weights."""
    from torch import nn

    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.out_features, layer.in_features = layer.weight.shape
        elif isinstance(layer, nn.Conv2d):
            layer.out_channels = len(layer.weight)
            if layer.groups > 1 and layer.weight.shape[1] == 1:
                layer.groups = layer.out_channels
            layer.in_channels = layer.weight.shape[1] * layer.groups
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None:
            layer.num_features = len(layer.running_mean)
        elif isinstance(layer, nn.LayerNorm) and layer.weight is not None:
            layer.normalized_shape = tuple(layer.weight.shape)
        elif isinstance(layer, nn.GroupNorm) and layer.weight is not None:
            layer.num_channels = len(layer.weight)


def _rescale_norms(model: nn.Module) -> None:
    from torch import nn

    for layer in model.modules():
        if isinstance(layer, nn.LayerNorm) and layer.weight is not None:
            layer.weight.data *= (layer.normalized_shape[0] / len(layer.weight)) ** 0.5


def _rescale(model: nn.Module, structure: Structure, sizes: Mapping[str, int]) -> None:
    """Multiply the query rows by sqrt(kept/original), so that the softmax scale stays what it was."""
    parts = {axis.tensor: axis.parts for axis in structure.axes if axis.dim == 0}
    for group, places in structure.softmax.items():
        factor = (sizes[group] / structure.groups[group].size) ** 0.5
        for tensor, position in places:
            if factor == 1 or tensor not in parts:
                continue
            start = sum(sizes[part] for part in parts[tensor][:position])
            owner, _, leaf = tensor.rpartition(".")
            getattr(model.get_submodule(owner), leaf).data[start : start + sizes[group]] *= factor
