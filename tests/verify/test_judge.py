"""The judge judged: every sabotage of a model, a file or its preprocessing is rejected."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgevit.backends.base import LowerRequest, find_backend
from edgevit.bundle.read import Bundle, read_bundle
from edgevit.bundle.write import write_manifest
from edgevit.errors import CheckFailed
from edgevit.graph.capture import capture
from edgevit.graph.prepare import prepare
from edgevit.graph.rewrites import rewrites_for
from edgevit.models.load import load_model
from edgevit.schema.interface import Interface
from edgevit.schema.manifest import VerdictInfo
from edgevit.verify.bundle import verify_bundle
from tests.conftest import FORMATS

Sabotage = Callable[[nn.Module, dict[str, object]], None]


def permute_outputs(module: nn.Module, interface: dict[str, object]) -> None:
    order = [1, 0, *range(2, 10)]
    module.head.fc.weight.data = module.head.fc.weight.data[order]
    module.head.fc.bias.data = module.head.fc.bias.data[order]


def drop_a_branch(module: nn.Module, interface: dict[str, object]) -> None:
    module.stages[2].blocks[1].mlp.fc2.weight.data.zero_()
    module.stages[2].blocks[1].mlp.fc2.bias.data.zero_()


def flip_one_weight(module: nn.Module, interface: dict[str, object]) -> None:
    weight = module.stages[2].blocks[0].mlp.fc1.weight.data.view(-1)
    middle = int(weight.abs().argsort()[len(weight) // 2])
    weight[middle] = -weight[middle]


def swap_mean_and_std(module: nn.Module, interface: dict[str, object]) -> None:
    interface["mean"], interface["std"] = interface["std"], interface["mean"]


def swap_red_and_blue(module: nn.Module, interface: dict[str, object]) -> None:
    stem = module.patch_embed.conv1.conv
    stem.weight.data = stem.weight.data[:, [2, 1, 0]]


def forget_to_divide_by_255(module: nn.Module, interface: dict[str, object]) -> None:
    interface["std"] = tuple(value / 255 for value in interface["std"])


def softmax_twice(module: nn.Module, interface: dict[str, object]) -> None:
    module.head.fc = nn.Sequential(module.head.fc, nn.Softmax(-1))


SABOTAGES = [
    permute_outputs,
    drop_a_branch,
    flip_one_weight,
    swap_mean_and_std,
    swap_red_and_blue,
    forget_to_divide_by_255,
    softmax_twice,
]


def sabotaged(source: Path, folder: Path, sabotage: Sabotage | None) -> Bundle:
    """A copy of a good bundle whose model file was lowered from a sabotaged model, hashes renewed."""
    shutil.copytree(source, folder)
    manifest = read_bundle(folder).manifest
    loaded = load_model(manifest.model.name)
    module = copy.deepcopy(loaded.module)
    rule = loaded.preprocessing
    values: dict[str, object] = {
        "layout": "image_nhwc_uint8",
        "size": rule.size,
        "mean": rule.mean,
        "std": rule.std,
        "probabilities": True,
    }
    if sabotage:
        sabotage(module, values)
    backend = find_backend(manifest.target.backend)
    ready = prepare(capture(module, rule.size), Interface(**values), rewrites_for(backend.name))  # type: ignore[arg-type]
    plain = manifest.model_copy(update={"lowering": None, "verdict": None, "files": None})
    backend.lower(LowerRequest(ready.program, plain, "", "", folder / manifest.entry))
    write_manifest(folder, manifest)
    return read_bundle(folder)


@pytest.mark.parametrize("sabotage", [None, *SABOTAGES], ids=lambda s: s.__name__ if s else "untouched")
def test_a_sabotaged_model_is_rejected(
    exported: Callable[..., Path], tmp_path: Path, sabotage: Sabotage | None
) -> None:
    bundle = sabotaged(exported("tinyvit_digits", "onnx"), tmp_path / "b", sabotage)
    verdict = verify_bundle(bundle)
    assert verdict.status == ("failed" if sabotage else "passed"), verdict


@pytest.mark.parametrize("target", ["litert", pytest.param("executorch", marks=pytest.mark.matrix)])
def test_one_flipped_weight_is_rejected_in_every_runtime(
    exported: Callable[..., Path], tmp_path: Path, target: str
) -> None:
    bundle = sabotaged(exported("tinyvit_digits", target), tmp_path / "b", flip_one_weight)
    assert verify_bundle(bundle).status == "failed"


@pytest.mark.parametrize("target", ["onnx", "litert", "executorch"])
def test_a_weight_changed_in_the_file_itself_is_rejected(
    exported: Callable[..., Path], tmp_path: Path, target: str
) -> None:
    """Flip the sign bits of one live tensor's values where they lie in the file."""
    source = exported("tinyvit_digits", target)
    shutil.copytree(source, tmp_path / "b")
    bundle = read_bundle(tmp_path / "b")
    weight = load_model("tinyvit_digits").module.head.fc.weight.detach().numpy()
    data = bytearray(bundle.entry.read_bytes())
    at = data.find(weight[3, :4].tobytes())
    if at < 0:
        pytest.skip("this format stores the layer in another order")
    data[at + 3] ^= 0x80
    bundle.entry.write_bytes(bytes(data))
    with pytest.raises(CheckFailed, match="not what the manifest says"):
        read_bundle(tmp_path / "b")
    write_manifest(bundle.path, bundle.manifest)
    assert verify_bundle(read_bundle(tmp_path / "b")).status == "failed"


@pytest.mark.parametrize(
    "change",
    [
        {"size": (33, 33)},
        {"crop_pct": 0.97},
        {"interpolation": "bilinear"},
        {"mean": (0.25,) * 3},
        {"crop_mode": "squash"},
    ],
)
def test_another_preprocessing_rule_is_rejected(
    exported: Callable[..., Path], tmp_path: Path, change: dict[str, object]
) -> None:
    """A resize off by one, another crop or filter: the golden pictures no longer give the golden inputs."""
    shutil.copytree(exported("tinyvit_digits", "onnx"), tmp_path / "b")
    manifest = read_bundle(tmp_path / "b").manifest
    rule = manifest.preprocess.model_copy(update=change)
    write_manifest(tmp_path / "b", manifest.model_copy(update={"preprocess": rule}))
    assert verify_bundle(read_bundle(tmp_path / "b")).status == "failed"


def test_a_resize_off_by_one_is_rejected_at_export(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from edgevit.data import images
    from edgevit.pipeline.export import export
    from edgevit.pipeline.options import ExportOptions

    right = images._resized
    monkeypatch.setattr(images, "_resized", lambda size, rule: tuple(side + 1 for side in right(size, rule)))
    result = export(ExportOptions("tinyvit_digits", ("onnx",), out=tmp_path, cache=False))[0]
    assert isinstance(result.error, CheckFailed)
    assert result.path is not None
    assert result.path.name == "onnx-fp32.rejected"
    assert not (tmp_path / "tinyvit_digits/onnx-fp32").exists()


def verdict_of(folder: Path) -> VerdictInfo:
    return verify_bundle(read_bundle(folder))


def test_a_manifest_that_is_not_the_files_own(exported: Callable[..., Path], tmp_path: Path) -> None:
    shutil.copytree(exported("tinyvit_digits", "onnx"), tmp_path / "b")
    manifest = read_bundle(tmp_path / "b").manifest
    write_manifest(tmp_path / "b", manifest.model_copy(update={"labels": tuple(reversed(manifest.labels))}))
    verdict = verdict_of(tmp_path / "b")
    assert verdict.status == "failed"
    assert "another one" in verdict.reasons[0]


@pytest.mark.parametrize("target", FORMATS)
def test_a_good_bundle_passes_again(exported: Callable[..., Path], target: str) -> None:
    verdict = verdict_of(exported("tinyvit_digits", target))
    assert verdict.status == "passed"
    assert verdict.discrimination is not None
    assert verdict.discrimination > 1e4


def test_the_verdict_says_what_executed_core_ml(exported: Callable[..., Path]) -> None:
    assert verdict_of(exported("tinyvit_digits", "coreml")).runtime.startswith(
        "edgevit's ML Program evaluator, torch 2."
    )


def test_a_reference_and_further_pictures(exported: Callable[..., Path], tmp_path: Path) -> None:
    from PIL import Image

    from edgevit.data.digits import digits_arrays

    for index, image in enumerate(digits_arrays("test")[0][:3]):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    bundle = read_bundle(exported("tinyvit_digits", "litert"))
    shutil.copyfile(tmp_path / "0.png", tmp_path / "again.png")  # equal pictures cannot be told apart
    shutil.copyfile(bundle.path / "golden/probe_1.png", tmp_path / "probe.png")
    right = verify_bundle(bundle, reference=load_model("tinyvit_digits").module, images=tmp_path)
    assert (right.status, right.probes) == ("passed", 9)
    wrong = verify_bundle(bundle, reference=load_model("tinyvit_digits", weights="random").module)
    assert wrong.status == "failed"


def test_most_single_weight_flips_are_noticed() -> None:
    """Random weights of a trained model, flipped one at a time; those that change nothing do not count."""
    from PIL import Image

    from edgevit.verify.compare import compare
    from edgevit.verify.probes import make_golden, reference_outputs

    loaded = load_model("mobilevitv2_digits")
    golden = make_golden(loaded.module, loaded.preprocessing, probabilities=True)
    pictures = [Image.fromarray(picture) for picture in golden.pictures]
    rng, noticed, live = np.random.default_rng(0), 0, 0
    parameters = [parameter for parameter in loaded.module.parameters() if parameter.dim() > 1]
    for _ in range(30):
        values = parameters[rng.integers(len(parameters))].data.view(-1)
        index = int(rng.integers(len(values)))
        values[index] *= -1
        outputs = reference_outputs(loaded.module, pictures, loaded.preprocessing, probabilities=True)
        values[index] *= -1
        live += not np.array_equal(outputs, golden.outputs)
        noticed += not compare(golden.outputs, outputs, kind="probabilities", precision="fp32").passed
    assert live >= 25
    assert noticed >= 0.9 * live


def test_bisect_names_the_operator_of_a_sabotaged_rewrite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rewrite that computes something else is found, with the module it came from."""
    from edgevit.schema.target import resolve_target
    from edgevit.verify import bisect as module

    bundle_manifest = _described()
    loaded = load_model("tinyvit_digits")
    torch.export.save(capture(loaded.module, (32, 32)), tmp_path / "program.pt2")
    inputs = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3), dtype=np.uint8)
    faulty = "gelu_3"

    def artifact(search: object, names: list[str], numbers: int) -> np.ndarray:
        values = module._reference(search, names)  # type: ignore[arg-type]
        taps = {tap.node: tap for tap in module_taps}
        at = 0
        for name in names:
            size = taps[name].numel
            if order[name] >= order[faulty]:
                values[:, at : at + size] += 1.0
            at += size
        return values

    from edgevit.graph.prepare import rewritten_core
    from edgevit.graph.taps import tappable

    module_taps = tappable(rewritten_core(tmp_path / "program.pt2", rewrites_for("onnx")))
    order = {tap.node: index for index, tap in enumerate(module_taps)}
    assert faulty in order
    monkeypatch.setattr(module, "_artifact", artifact)
    found = module.bisect(
        tmp_path / "program.pt2",
        bundle_manifest,
        resolve_target("onnx"),
        inputs,
        tmp_path,
        tmp_path / "log",
        module.ProcessLimits(),
    )
    assert found.tap is not None
    assert found.tap.node == faulty
    assert found.tap.module
    assert found.lowerings <= 4


def test_bisect_clears_the_toolchain_when_the_file_was_damaged(tmp_path: Path) -> None:
    from edgevit.schema.target import resolve_target
    from edgevit.verify.bisect import ProcessLimits, bisect

    loaded = load_model("shvit_digits")
    torch.export.save(capture(loaded.module, (32, 32)), tmp_path / "program.pt2")
    inputs = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3), dtype=np.uint8)
    found = bisect(
        tmp_path / "program.pt2",
        _described("shvit_digits"),
        resolve_target("onnx"),
        inputs,
        tmp_path,
        tmp_path / "log",
        ProcessLimits(),
    )
    assert found.tap is None
    assert "damaged" in found.sentence()


def _described(name: str = "tinyvit_digits") -> object:
    from edgevit.pipeline.describe import describe
    from edgevit.pipeline.options import ExportOptions
    from edgevit.schema.target import resolve_target

    return describe(load_model(name), ExportOptions(name, ("onnx",)), resolve_target("onnx"))
