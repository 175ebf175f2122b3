"""Cutting a model is removing units: compared with masking them, and with the closed forms of the paper."""

from __future__ import annotations

import copy
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgevit.compress.width.cut import cut, narrow, structure_of
from edgevit.compress.width.structure import STAGES, WidthStage
from edgevit.errors import UsageError
from edgevit.graph.cost import measure_cost
from edgevit.models.bundled import build_bundled
from edgevit.models.load import load_model
from edgevit.models.torchvision_fix import fix_torchvision_import
from edgevit.split.plan.widths import counts, parse_keep
from edgevit.split.train.importance import masked

fix_torchvision_import()
import timm  # noqa: E402

MODELS = ("deit_digits", "tinyvit_digits", "shvit_digits")


class Affine(nn.Module):
    """A norm without statistics: removing a channel then changes no other, so that cutting can be compared."""

    def __init__(self, norm: Any, channels_first: bool) -> None:
        super().__init__()
        self.weight, self.channels_first = norm.weight, channels_first
        self.bias = nn.Parameter(torch.zeros_like(norm.bias))  # it would write to channels that are masked

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1, 1, 1) if self.channels_first and x.dim() == 4 else (-1,)
        return x * self.weight.reshape(shape) + self.bias.reshape(shape)


def without_statistics(model: nn.Module) -> nn.Module:
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.BatchNorm1d):  # SHViT's, behind the pooled features
            module.bias.zero_()
            module.running_mean.zero_()
        if isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
            owner, _, leaf = name.rpartition(".")
            first = isinstance(module, nn.GroupNorm) or type(module).__name__ == "LayerNorm2d"
            setattr(model.get_submodule(owner), leaf, Affine(module, first))
    return model


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", MODELS)
def test_cutting_is_masking(name: str, stage: WidthStage) -> None:
    model = without_statistics(load_model(name).module)
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    structure = structure_of(model)
    groups = structure.of_stage(stage)
    keep = counts(structure, Fraction(1, 2), original=structure.sizes())
    generator = torch.Generator().manual_seed(2)
    kept = {g.name: torch.randperm(g.size, generator=generator)[: keep[g.name]].sort().values for g in groups}
    masks = {g.name: torch.zeros(g.size).index_fill(0, kept[g.name], 1.0) for g in groups}
    with torch.no_grad():
        with masked(model, groups, masks):
            expected = model(images)
        whole = model(images)
        found = cut(copy.deepcopy(model), {name: one.tolist() for name, one in kept.items()})(images)
    scale = expected.abs().max()
    assert (found - expected).abs().max() < 1e-4 * scale
    assert (whole - expected).abs().max() > 1e-2 * scale, "the mask does nothing"


@pytest.mark.parametrize("name", MODELS)
def test_a_narrow_architecture_takes_the_weights_of_a_pruned_model(name: str) -> None:
    model = load_model(name).module
    structure = structure_of(model)
    keep = counts(structure, Fraction(1, 3), original=structure.sizes())
    kept = {group.name: range(group.size - keep[group.name], group.size) for group in structure.groups.values()}
    cut(model, kept)
    widths = structure_of(model).sizes()
    assert widths == keep
    again = narrow(build_bundled(name), widths).eval()
    again.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(images), model(images))
    assert all(layer.groups in (1, layer.in_channels) for layer in again.modules() if isinstance(layer, nn.Conv2d))


def closed_form(width: int, depth: int = 12, classes: int = 10, tokens: int = 197) -> tuple[int, int]:
    """Parameters and MACs of a ViT with patches of 16 at 224 pixels, by the paper's widths."""
    patch = 768 * width
    parameters = patch + width + width + tokens * width + depth * (12 * width**2 + 13 * width) + 2 * width
    macs = depth * (12 * tokens * width**2 + 2 * tokens**2 * width) + (tokens - 1) * patch
    return parameters + (width + 1) * classes, macs + width * classes


@pytest.fixture(scope="module")
def vit_b() -> nn.Module:
    return timm.create_model("vit_base_patch16_224", num_classes=10).eval().requires_grad_(False)


@pytest.mark.parametrize("kept", [1, 2, 3, 6, 9])
def test_the_paper_s_widths_by_our_counters(kept: int, vit_b: nn.Module) -> None:
    structure = structure_of(vit_b)
    keep = counts(structure, Fraction(kept, 12), original=structure.sizes())
    found = measure_cost(narrow(copy.deepcopy(vit_b), keep), (224, 224))
    assert (found.parameters, found.macs) == closed_form(64 * kept)


def test_the_headline_ten_of_twelve_head_widths_pruned(vit_b: nn.Module) -> None:
    structure = structure_of(vit_b)
    whole = measure_cost(vit_b, (224, 224))
    pruned = measure_cost(
        narrow(copy.deepcopy(vit_b), counts(structure, Fraction(2, 12), original=structure.sizes())), (224, 224)
    )
    assert round(whole.parameters / pruned.parameters, 1) == 34.3
    assert round(whole.macs / pruned.macs, 1) == 29.1


def test_heads_of_a_layer_stay_equal_and_layers_share_the_remainder() -> None:
    structure = structure_of(load_model("deit_digits").module)
    keep = counts(structure, Fraction(1, 3), original=structure.sizes(), marginal={"blocks.2": 5.0, "blocks.0": 1.0})
    by_layer = [{keep[g.name] for g in structure.of_stage("attention") if g.layer == f"blocks.{i}"} for i in range(4)]
    assert by_layer == [{11}, {11}, {11}, {10}]
    assert keep["residual"] == 32


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mobilevitv2_digits", "cannot be pruned here"),
        ("deit_tiny_distilled_patch16_224", "second head"),
        ("vit_base_patch16_siglip_224", "attention pooling"),
    ],
)
def test_other_architectures_are_refused(name: str, said: str) -> None:
    model = build_bundled(name) if name.endswith("digits") else timm.create_model(name)
    with pytest.raises(UsageError, match=said):
        structure_of(model)


def test_widths_that_do_not_fit_are_refused() -> None:
    model = build_bundled("deit_digits")
    for widths in ({"nothing": 3}, {"residual": 97}, {"residual": 0}):
        with pytest.raises(UsageError, match="has no"):
            narrow(model, widths)
    with pytest.raises(UsageError, match="the rest of its layer"):
        cut(model, {"blocks.0.attn.head0.qk": [0, 1]})


@pytest.mark.parametrize("text", ["0", "1.5", "-1/3", "a third", "1/0", "nan"])
def test_shares_that_are_none(text: str) -> None:
    with pytest.raises(UsageError):
        parse_keep(text)


def test_shares() -> None:
    assert parse_keep("1/3") == Fraction(1, 3)
    assert parse_keep("0.25") == Fraction(1, 4)
