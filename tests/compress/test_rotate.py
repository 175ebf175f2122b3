"""A rotated model computes the same, and cutting it loses less."""

from __future__ import annotations

import copy
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgevit.compress.width.cut import cut, structure_of
from edgevit.compress.width.rotate import can_rotate, rotate
from edgevit.compress.width.structure import STAGES
from edgevit.data.digits import digits_arrays
from edgevit.models.load import load_model
from edgevit.models.torchvision_fix import fix_torchvision_import
from edgevit.split.plan.widths import counts
from edgevit.split.train.importance import importance
from edgevit.split.train.pool import normalised
from edgevit.split.train.submodel import best

fix_torchvision_import()
from timm.models.vision_transformer import VisionTransformer  # noqa: E402

SMALL: dict[str, Any] = {
    "img_size": 16, "patch_size": 4, "num_classes": 5, "embed_dim": 24, "depth": 2, "num_heads": 3,
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "class token": {},
    "layer scale": {"init_values": 0.1},
    "mean of all tokens": {"global_pool": "avg"},
    "registers": {"reg_tokens": 2, "class_token": True},
    "heads wider than the stream": {"embed_dim": 12, "num_heads": 1},
}


def random_vit(**further: Any) -> nn.Module:
    model = VisionTransformer(**{**SMALL, **further}).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(3)
    for value in model.parameters():
        value.copy_(0.3 * torch.randn(value.shape, generator=generator) + (0.5 if value.ndim == 1 else 0.0))
    return model


def pictures(size: int) -> Tensor:
    return torch.randn(8, 3, size, size, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_the_function_stays(name: str) -> None:
    model, images = random_vit(**VARIANTS[name]), pictures(16)
    assert can_rotate(model)
    expected = model(images)
    for stage in STAGES:
        before = copy.deepcopy(model.state_dict())
        rotate(model, stage, images)
        changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
        assert bool(changed) == (stage != "hidden")
        assert (model(images) - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize(
    "further",
    [{"pre_norm": True}, {"qkv_bias": False}, {"proj_bias": False}, {"final_norm": False}],
    ids=["norm first", "no bias in attention", "none elsewhere", "no norm at the end"],
)
def test_what_cannot_be_rotated_is_left_alone(further: dict[str, Any]) -> None:
    model = random_vit(**further)
    before = copy.deepcopy(model.state_dict())
    for stage in STAGES:
        rotate(model, stage, pictures(16))
    assert not can_rotate(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_cutting_loses_less() -> None:
    """All three stages to a third, nothing trained: most of the accuracy is left, where none was."""
    loaded = load_model("deit_digits")
    (train, _), (test, labels) = digits_arrays("train"), digits_arrays("test")
    chosen = np.random.default_rng(0).permutation(len(train))[:128]
    seen, held = (normalised(torch.from_numpy(one), loaded.preprocessing) for one in (train[chosen], test))

    def accuracy(*, rotated: bool) -> float:
        model = copy.deepcopy(loaded.module)
        original = structure_of(model).sizes()
        for stage in STAGES:
            if rotated:
                rotate(model, stage, seen)
            structure = structure_of(model)
            groups = structure.of_stage(stage)
            scores = importance(model, groups, seen, "fisher")
            keep = counts(structure, Fraction(1, 3), original=original)
            cut(model, {group.name: best(scores[group.name], keep[group.name]) for group in groups})
        with torch.no_grad():
            return float((model(held).argmax(1).numpy() == labels).mean())

    assert accuracy(rotated=True) > 0.85
    assert accuracy(rotated=False) < 0.4


@torch.no_grad()
def test_a_norm_counts_what_was_cut_as_zeros() -> None:
    model = load_model("deit_digits").module
    kept = list(range(0, 96, 4))
    values = torch.randn(3, len(kept), generator=torch.Generator().manual_seed(5))
    values -= values.mean(1, keepdim=True)
    whole = torch.zeros(3, 96)
    whole[:, kept] = values
    norm: Any = model.norm
    expected = norm(whole)[:, kept]
    cut(model, {"residual": kept})
    assert torch.allclose(norm(values), expected, atol=1e-4)
