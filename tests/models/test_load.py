"""Weights: what is accepted, what is refused and in which words."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from edgevit.errors import BadFile, EnvironmentIncomplete, UsageError, WeightsMismatch
from edgevit.models.bundled import BUILDERS
from edgevit.models.checkpoints import read_checkpoint
from edgevit.models.load import bundled_weights, load_model
from edgevit.models.registry import zoo
from edgevit.testing import structured_images


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("/tmp/edgevit-was-here"),))


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def gigabyte_header(path: Path) -> Path:
    return write(path, struct.pack("<Q", 1 << 30) + b"{}")


def truncated(path: Path) -> Path:
    return write(path, bundled_weights("shvit_digits").read_bytes()[:100_000])


def evil(path: Path) -> Path:
    return write(path, pickle.dumps({"weight": Evil()}))


def evil_zip(path: Path) -> Path:
    torch.save({"weight": Evil()}, path)
    return path


@pytest.mark.parametrize(
    ("name", "make", "says"),
    [
        ("none.pth", lambda p: p, "there is no weights file"),
        ("empty.pth", lambda p: write(p, b""), "empty"),
        ("text.pth", lambda p: write(p, b"these are words\n"), "not a PyTorch checkpoint"),
        ("evil.pth", evil, "would run code|not a PyTorch checkpoint"),
        ("evil_zip.pth", evil_zip, "would run code"),
        ("short.safetensors", truncated, "not a valid safetensors"),
        ("huge.safetensors", gigabyte_header, "not a valid safetensors"),
        ("list.pth", lambda p: (torch.save([1, 2], p), p)[1], "not a PyTorch checkpoint"),
        ("nothing.pth", lambda p: (torch.save({"a": 1}, p), p)[1], "not a PyTorch checkpoint"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, make: object, says: str) -> None:
    mark = Path("/tmp/edgevit-was-here")
    mark.unlink(missing_ok=True)
    with pytest.raises(BadFile, match=says):
        read_checkpoint(make(tmp_path / name))  # type: ignore[operator]
    assert not mark.exists()


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "state_dict_ema"])
def test_wrapped_checkpoints(tmp_path: Path, wrapper: str | None) -> None:
    state = {f"module.{key}": value for key, value in load_model("shvit_digits").module.state_dict().items()}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "c.pth")
    loaded = load_model("shvit_digits", weights=str(tmp_path / "c.pth"))
    assert loaded.weights.kind == "file"
    assert len(loaded.weights.sha256) == 64
    reference = load_model("shvit_digits").module.state_dict()
    assert all(torch.equal(value, reference[key]) for key, value in loaded.module.state_dict().items())


def test_another_head_size_names_the_option(tmp_path: Path) -> None:
    module = load_model("shvit_digits", weights="random", num_classes=7).module
    save_file(module.state_dict(), tmp_path / "seven.safetensors")
    with pytest.raises(WeightsMismatch, match="7 classes") as caught:
        load_model("shvit_digits", weights=str(tmp_path / "seven.safetensors"))
    assert "--num-classes 7" in caught.value.cure
    loaded = load_model("shvit_digits", weights=str(tmp_path / "seven.safetensors"), num_classes=7)
    assert loaded.labels == tuple(f"class_{i}" for i in range(7))


def test_a_mismatch_names_keys_and_shapes(tmp_path: Path) -> None:
    state = dict(load_model("shvit_digits").module.state_dict())
    key = next(name for name in state if name.endswith("conv.m.c.weight"))
    state[key] = torch.zeros(3, 1, 5, 5)
    state["stranger.weight"] = state.pop("head.bn.weight")
    save_file(state, tmp_path / "odd.safetensors")
    with pytest.raises(WeightsMismatch) as caught:
        load_model("shvit_digits", weights=str(tmp_path / "odd.safetensors"))
    for part in ("missing: head.bn.weight", "unknown: stranger.weight", f"shape: {key} is (3, 1, 5, 5)"):
        assert part in caught.value.where


def test_pretrained_weights_offline_name_the_cure() -> None:
    with pytest.raises(EnvironmentIncomplete) as caught:
        load_model("shvit_s1")
    assert "hf download timm/shvit_s1.in1k" in caught.value.cure
    assert "--weights random" in caught.value.cure


def test_pretrained_with_another_head_is_refused() -> None:
    with pytest.raises(UsageError, match="untrained"):
        load_model("tinyvit_digits", num_classes=3)


def test_labels_must_fit() -> None:
    with pytest.raises(UsageError):
        load_model("tinyvit_digits", labels=("a", "b"))
    assert load_model("tinyvit_digits", labels=tuple("abcdefghij")).labels[3] == "d"


@pytest.mark.parametrize("size", [8, 5000])
def test_impossible_sizes(size: int) -> None:
    with pytest.raises(UsageError, match="out of range"):
        load_model("tinyvit_digits", size=size)


def test_a_size_that_the_architecture_cannot_take() -> None:
    with pytest.raises(UsageError, match="cannot take"):
        load_model("levit_128s", weights="random", size=100)


def test_another_size_resizes_position_embeddings(tmp_path: Path) -> None:
    loaded = load_model("deit_digits", size=48)
    assert loaded.preprocessing.size == (48, 48)
    assert loaded.module(torch.zeros(1, 3, 48, 48)).shape == (1, 10)


@pytest.mark.parametrize("name", list(BUILDERS))
def test_bundled_models_are_small_and_as_accurate_as_they_say(name: str) -> None:
    from edgevit.verify.evaluate import evaluate_model

    spec = zoo()[name]
    assert spec.parameters <= 1_000_000
    found = evaluate_model(load_model(name), "digits:test")
    assert found.accuracy >= 0.97
    assert round(100 * found.accuracy, 2) == spec.top1


def test_random_weights_are_live() -> None:
    """No parameter is left at zero or one, and two pictures give clearly different answers."""
    loaded = load_model("efficientformerv2_s0", weights="random")
    for name, parameter in loaded.module.named_parameters():
        assert float(parameter.std()) > 1e-3 or parameter.numel() == 1, name
    images = (
        torch.stack([torch.from_numpy(image) for image in structured_images(2, (224, 224))]).permute(0, 3, 1, 2) / 255.0
    )
    with torch.no_grad():
        one, other = loaded.module((images - 0.45) / 0.23)
    assert float((one - other).abs().max()) > 0.2 * float(one.std())


def test_the_same_seed_gives_the_same_weights() -> None:
    states = [load_model("shvit_digits", weights="random", seed=seed).module.state_dict() for seed in (3, 3, 4)]
    key = "head.l.weight"
    assert torch.equal(states[0][key], states[1][key])
    assert not torch.equal(states[0][key], states[2][key])


def test_a_local_folder_with_weights(tmp_path: Path) -> None:
    import timm

    module = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=4)
    cfg = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "num_classes": 4, "classifier": "head"}
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 4,
        "model_args": {"img_size": 32},
        "pretrained_cfg": cfg,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    loaded = load_model(str(tmp_path))
    image = torch.randn(1, 3, 32, 32)
    assert torch.allclose(loaded.module(image), module.eval()(image))
