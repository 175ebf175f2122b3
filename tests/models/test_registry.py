"""The zoo agrees with timm, row by row; a new row needs no new test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgevit.errors import UnknownName
from edgevit.models.bundled import BUILDERS
from edgevit.models.registry import converting_formats, find_model, list_models, spec_from_cfg, zoo
from edgevit.schema.model import ModelSpec

FAMILIES = {
    "TinyViT",
    "SHViT",
    "MobileViT",
    "MobileViTv2",
    "EfficientFormer",
    "EfficientFormerV2",
    "LeViT",
    "RepViT",
    "FastViT",
    "EfficientViT (MIT)",
    "EfficientViT (MSRA)",
    "EdgeNeXt",
    "SwiftFormer",
    "MobileNetV4",
    "DeiT",
    "DeiT III",
    "ViT",
    "FlexiViT",
    "Swin",
    "PVT v2",
    "Twins",
    "PiT",
    "CrossViT",
    "TNT",
    "Visformer",
    "XCiT",
    "MViTv2",
    "Hiera",
    "ConvMixer",
    "Sequencer",
    "ViTamin",
}
ZOO = [name for name, spec in zoo().items() if spec.origin == "zoo"]


@pytest.fixture(scope="module", autouse=True)
def timm() -> None:
    from edgevit.models.torchvision_fix import fix_torchvision_import

    fix_torchvision_import()


def test_every_family_is_there() -> None:
    assert {spec.family for spec in zoo().values()} == FAMILIES
    assert set(BUILDERS) <= set(zoo())


@pytest.mark.parametrize("name", ZOO)
def test_a_row_says_what_timm_says(name: str) -> None:
    from timm.models import get_pretrained_cfg

    spec = zoo()[name]
    cfg = get_pretrained_cfg(spec.source, allow_unregistered=False)
    assert cfg is not None
    fresh = spec_from_cfg(
        name,
        spec.source,
        cfg.to_dict(),
        origin="zoo",
        family=spec.family,
        paper=spec.paper,
        parameters=spec.parameters,
        macs=spec.macs,
        top1=spec.top1,
        top1_source=spec.top1_source,
    )
    assert fresh == spec
    assert cfg.tag == spec.source.partition(".")[2]
    assert spec.parameters > 1e6
    assert spec.macs > 5e7
    assert (spec.top1 is None) == (spec.top1_source == "")


def test_tiny_vit_means_imagenet_1k() -> None:
    assert find_model("tiny_vit_5m_224").source == "tiny_vit_5m_224.dist_in22k_ft_in1k"
    assert find_model("tiny_vit_5m_224").num_classes == 1000
    assert round(find_model("tiny_vit_5m_224").parameters / 1e6, 2) == 5.39


@pytest.mark.parametrize(("name", "millions"), [("shvit_s1", 6.33), ("shvit_s4", 16.59), ("tiny_vit_21m_224", 21.20)])
def test_parameters_of_the_papers(name: str, millions: float) -> None:
    assert find_model(name).parameters / 1e6 == pytest.approx(millions, abs=0.006)


def test_another_timm_name_and_its_tag() -> None:
    spec = find_model("resnet18.a1_in1k")
    assert (spec.origin, spec.preprocessing.size, spec.num_classes) == ("timm", (224, 224), 1000)


@pytest.mark.parametrize(
    ("name", "near"),
    [("tinyvit_5m_224", "tiny_vit_5m_224"), ("shvit_s9", "shvit_s4"), ("resnet18.b1_in1k", "resnet18.a1_in1k")],
)
def test_a_misspelt_name_offers_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UnknownName) as caught:
        find_model(name)
    assert near in caught.value.near


def test_a_local_timm_folder(tmp_path: Path) -> None:
    cfg = {
        "input_size": [3, 32, 32],
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "num_classes": 7,
        "interpolation": "bilinear",
    }
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "vit_tiny_patch16_224", "num_classes": 7, "pretrained_cfg": cfg})
    )
    spec = find_model(str(tmp_path))
    assert (spec.origin, spec.num_classes, spec.preprocessing.size) == ("local", 7, (32, 32))


@pytest.mark.parametrize(
    ("pattern", "member"), [("tiny*", "tiny_vit_5m_224"), ("SHViT", "shvit_s1"), ("digits", "deit_digits")]
)
def test_lists_by_name_or_family(pattern: str, member: str) -> None:
    assert member in [spec.name for spec in list_models(pattern)]


def test_specs_survive_json() -> None:
    assert all(ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec for spec in zoo().values())


def test_every_family_says_which_formats_it_converts_to() -> None:
    formats = converting_formats()
    assert set(formats) == {spec.family for spec in zoo().values()}
    assert all(set(row) == {"fp32", "fp16"} for row in formats.values())
    for family, row in formats.items():
        for good in row.values():
            assert set(good) <= {"coreml", "litert", "executorch", "onnx"} and "onnx" in good, family
