"""Checkpoints as people have them: read where the whole model is in them, refused by their kind where it is not."""

from __future__ import annotations

import argparse
import collections
import datetime
import gzip
import io
import json
import pathlib
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgevit.errors import BadFile, EdgevitError, UsageError, WeightsMismatch
from edgevit.models.checkpoints import read_checkpoint
from edgevit.models.load import LoadedModel, load_model

State = dict[str, Any]
NAME = "deit_digits"


@pytest.fixture(scope="module")
def state() -> State:
    """The tensors that every case below must give back."""
    return dict(load_model(NAME).module.state_dict())


def averaged(state: State) -> State:
    """Other weights of the same shapes."""
    return {key: value + 0.25 for key, value in state.items()}


def loads(path: Path, expected: State, **options: Any) -> LoadedModel:
    loaded = load_model(NAME, weights=str(path), **options)
    found = loaded.module.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    return loaded


def below(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


WRAPPINGS: dict[str, Callable[[State], Any]] = {
    "model_state_dict": lambda s: {"model_state_dict": s, "optimizer_state_dict": {"state": {0: {"exp_avg": s}}}},
    "net": lambda s: {"net": s, "acc": 93.1, "epoch": 7},
    "network": lambda s: {"network": s},
    "module": lambda s: {"module": s},
    "params": lambda s: {"params": s},
    "nested": lambda s: {"model": {"state_dict": {"module": s}}},
    "unheard of": lambda s: {"my_best_model": s, "epoch": 3},
    "compiled": lambda s: below("_orig_mod.", s),
    "compiled and parallel": lambda s: {"state_dict": below("module._orig_mod.", s)},
    "compiled inside": lambda s: below("model._orig_mod.", s),
    "a compiled block": lambda s: {key.replace("blocks.1.", "blocks.1._orig_mod."): v for key, v in s.items()},
    "fsdp": lambda s: {key.replace("blocks.0.", "_fsdp_wrapped_module.blocks.0."): v for key, v in s.items()},
    "backbone": lambda s: below("backbone.", s),
    "encoder": lambda s: below("encoder.", s),
    "own words": lambda s: below("trainer.my_student_net.", s),
    "half parallel": lambda s: {(key if key.startswith("head") else f"module.{key}"): v for key, v in s.items()},
    "lightning": lambda s: {
        "state_dict": {**below("model.", s), "criterion.weight": torch.ones(10), "train_acc.total": torch.zeros(())},
        "pytorch-lightning_version": "2.5.0",
        "hyper_parameters": {"lr": 1e-3, "path": pathlib.PosixPath("/data")},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.9)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
    },
    "timm": lambda s: {"state_dict": s, "arch": NAME, "args": argparse.Namespace(lr=0.1, opt="adamw"), "version": 2},
    "settings": lambda s: {
        "model": s,
        "best": np.float64(0.93),
        "history": np.arange(3),
        "when": datetime.datetime(2026, 1, 2),
        "log": collections.defaultdict(list, loss=[1.0]),
        "space": SimpleNamespace(depth=4),
        "count": collections.Counter("ab"),
    },
    "half": lambda s: {key: value.half().float() for key, value in s.items()},
}


@pytest.mark.parametrize("case", WRAPPINGS)
def test_whatever_is_around_the_weights(tmp_path: Path, state: State, case: str) -> None:
    expected = WRAPPINGS["half"](state) if case == "half" else state
    torch.save(WRAPPINGS[case](state), tmp_path / "c.pth")
    loaded = loads(tmp_path / "c.pth", expected)
    assert (loaded.weights.source, loaded.notes) == ("c.pth", ())


class CfgNode(dict):  # type: ignore[type-arg]
    """yacs' settings, as Swin's, TinyViT's and detectron2's checkpoints carry them."""


def test_settings_of_a_package_that_is_not_here(tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    module = types.ModuleType("yacs.config")
    module.CfgNode = CfgNode  # type: ignore[attr-defined]
    monkeypatch.setattr(CfgNode, "__module__", "yacs.config")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
        patch.setitem(sys.modules, "yacs.config", module)
        settings = CfgNode(lr=1)
        settings.frozen = True  # type: ignore[attr-defined]
        torch.save({"model": state, "config": settings}, tmp_path / "c.pth")
    loads(tmp_path / "c.pth", state)


AVERAGED: dict[str, Callable[[State, State], Any]] = {
    "state_dict_ema": lambda s, a: {"state_dict": s, "state_dict_ema": a},
    "ema.module": lambda s, a: {"model": s, "ema": {"decay": 0.99, "module": a}},
    "ema_state_dict": lambda s, a: {"model": s, "ema_state_dict": a},
    "params_ema": lambda s, a: {"params": s, "params_ema": a},
    "ema_model": lambda s, a: {"state_dict": {**below("model.", s), **below("ema_model.", a)}},
    "ema": lambda s, a: {**s, **below("ema.", a)},
    "module": lambda s, a: {"n_averaged": torch.tensor(9), **below("module.", a)},
    "teacher.backbone": lambda s, a: {"student": below("backbone.", s), "teacher": below("backbone.", a)},
}


@pytest.mark.parametrize("taken", AVERAGED)
def test_averaged_weights_are_taken_and_it_is_said(tmp_path: Path, state: State, taken: str) -> None:
    torch.save(AVERAGED[taken](state, averaged(state)), tmp_path / "c.pth")
    loaded = loads(tmp_path / "c.pth", averaged(state))
    words = taken.split(".")
    assert all(word in loaded.weights.source for word in words)
    assert len(loaded.notes) == 1
    assert "c.pth" in loaded.notes[0]
    assert all(word in loaded.notes[0] for word in words)


def test_an_empty_average_is_none(tmp_path: Path, state: State) -> None:
    torch.save({"model": state, "model_ema": {}, "ema": None}, tmp_path / "c.pth")
    assert loads(tmp_path / "c.pth", state).notes == ()


def test_two_whole_models_are_not_guessed_between(tmp_path: Path, state: State) -> None:
    torch.save({**below("net1.", state), **below("net2.", averaged(state))}, tmp_path / "c.pth")
    with pytest.raises(WeightsMismatch, match="more than once") as caught:
        load_model(NAME, weights=str(tmp_path / "c.pth"))
    assert "net1." in caught.value.message
    assert "net2." in caught.value.message
    torch.save({"first": state, "second": averaged(state)}, tmp_path / "d.pth")
    with pytest.raises(BadFile, match="2 sets of weights: first, second"):
        load_model(NAME, weights=str(tmp_path / "d.pth"))


def test_the_content_decides_and_not_the_suffix(tmp_path: Path, state: State) -> None:
    save_file(state, tmp_path / "a.bin")
    loads(tmp_path / "a.bin", state)
    torch.save({"model": state}, tmp_path / "b.safetensors")
    loads(tmp_path / "b.safetensors", state)
    torch.save(state, tmp_path / "c.pth.tar")
    loads(tmp_path / "c.pth.tar", state)
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    loads(tmp_path / "old.pth", state)


def sharded(folder: Path, state: State) -> Path:
    keys = sorted(state)
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for name, part in zip(names, (keys[::2], keys[1::2]), strict=True):
        save_file({key: state[key] for key in part}, folder / name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {key: names[i % 2] for i, key in enumerate(keys)}}))
    return index


def test_weights_in_several_files(tmp_path: Path, state: State) -> None:
    index = sharded(tmp_path, state)
    first = loads(index, state).weights.sha256
    assert loads(tmp_path, state).weights.sha256 == first
    with pytest.raises(BadFile, match="part 1 of 2") as caught:
        read_checkpoint(tmp_path / "model-00001-of-00002.safetensors")
    assert str(index) in caught.value.cure
    sharded(tmp_path, averaged(state))
    assert loads(index, averaged(state)).weights.sha256 != first
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(BadFile, match=r"is missing: model-00002-of-00002\.safetensors"):
        read_checkpoint(index)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/hosts", "..", "", "a\\b.safetensors"])
def test_an_index_stays_in_its_folder(tmp_path: Path, state: State, name: str) -> None:
    save_file(state, tmp_path / "outside.safetensors")
    (tmp_path / "inside").mkdir()
    index = tmp_path / "inside" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(state, name)}))
    with pytest.raises(BadFile, match="another folder"):
        read_checkpoint(index)


def test_a_folder_with_one_or_several_files(tmp_path: Path, state: State) -> None:
    with pytest.raises(BadFile, match="a folder without weights"):
        read_checkpoint(tmp_path)
    torch.save(state, tmp_path / "last.ckpt")
    loads(tmp_path, state)
    torch.save(averaged(state), tmp_path / "best.pth")
    with pytest.raises(BadFile, match="2 weights files") as caught:
        read_checkpoint(tmp_path)
    assert "best.pth, last.ckpt" in caught.value.where
    loads(Path(caught.value.cure.rpartition(" ")[2]), averaged(state))


class Whole(nn.Linear):
    """A model of a script."""


def zipped(path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")


def archived(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("model.pth"), io.BytesIO())


def scripted(path: Path) -> None:
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), path)


def cut(path: Path) -> None:
    torch.save({"weight": torch.randn(4000)}, path)
    path.write_bytes(path.read_bytes()[:9000])


def cut_pickle(path: Path) -> None:
    torch.save({"weight": torch.randn(4000)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:9000])


def evil_settings(path: Path) -> None:
    torch.save({"model": {"weight": torch.zeros(3)}, "args": Evil()}, path)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("/tmp/edgevit-was-here"),))


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "lfs": (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"), "Git LFS"),
    "html": (lambda p: p.write_text("\n<!DOCTYPE html>\n<html><head></head></html>"), "web page"),
    "gzip": (lambda p: p.write_bytes(gzip.compress(b"weights")), "compressed"),
    "tar": (archived, "tar archive"),
    "zip": (lambda p: zipped(p, "run/best.pth"), r"zip archive that holds run/best\.pth"),
    "cut zip": (cut, "cut off or damaged"),
    "cut pickle": (cut_pickle, "cut off or damaged"),
    "torchscript": (scripted, "TorchScript"),
    "module": (lambda p: torch.save(Whole(2, 2), p), "a whole model, pickled"),
    "wrapped module": (lambda p: torch.save({"model": nn.Linear(2, 2)}, p), "a whole model, pickled"),
    "settings that run": (evil_settings, "would run code"),
    "optimizer": (
        lambda p: torch.save({"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1.0}]}, p),
        "state of an optimizer",
    ),
    "parts": (
        lambda p: torch.save({"backbone": {"a": torch.zeros(1)}, "head": {"b": torch.zeros(1)}}, p),
        "in parts: backbone, head",
    ),
    "npz": (lambda p: np.savez(p.open("wb"), a=np.zeros(2)), "NumPy archive"),
    "npy": (lambda p: np.save(p.open("wb"), np.zeros(2)), "NumPy array"),
    "hdf5": (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64)), "HDF5"),
    "keras": (lambda p: zipped(p, "config.json", "model.weights.h5"), "Keras"),
    "onnx": (lambda p: p.write_bytes(b"\x08\x0a\x12\x07pytorch:" + bytes(40)), "an ONNX model"),
    "tflite": (lambda p: p.write_bytes(b"\x1c\0\0\0TFL3" + bytes(40)), "LiteRT"),
    "executorch": (lambda p: p.write_bytes(b"\x1c\0\0\0ET12" + bytes(40)), "ExecuTorch"),
    "exported program": (
        lambda p: torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)), p),
        "an exported program",
    ),
    "gguf": (lambda p: p.write_bytes(b"GGUF" + bytes(40)), "GGUF"),
}


@pytest.mark.parametrize("case", FILES)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_no_checkpoint_is_told_by_its_kind(tmp_path: Path, case: str, suffix: str) -> None:
    mark = Path("/tmp/edgevit-was-here")
    mark.unlink(missing_ok=True)
    make, says = FILES[case]
    path = tmp_path / f"weights{'.pt2' if case == 'exported program' else suffix}"
    make(path)
    with pytest.raises(BadFile, match=says) as caught:
        read_checkpoint(path)
    assert str(path) in caught.value.where
    assert caught.value.cure
    assert not mark.exists()


def test_the_process_keeps_its_own_safe_types(tmp_path: Path, state: State) -> None:
    with torch.serialization.safe_globals([argparse.Namespace]):
        before = set(torch.serialization.get_safe_globals())
        torch.save({"model": state, "args": argparse.Namespace()}, tmp_path / "c.pth")
        read_checkpoint(tmp_path / "c.pth")
        assert set(torch.serialization.get_safe_globals()) == before


def refused(path: Path, name: str = NAME, **options: Any) -> EdgevitError:
    with pytest.raises(UsageError) as caught:
        load_model(name, weights=str(path), **options)
    assert path.name in caught.value.where or path.name in caught.value.message
    assert len(str(caught.value).splitlines()) <= 6
    return caught.value


def test_low_rank_adapters(tmp_path: Path, state: State) -> None:
    adapter = {"base_model.model.blocks.0.attn.qkv.lora_A.default.weight": torch.zeros(4, 96)}
    torch.save(adapter, tmp_path / "a.pth")
    assert "LoRA" in refused(tmp_path / "a.pth").message
    torch.save({**state, "blocks.0.attn.qkv.lora_B.weight": torch.zeros(288, 4)}, tmp_path / "b.pth")
    error = refused(tmp_path / "b.pth")
    assert "LoRA" in error.message
    assert "merge_and_unload" in error.cure


def test_a_quantized_checkpoint(tmp_path: Path, state: State) -> None:
    torch.save(
        {key: value.to(torch.int8) if value.dim() == 2 else value for key, value in state.items()}, tmp_path / "q.pth"
    )
    error = refused(tmp_path / "q.pth")
    assert "quantized" in error.message
    assert "float checkpoint" in error.cure


def test_a_head_of_several_layers(tmp_path: Path, state: State) -> None:
    body = {key: value for key, value in state.items() if not key.startswith("head")}
    mlp = {"head.0.weight": torch.ones(48, 96), "head.0.bias": torch.ones(48), "head.2.weight": torch.ones(10, 48)}
    torch.save({**body, **mlp}, tmp_path / "m.pth")
    error = refused(tmp_path / "m.pth")
    assert "not one linear layer" in error.message
    assert "head.0" in error.where
    assert "head.2" in error.where
    assert "--output features" in error.cure
    assert load_model(NAME, weights=str(tmp_path / "m.pth"), output="features").module.width == 96


def test_a_second_head(tmp_path: Path, state: State) -> None:
    torch.save({**state, "head2.weight": torch.ones(4, 96), "head2.bias": torch.ones(4)}, tmp_path / "m.pth")
    assert "not one linear layer" in refused(tmp_path / "m.pth").message


def test_a_head_by_another_name(tmp_path: Path, state: State) -> None:
    torch.save({key.replace("head.", "classifier."): value for key, value in state.items()}, tmp_path / "m.pth")
    error = refused(tmp_path / "m.pth")
    assert "is called classifier, the model's head" in error.message
    assert load_model(NAME, weights=str(tmp_path / "m.pth"), output="features").labels == ()


def test_transformers_layout(tmp_path: Path) -> None:
    keys = ("vit.embeddings.cls_token", "vit.encoder.layer.0.attention.attention.query.weight", "classifier.weight")
    torch.save({key: torch.zeros(4, 4) for key in keys}, tmp_path / "pytorch_model.bin")
    assert "transformers' layout" in refused(tmp_path / "pytorch_model.bin").message


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_than_three(tmp_path: Path, state: State, channels: int) -> None:
    key = "patch_embed.proj.weight"
    given = torch.ones(state[key].shape[0], channels, *state[key].shape[2:])
    torch.save({**state, key: given}, tmp_path / "g.pth")
    error = refused(tmp_path / "g.pth")
    assert f"pictures of {channels} channel" in error.message
    assert "RGB" in error.message


def test_another_variant_is_named(tmp_path: Path) -> None:
    other = load_model("shvit_s2", weights="random").module.state_dict()
    torch.save(other, tmp_path / "s.pth")
    error = refused(tmp_path / "s.pth", "shvit_s1")
    assert "shvit_s2" in error.cure


def test_a_fused_checkpoint(tmp_path: Path) -> None:
    import timm
    from timm.utils.model import reparameterize_model

    fused = reparameterize_model(timm.create_model("repvit_m0_9").eval())
    torch.save(fused.state_dict(), tmp_path / "f.pth")
    error = refused(tmp_path / "f.pth", "repvit_m0_9")
    assert "fused" in error.message
    assert "before fuse()" in error.cure


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers(tmp_path: Path, state: State, value: float) -> None:
    changed = {key: tensor.clone() for key, tensor in state.items()}
    changed["blocks.1.mlp.fc1.weight"][3, 4] = value
    torch.save(changed, tmp_path / "n.pth")
    error = refused(tmp_path / "n.pth")
    assert "NaN or infinity" in error.message
    assert "blocks.1.mlp.fc1.weight" in error.where
    assert str(tmp_path / "n.pth") in error.where


def test_a_single_class_is_refused_by_its_name(tmp_path: Path, state: State) -> None:
    torch.save({**state, "head.weight": torch.ones(1, 96), "head.bias": torch.ones(1)}, tmp_path / "one.pth")
    assert "softmax over one class" in refused(tmp_path / "one.pth").message
    with pytest.raises(UsageError, match="softmax over one class"):
        load_model(NAME, weights=str(tmp_path / "one.pth"), num_classes=1)
    two = {
        "head.weight": torch.cat([torch.zeros(1, 96), torch.ones(1, 96)]),
        "head.bias": torch.tensor([0.0, 1.0]),
    }
    torch.save({**state, **two}, tmp_path / "two.pth")  # the cure
    assert load_model(NAME, weights=str(tmp_path / "two.pth"), num_classes=2).labels == ("class_0", "class_1")
    with pytest.raises(UsageError, match="0 classes"):
        load_model(NAME, num_classes=0)


def test_a_size_that_is_no_square() -> None:
    with pytest.raises(UsageError, match="square inputs only"):
        load_model(NAME, size=(48, 32))  # type: ignore[arg-type]
