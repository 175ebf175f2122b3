"""Scores against what they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from edgevit.compress.width.cut import structure_of
from edgevit.compress.width.structure import Group
from edgevit.data.digits import digits_arrays
from edgevit.models.load import LoadedModel, load_model
from edgevit.split.train.importance import importance
from edgevit.split.train.pool import normalised


@pytest.fixture(scope="module")
def deit() -> LoadedModel:
    return load_model("deit_digits")


def images(loaded: LoadedModel, count: int) -> torch.Tensor:
    return normalised(torch.from_numpy(digits_arrays("test")[0][:count].copy()), loaded.preprocessing)


def hidden(loaded: LoadedModel, block: int) -> Group:
    return structure_of(loaded.module).groups[f"blocks.{block}.mlp"]


@torch.no_grad()
def test_kl_is_what_leaving_a_neuron_out_does(deit: LoadedModel) -> None:
    """The oracle zeroes the neuron's column of the weight."""
    group, some = hidden(deit, 1), images(deit, 16)
    found = importance(deit.module, [group], some, "kl")[group.name]
    whole = functional.log_softmax(deit.module(some), 1)
    weight = deit.module.blocks[1].mlp.fc2.weight
    for unit in (0, 17, 101):
        column = weight[:, unit].clone()
        weight[:, unit] = 0
        without = functional.log_softmax(deit.module(some), 1)
        weight[:, unit] = column
        expected = (whole.exp() * (whole - without)).sum(1).mean()
        assert float(found[unit]) == pytest.approx(float(expected), rel=1e-3, abs=1e-7)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("blocks.0.mlp", marks=pytest.mark.matrix),  # 384 neurons, a run each
        "residual",
        "blocks.1.attn.head0.v",
        "blocks.1.attn.head0.qk",
    ],
)
def test_fisher_ranks_as_kl_does(name: str, deit: LoadedModel) -> None:
    group = structure_of(deit.module).groups[name]
    some = images(deit, 48 if group.size > 200 else 128)  # leaving out costs a run a unit
    exact = importance(deit.module, [group], some, "kl")[name]
    cheap = importance(deit.module, [group], some, "fisher")[name]
    order = [np.argsort(np.argsort(values.numpy())) for values in (exact, cheap)]
    assert np.corrcoef(*order)[0, 1] > 0.8
    quarter = group.size // 4
    assert len(set(exact.topk(quarter).indices.tolist()) & set(cheap.topk(quarter).indices.tolist())) >= 0.7 * quarter
    assert 0.5 < float(cheap.sum() / exact.sum()) < 2


def test_windows_see_each_picture_s_own_mask() -> None:
    """TinyViT's attention runs on windows: several rows of its batch are one picture."""
    loaded = load_model("tinyvit_digits")
    groups = structure_of(loaded.module).of_stage("attention")
    alone = [importance(loaded.module, groups, images(loaded, 8)[i : i + 1], "kl", block=4) for i in (0, 5)]
    both = importance(loaded.module, groups, images(loaded, 8)[[0, 5]], "kl", block=4)
    for name, values in both.items():
        assert torch.allclose(values, (alone[0][name] + alone[1][name]) / 2, atol=1e-5)
    fisher = importance(loaded.module, groups, images(loaded, 8), "fisher")
    assert all(torch.isfinite(values).all() and (values >= 0).all() for values in fisher.values())
    assert any((values > 0).any() for values in fisher.values())


def test_scores_are_a_function_of_their_seed(deit: LoadedModel) -> None:
    group, some = hidden(deit, 0), images(deit, 64)
    first, again, other = (importance(deit.module, [group], some, "fisher", seed=s)[group.name] for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
