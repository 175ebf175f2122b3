"""The widths of TinyViT: one residual stream a stage, heads in windows, hidden channels of convolutions and MLPs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgevit.compress.width.structure import Drawing, Structure, WidthTap

if TYPE_CHECKING:
    from torch import nn


def _conv_norm(draw: Drawing, path: str, takes: tuple[str, ...], gives: tuple[str, ...]) -> None:
    draw.linear(f"{path}.conv", takes, gives)
    draw.vectors(f"{path}.bn", *gives)


def _depthwise(draw: Drawing, path: str, part: str) -> None:
    draw.depthwise(f"{path}.conv", part)
    draw.vectors(f"{path}.bn", part)


def describe_tinyvit(model: Any) -> Structure:
    """The structure of a timm ``TinyVit``."""
    draw = Drawing(model)
    widths = [model.patch_embed.conv2.conv.out_channels]
    widths += [stage.downsample.conv3.conv.out_channels for stage in list(model.stages)[1:]]
    names = [
        draw.group(f"stage{index}", width, "residual", _residual_taps(index, model.stages[index]))
        for index, width in enumerate(widths)
    ]
    stem = draw.group(
        "patch_embed",
        model.patch_embed.conv1.conv.out_channels,
        "hidden",
        [WidthTap("patch_embed.conv2", "input", 1)],
    )
    _conv_norm(draw, "patch_embed.conv1", (), (stem,))
    _conv_norm(draw, "patch_embed.conv2", (stem,), (names[0],))
    for index, block in enumerate(model.stages[0].blocks):
        _inverted(draw, f"stages.0.blocks.{index}", block.conv1.conv.out_channels, names[0], names[0])
    for number, stage in list(enumerate(model.stages))[1:]:
        hidden = stage.downsample.conv1.conv.out_channels
        _inverted(draw, f"stages.{number}.downsample", hidden, names[number - 1], names[number])
        for index, block in enumerate(stage.blocks):
            _block(draw, f"stages.{number}.blocks.{index}", block, names[number])
    draw.vectors("head.norm", names[-1])
    draw.linear("head.fc", (names[-1],), ())
    return draw.done(_settle)


def _residual_taps(index: int, stage: Any) -> list[WidthTap]:
    """The taps of all modules that write to the stream, the local convolution, which replaces it, included."""
    if index == 0:
        blocks = [WidthTap(f"stages.0.blocks.{j}.conv3", "output", 1) for j in range(len(stage.blocks))]
        return [WidthTap("patch_embed", "output", 1), *blocks]
    taps = [WidthTap(f"stages.{index}.downsample", "output", 1)]
    for j in range(len(stage.blocks)):
        path = f"stages.{index}.blocks.{j}"
        taps += [
            WidthTap(f"{path}.attn", "output", -1),
            WidthTap(f"{path}.local_conv", "output", 1),
            WidthTap(f"{path}.mlp", "output", -1),
        ]
    return taps


def _inverted(draw: Drawing, path: str, hidden: int, takes: str, gives: str) -> None:
    """Declare pointwise, depthwise, pointwise convolutions: an MBConv or a patch merging."""
    inner = draw.group(path, hidden, "hidden", [WidthTap(f"{path}.conv3", "input", 1)])
    _conv_norm(draw, f"{path}.conv1", (takes,), (inner,))
    _depthwise(draw, f"{path}.conv2", inner)
    _conv_norm(draw, f"{path}.conv3", (inner,), (gives,))


def _block(draw: Drawing, path: str, block: Any, d: str) -> None:
    attention, heads = f"{path}.attn", block.attn.num_heads
    key, value = block.attn.key_dim, block.attn.val_dim
    qkv, out = [], []
    for head in range(heads):
        start = head * (2 * key + value)
        qk = draw.group(
            f"{attention}.head{head}.qk",
            key,
            "attention",
            [WidthTap(f"{attention}.qkv", "output", -1, start)],
            f"{path}.qk",
        )
        v = draw.group(
            f"{attention}.head{head}.v",
            value,
            "attention",
            [WidthTap(f"{attention}.proj", "input", -1, head * value)],
            f"{path}.v",
        )
        draw.softmax[qk] = ((f"{attention}.qkv.weight", 3 * head), (f"{attention}.qkv.bias", 3 * head))
        qkv += [qk, qk, v]
        out.append(v)
    draw.vectors(f"{attention}.norm", d)
    draw.linear(f"{attention}.qkv", (d,), tuple(qkv))
    draw.linear(f"{attention}.proj", tuple(out), (d,))
    _depthwise(draw, f"{path}.local_conv", d)
    hidden = draw.group(f"{path}.mlp", block.mlp.fc1.out_features, "hidden", [WidthTap(f"{path}.mlp.fc2", "input", -1)])
    draw.vectors(f"{path}.mlp.norm", d)
    draw.linear(f"{path}.mlp.fc1", (d,), (hidden,))
    draw.linear(f"{path}.mlp.fc2", (hidden,), (d,))


def _settle(model: nn.Module, sizes: Mapping[str, int]) -> None:
    tiny: Any = model
    last = sizes[f"stage{len(tiny.stages) - 1}"]
    tiny.num_features = tiny.head_hidden_size = tiny.head.num_features = tiny.head.in_features = last
    for number, stage in list(enumerate(tiny.stages))[1:]:
        for index, block in enumerate(stage.blocks):
            attention, path = block.attn, f"stages.{number}.blocks.{index}.attn"
            attention.key_dim, attention.val_dim = sizes[f"{path}.head0.qk"], sizes[f"{path}.head0.v"]
            attention.out_dim = attention.num_heads * attention.val_dim
            attention.scale = attention.key_dim**-0.5
            block.dim = sizes[f"stage{number}"]
