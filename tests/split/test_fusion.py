"""The fusion head in numpy is the one that was trained; without it, the members' own scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from edgevit.core.fusion import FusionHead, as_sent, read_head, save_head, softmax
from edgevit.errors import BadFile
from edgevit.models.load import load_model
from edgevit.split.train.fuse import _presence, own_head, train_head

CLASSES = ((0, 1), (2,), (3, 4))


def toy(rows: int, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Three sub-models that each see their own classes; a class is its mean plus noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, rows)
    means = np.random.default_rng(9).normal(0, 1.0, (3, 5, 6))
    return [(means[i][labels] + rng.normal(0, 0.6, (rows, 6))).astype(np.float32) for i in range(3)], labels


@pytest.fixture(scope="module")
def head() -> FusionHead:
    features, labels = toy(1500)
    heads = [
        (np.random.default_rng(i).normal(size=(1 + len(own), 6)).astype(np.float32), np.zeros(1 + len(own), np.float32))
        for i, own in enumerate(CLASSES)
    ]
    return train_head(features, labels, heads, CLASSES, [0, 1, 2], total=5, drop=0.3, seed=1)


def test_numpy_computes_what_was_trained(head: FusionHead) -> None:
    features, _ = toy(20, seed=3)
    given = (np.concatenate(features, 1) - head.mean) / head.scale
    given[:, 6:12] = 0
    flags = np.tile(np.array([[1.0, 0.0, 1.0]], np.float32), (20, 1))
    x = torch.from_numpy(np.concatenate([given, flags], 1))
    inside = functional.gelu(
        functional.linear(x, torch.from_numpy(head.hidden_weight), torch.from_numpy(head.hidden_bias)),
        approximate="tanh",
    )
    wanted = torch.softmax(functional.linear(inside, torch.from_numpy(head.weight), torch.from_numpy(head.bias)), 1)
    found = head.fuse([features[0], None, features[2]])
    assert np.allclose(found, wanted.numpy(), atol=1e-5)
    assert np.allclose(found.sum(1), 1, atol=1e-5)


def test_features_are_sent_in_half_the_bytes_and_stay_finite() -> None:
    values = np.array([[0.1, -3.0, 7e4, -1e30, np.inf, np.nan]], np.float32)
    found = as_sent(values)
    assert found.dtype == np.dtype("<f2")
    assert found[0, :4].tolist() == [np.float16(0.1), -3.0, 65504.0, -65504.0]
    assert np.isinf(found[0, 4])
    assert np.isnan(found[0, 5])


def test_a_missing_member_costs_accuracy_and_not_the_answer(head: FusionHead) -> None:
    features, labels = toy(2000, seed=4)
    whole = (head.fuse(features).argmax(1) == labels).mean()
    assert whole > 0.9
    for gone in range(3):
        some = [None if i == gone else one for i, one in enumerate(features)]
        assert (head.fuse(some).argmax(1) == labels).mean() > whole - 0.15
    undropped = train_head(*toy(1500), head.heads, CLASSES, [0, 1, 2], total=5, drop=0.0, seed=1)
    worse = [
        (undropped.fuse([None if i == gone else one for i, one in enumerate(features)]).argmax(1) == labels).mean()
        for gone in range(3)
    ]
    better = [
        (head.fuse([None if i == gone else one for i, one in enumerate(features)]).argmax(1) == labels).mean()
        for gone in range(3)
    ]
    assert np.mean(better) > np.mean(worse)


def test_scores_need_no_training(head: FusionHead) -> None:
    """By hand: each class has its own sub-model's share, classes that nobody knows share the surest 'others'."""
    features, _ = toy(5, seed=5)
    found = head.scores([features[0], None, features[2]])
    for row in range(5):
        first = softmax(features[0][row] @ head.heads[0][0].T)
        third = softmax(features[2][row] @ head.heads[2][0].T)
        raw = np.array([first[1], first[2], min(first[0], third[0]), third[1], third[2]])
        assert np.allclose(found[row], raw / raw.sum(), atol=1e-5)


def test_training_drops_whole_members_and_never_all() -> None:
    generator = torch.Generator().manual_seed(0)
    there = _presence(4000, torch.tensor([0, 1, 1, 2]), 0.5, generator)
    assert torch.equal(there[:, 1], there[:, 2])
    assert bool(there.any(1).all())
    assert 0.5 < float(there[:, 0].mean()) < 0.8


def test_the_same_seed_gives_the_same_head(head: FusionHead) -> None:
    again = train_head(*toy(1500), head.heads, CLASSES, [0, 1, 2], total=5, drop=0.3, seed=1)
    assert np.array_equal(again.weight, head.weight)
    assert np.array_equal(again.hidden_weight, head.hidden_weight)


@pytest.mark.parametrize("name", ["deit_digits", "tinyvit_digits", "shvit_digits"])
def test_a_sub_model_s_own_head_is_affine(name: str) -> None:
    model = load_model(name).module
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        weight, bias = own_head(model)
        found = model.forward_head(model.forward_features(images), pre_logits=True).numpy() @ weight.T + bias
        assert np.allclose(found, model(images).numpy(), atol=1e-3)


def test_a_head_survives_its_file_and_a_damaged_one_is_refused(head: FusionHead, tmp_path: Path) -> None:
    path = tmp_path / "fusion.safetensors"
    save_head(head, path)
    features, _ = toy(4)
    assert np.array_equal(read_head(path, CLASSES).fuse(features), head.fuse(features))
    with pytest.raises(BadFile, match="does not fit"):
        read_head(path, ((0,), (1, 2), (3, 4)))
    with pytest.raises(BadFile, match="cannot be read"):
        read_head(path, (*CLASSES, (1,)))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BadFile, match="cannot be read"):
        read_head(path, CLASSES)
