"""Renames official TinyViT and SHViT checkpoints to timm's key layout.

TinyViT: microsoft/Cream (ECCV 2022); SHViT: ysj9909/SHViT (CVPR 2024). Every pattern is applied
to the original key, once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

StateDict = dict[str, "torch.Tensor"]
Rename = tuple[re.Pattern[str], Callable[[re.Match[str]], str]]

_BN_EPSILON = 1e-5
"""PyTorch's default of `torch.nn.BatchNorm2d`."""


def to_timm_layout(state: Mapping[str, torch.Tensor]) -> StateDict:
    """The same tensors under timm's keys; tensors in other layouts are returned unchanged."""
    if any(key.startswith("blocks1.") for key in state):
        return _average_distilled_heads({_rename(key, _SHVIT): value for key, value in state.items()})
    if any(key.startswith("layers.0.blocks.0.conv1.c.") for key in state):
        kept = {key: value for key, value in state.items() if not key.endswith("attention_bias_idxs")}
        return {_rename(key, _TINYVIT): value for key, value in kept.items()}
    return dict(state)


def _rename(key: str, table: tuple[Rename, ...]) -> str:
    for pattern, name in table:
        match = pattern.fullmatch(key)
        if match:
            return name(match)
    return key


def _conv_norm(rest: str) -> str:
    """Keys of TinyViT's Conv2d_BN: children ``c``, ``bn`` in the official code, ``conv``, ``bn`` in timm."""
    return re.sub(r"\.c\.", ".conv.", rest)


_TINYVIT: tuple[Rename, ...] = (
    (
        re.compile(r"patch_embed\.seq\.([02])(\..*)"),
        lambda m: f"patch_embed.conv{1 + int(m[1]) // 2}{_conv_norm(m[2])}",
    ),
    (re.compile(r"layers\.(\d+)\.downsample(\..*)"), lambda m: f"stages.{int(m[1]) + 1}.downsample{_conv_norm(m[2])}"),
    (re.compile(r"layers\.(\d+)\.blocks(\..*)"), lambda m: f"stages.{m[1]}.blocks{_conv_norm(m[2])}"),
    (re.compile(r"norm_head\.(.*)"), lambda m: f"head.norm.{m[1]}"),
    (re.compile(r"head\.(weight|bias)"), lambda m: f"head.fc.{m[1]}"),
)

_SHVIT: tuple[Rename, ...] = (
    (re.compile(r"blocks1\.(.*)"), lambda m: f"stages.0.blocks.{m[1]}"),
    (re.compile(r"blocks([23])\.0\.([01])\.(.*)"), lambda m: f"stages.{int(m[1]) - 1}.downsample.{m[2]}.{m[3]}"),
    (re.compile(r"blocks([23])\.1\.(.*)"), lambda m: f"stages.{int(m[1]) - 1}.downsample.2.{m[2]}"),
    (
        re.compile(r"blocks([23])\.2\.([01])\.(.*)"),
        lambda m: f"stages.{int(m[1]) - 1}.downsample.{3 + int(m[2])}.{m[3]}",
    ),
    (re.compile(r"blocks([23])\.(\d+)\.(.*)"), lambda m: f"stages.{int(m[1]) - 1}.blocks.{int(m[2]) - 3}.{m[3]}"),
)


def _fused_head(state: StateDict, head: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Merge BatchNorm and Linear into one linear map, in double precision."""
    bn = {name: state[f"{head}.bn.{name}"].double() for name in ("weight", "bias", "running_mean", "running_var")}
    scale = bn["weight"] / (bn["running_var"] + _BN_EPSILON).sqrt()
    weight = state[f"{head}.l.weight"].double()
    bias = state[f"{head}.l.bias"].double() + weight @ (bn["bias"] - bn["running_mean"] * scale)
    return weight * scale, bias


def _average_distilled_heads(state: StateDict) -> StateDict:
    """Merge the two heads of SHViT's distilled variant, whose mean is its answer; timm has one head."""
    import torch

    if "head_dist.l.weight" not in state:
        return state
    (weight, bias), (weight_dist, bias_dist) = _fused_head(state, "head"), _fused_head(state, "head_dist")
    kept = {key: value for key, value in state.items() if not key.startswith("head_dist.")}
    width = weight.shape[1]
    identity = (1 + _BN_EPSILON) ** 0.5
    kept["head.bn.weight"], kept["head.bn.bias"] = torch.ones(width), torch.zeros(width)
    kept["head.bn.running_mean"], kept["head.bn.running_var"] = torch.zeros(width), torch.ones(width)
    kept["head.l.weight"] = ((weight + weight_dist) / 2 * identity).float()
    kept["head.l.bias"] = ((bias + bias_dist) / 2).float()
    return kept
