"""What is exported as pretrained is what was published, and is said to lie where it lies."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from edgevit.core.digest import sha256_file
from edgevit.errors import EnvironmentIncomplete, UsageError, WeightsMismatch
from edgevit.models.labels import labels_for
from edgevit.models.load import load_model
from edgevit.models.registry import find_model, zoo
from edgevit.models.torchvision_fix import fix_torchvision_import
from edgevit.testing import wake

REVISION = "0" * 40


@pytest.fixture(scope="module", autouse=True)
def timm() -> None:
    fix_torchvision_import()


def test_every_name_that_timm_publishes() -> None:
    """Classes and labels from timm's own tables; timm's sets have names of their own, none twice."""
    import timm
    from timm.data import ImageNetInfo
    from timm.data.imagenet_info import _NUM_CLASSES_TO_SUBSET as SETS
    from timm.models import get_pretrained_cfg

    names = timm.list_models(pretrained=True)
    assert len(names) > 1500
    kinds = set()
    for name in names:
        cfg, spec = get_pretrained_cfg(name), find_model(name)
        if name in zoo():
            continue
        assert spec.source == name
        assert spec.num_classes == cfg.num_classes, name
        where = f"hf-hub:{cfg.hf_hub_id}" if cfg.hf_hub_id else cfg.url
        assert spec.weights == where, name
        if cfg.num_classes in SETS:
            assert spec.labels == SETS[cfg.num_classes], name
            kinds.add(spec.labels)
        elif cfg.num_classes == 0:
            assert spec.labels == "none", name
        else:
            contrastive = re.search("clip|vit_pe_core", name) is not None
            assert spec.labels == ("embedding" if contrastive else "numbers"), name
            assert contrastive or cfg.num_classes > 10000, name
    assert kinds == set(SETS.values())
    for count, kind in SETS.items():
        labels = labels_for(kind, count, None)
        assert len(set(labels)) == count == ImageNetInfo(kind).num_classes()
    goog = labels_for("imagenet-21k-goog", 21843, None)
    assert goog[ImageNetInfo("imagenet-21k-goog").label_names().index("n02084071")].startswith("dog")


def test_a_bare_name_means_the_default_weights() -> None:
    import timm
    from timm.models import get_pretrained_cfg

    for name in timm.list_models():
        cfg = get_pretrained_cfg(name)
        if name in zoo() or cfg is None or not cfg.tag:
            continue
        spec = find_model(name)
        assert (spec.source, spec.num_classes) == (f"{name}.{cfg.tag}", cfg.num_classes)


def test_rows_of_the_zoo_have_the_published_head() -> None:
    from timm.models import get_pretrained_cfg

    for spec in zoo().values():
        if spec.origin == "zoo":
            cfg = get_pretrained_cfg(spec.source)
            assert (spec.num_classes, spec.weights) == (cfg.num_classes, f"hf-hub:{cfg.hf_hub_id}")
    assert (zoo()["vitamin_small_224"].num_classes, zoo()["vitamin_small_224"].labels) == (384, "embedding")


Publish = Callable[..., Path]


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publish:
    """Put live weights into a hub cache of the test's own, at the published head size unless told otherwise."""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def put(name: str, repository: str = "", config: dict[str, Any] | None = None, **changed: Any) -> Path:
        import timm
        from timm.models import get_pretrained_cfg

        cfg = get_pretrained_cfg(name)
        options = {"num_classes": cfg.num_classes, **changed}
        module: nn.Module = timm.create_model(name.partition(".")[0], **options)
        wake(module, cfg.input_size[1:], seed=5)
        folder = cache / f"models--{(repository or cfg.hf_hub_id).replace('/', '--')}"
        snapshot = folder / "snapshots" / REVISION
        snapshot.mkdir(parents=True)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(REVISION)
        save_file(module.state_dict(), snapshot / "model.safetensors")
        if config is not None:
            (snapshot / "config.json").write_text(json.dumps(config))
        return snapshot / "model.safetensors"

    return put


@pytest.mark.parametrize(
    ("name", "classifier", "kind", "first"),
    [
        ("test_vit.r160_in1k", "head", "imagenet-1k", "tench"),
        ("vit_tiny_patch16_224.augreg_in21k", "head", "imagenet-21k-goog", "organism"),
        ("mobilenetv3_large_100.miil_in21k", "classifier", "imagenet-21k-miil", "benthos (n00005787)"),
    ],
)
def test_the_published_head_is_loaded(publish: Publish, name: str, classifier: str, kind: str, first: str) -> None:
    file = publish(name)
    loaded, again = load_model(name), load_model(name)
    published = load_file(file)[f"{classifier}.weight"]
    assert torch.equal(loaded.module.get_submodule(classifier).weight, published)
    assert torch.equal(again.module.get_submodule(classifier).weight, published)
    assert (loaded.spec.labels, len(loaded.labels), loaded.labels[0]) == (kind, len(published), first)
    assert loaded.weights.source == f"hf-hub:timm/{name}"
    assert loaded.weights.sha256 == sha256_file(file)
    with pytest.raises(UsageError, match=f"the pretrained head has {len(published)} classes, not 7"):
        load_model(name, num_classes=7)


def test_weights_without_a_classifier(publish: Publish) -> None:
    name = "convnextv2_atto.fcmae"
    file = publish(name)
    for output in ("logits", "probabilities"):
        with pytest.raises(UsageError, match="no classifier in the published weights") as caught:
            load_model(name, output=output)  # type: ignore[arg-type]
        assert "--output features" in caught.value.cure
    loaded = load_model(name, output="features")
    assert (loaded.labels, loaded.module.width) == ((), 320)
    assert loaded.module(torch.zeros(1, 3, 224, 224)).shape == (1, 320)
    # the file that the cure without a network names
    by_file = load_model(name, weights=str(file), output="features")
    image = torch.rand(1, 3, 224, 224)
    assert torch.equal(by_file.module(image), loaded.module(image))
    with pytest.raises(UsageError, match=r"no classifier in the checkpoint model\.safetensors"):
        load_model(name, weights=str(file))


def test_a_file_brings_the_head_that_is_not_published(publish: Publish, tmp_path: Path) -> None:
    file = publish("convnextv2_atto.fcmae", num_classes=6)
    loaded = load_model("convnextv2_atto.fcmae", weights=str(file))
    assert loaded.labels == tuple(f"class_{index}" for index in range(6))
    assert loaded.module(torch.zeros(1, 3, 224, 224)).shape == (1, 6)
    features = load_model("convnextv2_atto.fcmae", weights=str(file), output="features")
    assert features.module.width == 320


def test_a_projection_is_no_classifier(publish: Publish) -> None:
    name = "vit_xsmall_patch16_clip_224.tinyclip_yfcc15m"
    file = publish(name)
    for weights in ("pretrained", str(file)):
        with pytest.raises(UsageError, match="projects to an embedding of 512 numbers"):
            load_model(name, weights=weights, output="probabilities")
        assert load_model(name, weights=weights).module(torch.zeros(1, 3, 224, 224)).shape == (1, 512)
        assert load_model(name, weights=weights, output="features").module.width == 256


def test_a_file_of_another_head_than_configured_is_no_network_failure(publish: Publish) -> None:
    publish("test_vit.r160_in1k", num_classes=77)
    with pytest.raises(WeightsMismatch, match="not what timm's configuration says"):
        load_model("test_vit.r160_in1k")


def test_a_repository_that_is_not_timms(publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    from timm.models import _registry

    name = "test_vit.r160_in1k"
    with pytest.raises(EnvironmentIncomplete) as caught:
        load_model("vitamin_small_224", output="logits")
    assert "https://huggingface.co/jienengchen/ViTamin-S" in caught.value.where
    assert "hf download jienengchen/ViTamin-S" in caught.value.cure
    elsewhere = dataclasses.replace(_registry._model_pretrained_cfgs[name], hf_hub_id="someone/else")
    monkeypatch.setitem(_registry._model_pretrained_cfgs, name, elsewhere)
    file = publish(name, "someone/else")
    loaded = load_model(name)
    assert loaded.weights.source == "hf-hub:someone/else"
    assert loaded.weights.sha256 == sha256_file(file)


def test_weights_at_a_plain_address_and_none_at_all() -> None:
    spec = find_model("gcvit_xxtiny.in1k")
    assert spec.weights.startswith("https://github.com/")
    from edgevit.models.hub import fetching

    assert f"curl -LO {spec.weights}" in fetching(spec)
    assert fetching(spec).endswith(spec.weights.rpartition("/")[2])
    with pytest.raises(UsageError, match="nobody publishes weights of levit_512"):
        load_model("levit_512")


def test_a_model_of_a_hub_repository(publish: Publish) -> None:
    cfg = {"input_size": [3, 160, 160], "mean": [0.5] * 3, "std": [0.5] * 3, "first_conv": "patch_embed.proj"}
    config = {
        "architecture": "test_vit",
        "num_classes": 3,
        "label_names": ["ox", "cat", "dog"],
        "pretrained_cfg": {**cfg, "num_classes": 3, "classifier": "head"},
    }
    file = publish("test_vit.r160_in1k", "someone/pets", config, num_classes=3)
    loaded = load_model("hf-hub:someone/pets")
    assert loaded.labels == ("ox", "cat", "dog")
    assert torch.equal(loaded.module.get_submodule("head").weight, load_file(file)["head.weight"])
    assert (loaded.weights.source, loaded.weights.sha256) == ("hf-hub:someone/pets", sha256_file(file))
    bare = {**config, "num_classes": 0, "pretrained_cfg": {**cfg, "num_classes": 0, "classifier": "head"}}
    publish("test_vit.r160_in1k", "someone/bare", bare, num_classes=0)
    with pytest.raises(UsageError, match="no classifier"):
        load_model("hf-hub:someone/bare")
    assert load_model("hf-hub:someone/bare", output="features").module.width == 64
    thousand = {**config, "num_classes": 1000, "label_names": None, "pretrained_cfg": {**cfg, "num_classes": 1000}}
    publish("test_vit.r160_in1k", "someone/thousand", thousand)
    assert load_model("hf-hub:someone/thousand").labels[0] == "class_0"
    with pytest.raises(EnvironmentIncomplete, match="configuration of hf-hub:someone/nothing"):
        find_model("hf-hub:someone/nothing")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"architectures": ["ViTForImageClassification"], "model_type": "vit"}, "transformers model"),
        ({"architecture": "test_vit", "pretrained_cfg": {"input_size": [1, 28, 28]}}, "1 channel;"),
        ({"architecture": "test_vit", "model_args": {"in_chans": 4}, "pretrained_cfg": {}}, "4 channels;"),
        ({"architecture": "test_vit", "pretrained_cfg": {"input_size": [3, 0, 9]}}, "not valid"),
        ({"architecture": "test_vit", "pretrained_cfg": {"mean": [0.5]}}, "mean and std"),
        ([1], "does not name a timm architecture"),
    ],
)
def test_a_folder_that_cannot_be_taken(tmp_path: Path, config: object, says: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=says):
        find_model(str(tmp_path))


def test_a_folder_without_a_classifier(tmp_path: Path, publish: Publish) -> None:
    (tmp_path / "m").mkdir()
    config = {"architecture": "test_vit", "num_classes": 0, "pretrained_cfg": {"input_size": [3, 160, 160]}}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    publish("test_vit.r160_in1k", num_classes=0).rename(tmp_path / "m" / "model.safetensors")
    with pytest.raises(UsageError, match="no classifier"):
        load_model(str(tmp_path / "m"))
    assert load_model(str(tmp_path / "m"), output="features").module.width == 64


def test_a_file_of_another_size(publish: Publish, tmp_path: Path) -> None:
    """Row by row: trained at the size asked for; at the model's own; at neither."""
    name = "test_vit.r160_in1k"
    at_192 = publish(name, img_size=192)
    loaded = load_model(name, weights=str(at_192), size=192)
    assert torch.equal(loaded.module.pos_embed, load_file(at_192)["pos_embed"])
    assert loaded.preprocessing.size == (192, 192)
    with pytest.raises(WeightsMismatch, match="trained on 192x192 pixels, the model is for 160x160") as caught:
        load_model(name, weights=str(at_192))
    assert caught.value.cure == "pass --size 192"
    own = publish(name, "someone/own")
    resized = load_model(name, weights=str(own), size=192)
    assert resized.module.pos_embed.shape == loaded.module.pos_embed.shape
    assert resized.module(torch.zeros(1, 3, 192, 192)).shape == (1, 1000)
    with pytest.raises(WeightsMismatch) as caught:
        load_model(name, weights=str(at_192), size=224)
    assert "trained on 192x192 pixels, the model is for 224x224" in caught.value.message
    shapes = caught.value.where
    assert "(1, 145, 64)" in shapes
    assert "(1, 197, 64)" in shapes


def test_features_of_a_file_with_a_head_and_without(publish: Publish, tmp_path: Path) -> None:
    name = "test_vit.r160_in1k"
    tensors = load_file(publish(name, num_classes=5))
    save_file(tensors, tmp_path / "head.safetensors")
    save_file({k: v for k, v in tensors.items() if not k.startswith("head.")}, tmp_path / "none.safetensors")
    image = torch.rand(1, 3, 160, 160)
    found = [
        load_model(name, weights=str(tmp_path / f"{leaf}.safetensors"), output="features") for leaf in ("head", "none")
    ]
    assert [one.module.width for one in found] == [64, 64]
    assert torch.equal(found[0].module(image), found[1].module(image))
    with pytest.raises(UsageError, match="no classifier in the checkpoint none") as caught:
        load_model(name, weights=str(tmp_path / "none.safetensors"))
    assert "--output features" in caught.value.cure
