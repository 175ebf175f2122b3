"""The widths of ViT and DeiT: one residual stream, dimensions inside every head, hidden neurons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgevit.compress.width.structure import Drawing, Structure, WidthTap
from edgevit.errors import UsageError

if TYPE_CHECKING:
    from torch import nn


def _refuse_variants(model: Any) -> None:
    from timm.layers import Mlp
    from timm.models.vision_transformer import Attention, Block

    for block in model.blocks:
        plain = type(block) is Block and type(block.attn) is Attention and type(block.mlp) is Mlp
        if not plain or any(not _identity(one) for one in (block.attn.q_norm, block.attn.norm, block.mlp.norm)):
            raise UsageError(
                f"{type(model).__name__} blocks of this variant cannot be pruned",
                cure="choose a ViT or DeiT with plain blocks, a TinyViT or an SHViT",
            )
    if model.attn_pool is not None or getattr(model, "head_dist", None) is not None:
        raise UsageError(
            "a ViT with attention pooling or a second head cannot be pruned", cure="choose one with a plain head"
        )


def _identity(module: Any) -> bool:
    return type(module).__name__ == "Identity"


def describe_vit(model: Any) -> Structure:
    """The structure of a timm ``VisionTransformer``.

    Raises:
        UsageError: a variant with other blocks, poolings or heads.
    """
    _refuse_variants(model)
    draw, d = Drawing(model), "residual"
    taps = [WidthTap("norm_pre", "output", -1)]
    for index in range(len(model.blocks)):
        taps += [WidthTap(f"blocks.{index}.attn", "output", -1), WidthTap(f"blocks.{index}.mlp", "output", -1)]
    draw.group(d, model.embed_dim, "residual", taps)
    draw.linear("patch_embed.proj", (), (d,))
    for token in ("cls_token", "reg_token", "pos_embed"):
        draw.axis(token, 2, d)
    for norm in ("patch_embed.norm", "norm_pre", "norm", "fc_norm"):
        draw.vectors(norm, d)
    for index, block in enumerate(model.blocks):
        _block(draw, f"blocks.{index}", block, d)
    draw.linear("head", (d,), ())
    return draw.done(_settle)


def _block(draw: Drawing, path: str, block: Any, d: str) -> None:
    attention, heads, width = f"{path}.attn", block.attn.num_heads, block.attn.head_dim
    qk = [
        draw.group(
            f"{attention}.head{head}.qk",
            width,
            "attention",
            [WidthTap(f"{attention}.qkv", "output", -1, head * width)],
            path,
        )
        for head in range(heads)
    ]
    v = [
        draw.group(
            f"{attention}.head{head}.v",
            width,
            "attention",
            [WidthTap(f"{attention}.proj", "input", -1, head * width)],
            path,
        )
        for head in range(heads)
    ]
    for head in range(heads):
        draw.softmax[qk[head]] = ((f"{attention}.qkv.weight", head), (f"{attention}.qkv.bias", head))
    draw.linear(f"{attention}.qkv", (d,), (*qk, *qk, *v))
    draw.linear(f"{attention}.proj", tuple(v), (d,))
    hidden = draw.group(f"{path}.mlp", block.mlp.fc1.out_features, "hidden", [WidthTap(f"{path}.mlp.fc2", "input", -1)])
    draw.linear(f"{path}.mlp.fc1", (d,), (hidden,))
    draw.linear(f"{path}.mlp.fc2", (hidden,), (d,))
    for norm in ("norm1", "norm2", "ls1", "ls2"):
        draw.vectors(f"{path}.{norm}", d)


def _settle(model: nn.Module, sizes: Mapping[str, int]) -> None:
    vit: Any = model
    vit.embed_dim = vit.num_features = vit.head_hidden_size = sizes["residual"]
    for index, block in enumerate(vit.blocks):
        attention = block.attn
        attention.head_dim = sizes[f"blocks.{index}.attn.head0.qk"]
        attention.attn_dim = attention.num_heads * attention.head_dim
        attention.scale = attention.head_dim**-0.5
