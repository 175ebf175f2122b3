"""The small trained models that ship with edgevit: five mobile ViT families, narrowed.

Each is the family's own timm architecture with fewer channels and blocks, for 32x32 input and ten
classes. Where the family reduces resolution too fast for 32x32, its first stem convolutions run
at stride 1, so that every stage still sees more than one position.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgevit.models.torchvision_fix import fix_torchvision_import

if TYPE_CHECKING:
    from torch import nn


def _unstride(*convolutions: nn.Module) -> None:
    for convolution in convolutions:
        convolution.stride = (1, 1)  # type: ignore[assignment]


def tinyvit_digits() -> nn.Module:
    """TinyViT: widths 32/48/72/96, windows of 4."""
    from timm.models.tiny_vit import TinyVit

    model = TinyVit(
        num_classes=10,
        embed_dims=(32, 48, 72, 96),
        depths=(1, 2, 2, 1),
        num_heads=(2, 3, 4, 6),
        window_sizes=(4, 4, 4, 2),
        drop_path_rate=0.0,
    )
    _unstride(model.patch_embed.conv1.conv)
    return model


def shvit_digits() -> nn.Module:
    """SHViT: widths 48/80/112, single-head attention in the last two stages."""
    from timm.models.shvit import SHViT

    model = SHViT(
        num_classes=10,
        embed_dim=(48, 80, 112),
        partial_dim=(16, 20, 24),
        depth=(1, 2, 2),
        types=("i", "s", "s"),
    )
    _unstride(model.patch_embed[0].c, model.patch_embed[2].c)
    return model


def mobilevitv2_digits() -> nn.Module:
    """MobileViTv2: ByobNet with separable self-attention in its last three stages."""
    from timm.models.byobnet import ByobNet
    from timm.models.mobilevit import (
        ByoModelCfg,
        _inverted_residual_block,
        _mobilevitv2_block,
    )

    config = ByoModelCfg(
        blocks=(
            _inverted_residual_block(d=1, c=24, s=1, br=2.0),
            _inverted_residual_block(d=2, c=40, s=2, br=2.0),
            _mobilevitv2_block(d=1, c=56, s=2, transformer_depth=2),
            _mobilevitv2_block(d=1, c=72, s=2, transformer_depth=2),
            _mobilevitv2_block(d=1, c=96, s=1, transformer_depth=1),
        ),
        stem_chs=16,
        stem_type="3x3",
        stem_pool="",
        downsample="",
        act_layer="silu",
    )
    model = ByobNet(config, num_classes=10)
    _unstride(model.stem.conv)
    return model


def efficientformerv2_digits() -> nn.Module:
    """EfficientFormerV2: widths 24/40/64/96, attention in the last two stages."""
    from timm.models.efficientformer_v2 import EfficientFormerV2

    model = EfficientFormerV2(
        depths=(1, 1, 2, 2),
        img_size=64,
        embed_dims=(24, 40, 64, 96),
        downsamples=(False, True, True, True),
        mlp_ratios=4,
        num_vit=1,
        num_classes=10,
        distillation=True,
        layer_scale_init_value=1e-1,
    )
    _unstride(model.stem.conv1.conv)
    return model


def deit_digits() -> nn.Module:
    """DeiT: 64 tokens of 4x4 pixels, width 96, four blocks."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=32,
        patch_size=4,
        num_classes=10,
        embed_dim=96,
        depth=4,
        num_heads=3,
    )


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "tinyvit_digits": tinyvit_digits,
    "shvit_digits": shvit_digits,
    "mobilevitv2_digits": mobilevitv2_digits,
    "efficientformerv2_digits": efficientformerv2_digits,
    "deit_digits": deit_digits,
}


def build_bundled(name: str) -> nn.Module:
    """Build a bundled model by name, untrained; weights are loaded by `edgevit.models.load`."""
    fix_torchvision_import()
    return BUILDERS[name]()
