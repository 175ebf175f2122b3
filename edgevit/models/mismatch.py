"""Explains why a checkpoint does not fit a model, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgevit.errors import WeightsMismatch
from edgevit.models.checkpoints import StateDict
from edgevit.models.fit import Fit

if TYPE_CHECKING:
    import torch

_SHOWN = 3
"""Names that a message quotes of a longer list."""
_FLOATS_ONLY = 1
"""Fewest integer matrices that make a checkpoint a quantized one."""


@dataclass(frozen=True)
class Misfit:
    """A checkpoint and the model that it does not fit.

    Attributes:
        found: the fit of its tensors to the model's.
        tensors: as they are in the file.
        source: the file's name.
        own: the model's state.
        classifiers: dotted names of the model's last layers; several of a distilled model.
        first_convs: dotted names of the layers that take the picture.
        model: the model's name.
    """

    found: Fit
    tensors: StateDict
    source: str
    own: Mapping[str, torch.Tensor]
    classifiers: tuple[str, ...]
    first_convs: tuple[str, ...]
    model: str


def mismatch(case: Misfit) -> WeightsMismatch:
    """The error for a checkpoint that does not fit: the first explanation that applies, or a list of differences."""
    for kind in _KINDS:
        error = kind(case)
        if error is not None:
            return error
    return WeightsMismatch(
        "the checkpoint does not fit the model",
        where="\n".join(
            [
                case.source,
                *listing("missing", case.found.missing),
                *listing("unknown", case.found.unknown),
                *listing("shape", differing(case.found, case.own)),
            ]
        ),
        cure=f"check the model's name ({case.model}): edgevit models lists the variants of each family",
    )


def differing(found: Fit, own: Mapping[str, torch.Tensor]) -> list[str]:
    """One phrase for each key whose shape differs."""
    return [f"{key} is {tuple(found.state[key].shape)}, should be {tuple(own[key].shape)}" for key in found.differ]


def listing(label: str, items: list[str] | tuple[str, ...]) -> list[str]:
    """One line with the first few of many items."""
    if not items:
        return []
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return [f"{label}: {', '.join(items[:_SHOWN])}{more}"]


def head_size(state: Mapping[str, torch.Tensor], classifiers: tuple[str, ...]) -> int | None:
    """The number of classes of the first of these layers that exists; None where none does."""
    for classifier in classifiers:
        weight = state.get(f"{classifier}.weight")
        if weight is not None and weight.dim() >= 1:
            return int(weight.shape[0])
    return None


_ADAPTER: Final = re.compile(r"lora_|\.lora|base_model\.model\.|hada_w|\.oft_|adapter|ia3_|vera_lambda")


def _adapter(case: Misfit) -> WeightsMismatch | None:
    key = next((key for key in case.tensors if _ADAPTER.search(key)), None)
    if key is None:
        return None
    return WeightsMismatch(
        "these are LoRA or adapter weights: a change to a model, not a model",
        where=f"{case.source}: {key}",
        cure="merge them first: model = model.merge_and_unload(); torch.save(model.state_dict(), FILE)",
    )


_QUANTIZED: Final = re.compile(
    r"(_packed_params|zero_point|weight_scale|qweight|qzeros|weight_fake_quant|activation_post_process|\.SCB|"
    r"quant_state|\.absmax)"
)


def _quantized(case: Misfit) -> WeightsMismatch | None:
    keys = [key for key in case.tensors if _QUANTIZED.search(key)]
    whole = [
        key
        for key, value in case.tensors.items()
        if value.is_quantized or (value.dim() >= 2 and _is_byte(str(value.dtype)))
    ]
    if not keys and len(whole) < _FLOATS_ONLY:
        return None
    return WeightsMismatch(
        "the checkpoint is quantized; a float one is needed",
        where=f"{case.source}: {(keys or whole)[0]}",
        cure="give the float checkpoint that it was made from; edgevit quantize makes int8 of it",
    )


def _is_byte(dtype: str) -> bool:
    return dtype in ("torch.int8", "torch.uint8", "torch.qint8", "torch.quint8")


_TRANSFORMERS: Final = re.compile(
    r"^(vit|deit|beit|swin|swinv2|convnext|convnextv2|mobilevit|mobilevitv2|levit|pvt|poolformer|dinov2|vision_model|"
    r"clip|siglip|efficientformer|swiftformer|hiera|cvt|segformer|regnet|resnet|data2vec_vision|vit_msn|ijepa)\."
    r"|^encoder\.layer\.\d+\.attention\.|^embeddings\.(cls_token|patch_embeddings)|^vision_model\."
)


def _transformers(case: Misfit) -> WeightsMismatch | None:
    keys = [key for key in case.tensors if _TRANSFORMERS.search(key)]
    typical = [key for key in keys if "embeddings." in key or "encoder." in key]
    if not typical:
        return None
    return WeightsMismatch(
        "the checkpoint is in transformers' layout; the model is timm's",
        where=f"{case.source}: {typical[0]}",
        cure="give a checkpoint of the timm model: this version does not convert transformers' layers",
    )


def _channels(case: Misfit) -> WeightsMismatch | None:
    for name in case.first_convs:
        key = f"{name}.weight"
        if key not in case.found.differ:
            continue
        given, own = case.found.state[key], case.own[key]
        if given.dim() == 4 and given.shape[0] == own.shape[0] and given.shape[1] != own.shape[1]:
            channels = int(given.shape[1])
            return WeightsMismatch(
                f"the checkpoint takes pictures of {channels} channel{'' if channels == 1 else 's'}; "
                "this version exports models of RGB pictures only",
                where=f"{case.source}: {key} is {tuple(given.shape)}",
                cure="train the model with in_chans=3, the channel repeated for grey pictures",
            )
    return None


def _fused(case: Misfit) -> WeightsMismatch | None:
    statistics = [key for key in case.own if key.endswith("running_mean")]
    absent = [key for key in statistics if key in case.found.missing]
    branches = [key for key in case.found.unknown if re.search(r"reparam_conv\.|rbr_reparam\.|\.fused", key)]
    added = [key for key in case.found.unknown if key.endswith(".bias")]
    has_own = any(key in case.found.state for key in case.own)
    if not branches and not (2 * len(absent) > len(statistics) > 0 and added and has_own):
        return None
    return WeightsMismatch(
        "the checkpoint is the fused (reparameterised) form of the model: its batch norms are folded into convolutions",
        where=f"{case.source}: {(branches or added)[0]}",
        cure="give the checkpoint from training, before fuse() or reparameterize(); edgevit folds the norms itself",
    )


def _head(case: Misfit) -> WeightsMismatch | None:
    """The error for a head of several layers, or several heads, on a model that fits otherwise."""
    if not case.classifiers:
        return None
    stems = {part for name in case.classifiers for part in (name, name.rpartition(".")[0]) if part}
    names = re.compile(r"^(" + "|".join(map(re.escape, sorted(stems))) + r"|heads?|classifiers?|fc)[\w]*\.")
    own = {key for name in case.classifiers for key in (f"{name}.weight", f"{name}.bias")}
    rest = [key for key in case.found.missing if key not in own] + [key for key in case.found.differ if key not in own]
    odd = [key for key in case.found.unknown if names.match(key)]
    if rest or not odd or len(odd) != len(case.found.unknown):
        return None
    layers = sorted(
        {key.rpartition(".")[0] for key in odd} | {key.rpartition(".")[0] for key in own & case.found.state.keys()}
    )
    if case.found.missing and len(layers) == 1:
        return WeightsMismatch(
            f"the checkpoint's head is called {layers[0]}, the model's {case.classifiers[0]}",
            where=f"{case.source}: {', '.join(odd)}",
            cure=f"rename it to {case.classifiers[0]}.weight and .bias, or export what precedes it: --output features",
        )
    return WeightsMismatch(
        "the checkpoint's head is not one linear layer",
        where=f"{case.source}: {', '.join(layers[:4])}; the model has {', '.join(case.classifiers)}",
        cure="export what precedes the head, with the same file: --output features",
    )


_KINDS: Final[tuple[Callable[[Misfit], WeightsMismatch | None], ...]] = (
    _adapter,
    _quantized,
    _transformers,
    _channels,
    _fused,
    _head,
)
