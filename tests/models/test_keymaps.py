"""Official TinyViT and SHViT checkpoints load into timm's models.

The official layouts are rebuilt here from timm's by the inverse of the published renames, written
out independently of the code under test.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from edgevit.models.keymaps import to_timm_layout
from edgevit.models.load import load_model


def official_tinyvit(key: str) -> str:
    key = re.sub(r"^patch_embed\.conv1\.", "patch_embed.seq.0.", key)
    key = re.sub(r"^patch_embed\.conv2\.", "patch_embed.seq.2.", key)
    key = re.sub(r"^stages\.(\d+)\.downsample\.", lambda m: f"layers.{int(m[1]) - 1}.downsample.", key)
    key = re.sub(r"^stages\.(\d+)\.blocks\.", r"layers.\1.blocks.", key)
    key = re.sub(r"^head\.norm\.", "norm_head.", key)
    key = re.sub(r"^head\.fc\.", "head.", key)
    return key.replace(".conv.weight", ".c.weight") if ".conv.weight" in key else key


def official_shvit(key: str) -> str:
    key = re.sub(r"^stages\.0\.blocks\.", "blocks1.", key)
    key = re.sub(r"^stages\.([12])\.blocks\.(\d+)\.", lambda m: f"blocks{int(m[1]) + 1}.{int(m[2]) + 3}.", key)
    key = re.sub(r"^stages\.([12])\.downsample\.([01])\.", lambda m: f"blocks{int(m[1]) + 1}.0.{m[2]}.", key)
    key = re.sub(r"^stages\.([12])\.downsample\.2\.", lambda m: f"blocks{int(m[1]) + 1}.1.", key)
    return re.sub(r"^stages\.([12])\.downsample\.([34])\.", lambda m: f"blocks{int(m[1]) + 1}.2.{int(m[2]) - 3}.", key)


@pytest.mark.parametrize(
    ("name", "rename"),
    [("tiny_vit_5m_224", official_tinyvit), ("shvit_s1", official_shvit), ("shvit_s4", official_shvit)],
)
def test_an_official_checkpoint_computes_the_same(name: str, rename: object, tmp_path: Path) -> None:
    reference = load_model(name, weights="random", seed=5)
    state = {rename(key): value for key, value in reference.module.state_dict().items()}  # type: ignore[operator]
    assert set(state).isdisjoint({"stages.1.blocks.0.ffn.m.pw1.c.weight", "head.fc.weight"})
    if name.startswith("tiny"):
        state["layers.1.blocks.0.attn.attention_bias_idxs"] = torch.zeros(3, dtype=torch.long)
    torch.save({"model": state}, tmp_path / "official.pth")
    loaded = load_model(name, weights=str(tmp_path / "official.pth"))
    image = torch.randn(1, 3, *reference.preprocessing.size)
    with torch.no_grad():
        assert float((loaded.module(image) - reference.module(image)).abs().max()) < 1e-4


def test_two_distilled_heads_become_their_mean() -> None:
    reference = load_model("shvit_s1", weights="random", seed=6).module
    other = load_model("shvit_s1", weights="random", seed=7).module
    state = {official_shvit(key): value for key, value in reference.state_dict().items()}
    state |= {
        key.replace("head.", "head_dist.", 1): value
        for key, value in other.state_dict().items()
        if key.startswith("head.")
    }
    merged = load_model("shvit_s1", weights="random", seed=8).module
    merged.load_state_dict(to_timm_layout(state), strict=False)
    features = torch.randn(4, 320)
    with torch.no_grad():
        mean = (reference.head(features) + other.head(features)) / 2
        assert torch.allclose(merged.head(features), mean, atol=1e-4)


def test_another_layout_passes_unchanged() -> None:
    state = {"a.weight": torch.zeros(1)}
    assert to_timm_layout(state) == state


def test_an_official_layout_that_timm_reads(tmp_path: Path) -> None:
    """DeiT III keeps its layer scales as ``gamma_1``: timm's own reader of the architecture renames them."""
    state = load_model("deit3_small_patch16_224", weights="random").module.state_dict()
    official = {re.sub(r"ls([12])\.gamma", r"gamma_\1", key): value for key, value in state.items()}
    assert official.keys() != state.keys()
    torch.save({"model": official}, tmp_path / "deit3.pth")
    found = load_model("deit3_small_patch16_224", weights=str(tmp_path / "deit3.pth")).module.state_dict()
    assert all(torch.equal(found[key], value) for key, value in state.items())
