"""The widths of SHViT: in every stage with attention, channels that attend and channels that pass by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgevit.compress.width.structure import Drawing, Structure, WidthTap
from edgevit.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

GroupNames = tuple[str, ...]
_DOWN = "downsample"


def _conv_norm(draw: Drawing, path: str, takes: GroupNames, gives: GroupNames) -> None:
    draw.linear(f"{path}.c", takes, gives)
    draw.vectors(f"{path}.bn", *gives)


def _depthwise(draw: Drawing, path: str, parts: GroupNames) -> None:
    draw.depthwise(f"{path}.c", *parts)
    draw.vectors(f"{path}.bn", *parts)


def _attends(block: Any) -> bool:
    return hasattr(block.mixer, "m")


def _partial(stage: Any) -> int:
    """The number of channels of a stage that attend, 0 in a stage without attention."""
    return next((block.mixer.m.pdim for block in stage.blocks if _attends(block)), 0)


def describe_shvit(model: Any) -> Structure:
    """The structure of a timm ``SHViT``.

    Raises:
        UsageError: two stages share one residual stream.
    """
    draw = Drawing(model)
    last = len(model.stages) - 1
    streams: list[GroupNames] = []
    for index, stage in enumerate(model.stages):
        if index and not hasattr(stage.downsample, "2"):
            raise UsageError("an SHViT whose stages are equally wide cannot be pruned", cure="choose another model")
        width = stage.blocks[0].conv.m.c.out_channels
        streams.append(_stream(draw, index, width, _partial(stage), _writers(model, index)))
    _stem(draw, model.patch_embed, streams[0])
    for index, stage in enumerate(model.stages):
        if index:
            _downsample(draw, f"stages.{index}.{_DOWN}", stage.downsample, streams[index - 1], streams[index])
        for number, block in enumerate(stage.blocks):
            path = f"stages.{index}.blocks.{number}"
            _depthwise(draw, f"{path}.conv.m", streams[index])
            if _attends(block):
                _attention(draw, f"{path}.mixer.m", block.mixer.m, streams[index])
            _ffn(draw, f"{path}.ffn.m", block.ffn.m, streams[index])
    draw.vectors("head.bn", *streams[last])
    draw.linear("head.l", streams[last], ())
    return draw.done(_settle)


def _writers(model: Any, index: int) -> list[str]:
    """Paths of the modules that write to a stage's stream."""
    stage = model.stages[index]
    first = [f"patch_embed.{len(model.patch_embed) - 1}"]
    if index:
        first = [f"stages.{index}.{_DOWN}.{leaf}" for leaf in ("2", "3.m", "4.m")]
    for number, block in enumerate(stage.blocks):
        path = f"stages.{index}.blocks.{number}"
        first += [f"{path}.conv.m", *([f"{path}.mixer.m"] if _attends(block) else []), f"{path}.ffn.m"]
    if index < len(model.stages) - 1:
        first += [f"stages.{index + 1}.{_DOWN}.{leaf}" for leaf in ("0.m", "1.m")]
    return first


def _stream(draw: Drawing, index: int, width: int, partial: int, writers: list[str]) -> GroupNames:
    def taps(start: int) -> list[WidthTap]:
        return [WidthTap(path, "output", 1, start) for path in writers]

    rest = f"stage{index}.rest"
    if not partial:
        return (draw.group(rest, width, "residual", taps(0)),)
    attending = draw.group(f"stage{index}.partial", partial, "residual", taps(0), f"stage{index}.partial")
    return attending, draw.group(rest, width - partial, "residual", taps(partial))


def _stem(draw: Drawing, stem: Any, gives: GroupNames) -> None:
    convolutions = [number for number, layer in enumerate(stem) if hasattr(layer, "c")]
    takes: GroupNames = ()
    for number, following in zip(convolutions, [*convolutions[1:], None], strict=True):
        path = f"patch_embed.{number}"
        out = gives
        if following is not None:
            width = stem[number].c.out_channels
            out = (draw.group(path, width, "hidden", [WidthTap(f"patch_embed.{following}", "input", 1)]),)
        _conv_norm(draw, path, takes, out)
        takes = out


def _ffn(draw: Drawing, path: str, ffn: Any, parts: GroupNames) -> None:
    hidden = draw.group(path, ffn.pw1.c.out_channels, "hidden", [WidthTap(f"{path}.pw2", "input", 1)])
    _conv_norm(draw, f"{path}.pw1", parts, (hidden,))
    _conv_norm(draw, f"{path}.pw2", (hidden,), parts)


def _downsample(draw: Drawing, path: str, layers: Any, before: GroupNames, after: GroupNames) -> None:
    _depthwise(draw, f"{path}.0.m", before)
    _ffn(draw, f"{path}.1.m", layers[1].m, before)
    merging, merge = layers[2], f"{path}.2"
    # masked before the squeeze, which sees every channel
    hidden = draw.group(merge, merging.conv1.c.out_channels, "hidden", [WidthTap(f"{merge}.act2", "output", 1)])
    squeezed = draw.group(
        f"{merge}.se", merging.se.fc1.out_channels, "hidden", [WidthTap(f"{merge}.se.fc2", "input", 1)]
    )
    _conv_norm(draw, f"{merge}.conv1", before, (hidden,))
    _depthwise(draw, f"{merge}.conv2", (hidden,))
    draw.linear(f"{merge}.se.fc1", (hidden,), (squeezed,))
    draw.linear(f"{merge}.se.fc2", (squeezed,), (hidden,))
    _conv_norm(draw, f"{merge}.conv3", (hidden,), after)
    _depthwise(draw, f"{path}.3.m", after)
    _ffn(draw, f"{path}.4.m", layers[4].m, after)


def _attention(draw: Drawing, path: str, attention: Any, stream: GroupNames) -> None:
    """Declare an attention layer; values have as many channels as attend, so both are cut in one stage."""
    partial, rest = stream
    qk = draw.group(f"{path}.qk", attention.qk_dim, "attention", [WidthTap(f"{path}.qkv", "output", 1)], path)
    v = draw.group(f"{path}.v", attention.pdim, "residual", [WidthTap(f"{path}.proj", "input", 1)], partial)
    draw.vectors(f"{path}.pre_norm", partial)
    _conv_norm(draw, f"{path}.qkv", (partial,), (qk, qk, v))
    _conv_norm(draw, f"{path}.proj.1", (v, rest), stream)


def _settle(model: nn.Module, sizes: Mapping[str, int]) -> None:
    """Keep the scale that attention was built with: the module multiplies by it itself."""
    shvit: Any = model
    for index, stage in enumerate(shvit.stages):
        partial = sizes.get(f"stage{index}.partial", 0)
        width = partial + sizes[f"stage{index}.rest"]
        for number, block in enumerate(stage.blocks):
            if _attends(block):
                attention = block.mixer.m
                attention.pdim, attention.dim = partial, width
                attention.qk_dim = sizes[f"stages.{index}.blocks.{number}.mixer.m.qk"]
    shvit.num_features = shvit.head_hidden_size = width
