"""Where fp16 goes wrong, found before a phone does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edgevit.bundle.read import read_bundle
from edgevit.errors import UsageError
from edgevit.mil.evaluate import load_program
from edgevit.mil.hazards import Fp16Limits, Hazard, find_hazards
from edgevit.models.load import load_model
from edgevit.pipeline.export import ExportResult, export
from edgevit.pipeline.options import ExportOptions
from edgevit.verify.hazards import bundle_hazards, file_hazards
from tests.conftest import Exported, cli
from tests.mil.packages import save

BLOCK = "blocks.2.attn"


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """deit_digits with one block's values scaled up by a power of two, and taken back by the projection.

    Attention is linear in its values, so nothing changes in fp32.
    """
    loaded = load_model("deit_digits")
    state = loaded.module.state_dict()
    before = {name: value.clone() for name, value in state.items()}
    factor, dim = 2.0**16, state[f"{BLOCK}.proj.weight"].shape[0]
    for leaf in ("weight", "bias"):
        state[f"{BLOCK}.qkv.{leaf}"][2 * dim :] *= factor
    state[f"{BLOCK}.proj.weight"] /= factor
    picture = torch.rand(2, 3, *loaded.preprocessing.size)
    with torch.no_grad():
        changed = loaded.module(picture)
        loaded.module.load_state_dict(before)
        assert torch.equal(changed, loaded.module(picture)), "the rescaling is not exact"
    for leaf in ("weight", "bias"):
        before[f"{BLOCK}.qkv.{leaf}"][2 * dim :] *= factor
    before[f"{BLOCK}.proj.weight"] /= factor
    path = tmp_path_factory.mktemp("weights") / "loud.safetensors"
    save_file({name: value.contiguous() for name, value in before.items()}, path)
    return path


def exported_half(weights: Path, out: Path, *keep: str) -> ExportResult:
    options = ExportOptions(
        "deit_digits", ("coreml",), weights=str(weights), precision="fp16", keep_fp32=keep, out=out, cache=False
    )
    return export(options)[0]


def test_an_overflow_is_named_and_its_cure_works(overflowing: Path, tmp_path: Path) -> None:
    result = exported_half(overflowing, tmp_path)
    assert result.error is not None, "fp16 must fail with this model"
    assert result.path is not None
    report = bundle_hazards(read_bundle(result.path))
    overflows = [hazard for hazard in report.hazards if hazard.kind == "overflow"]
    assert [(hazard.operator, hazard.module) for hazard in overflows] == [("linear", f"{BLOCK}.qkv")]
    assert overflows[0].value > 65504
    assert report.broken

    done = cli("verify", result.path, "--hazards", "--json")
    assert done.returncode == 3
    found = json.loads(done.stdout)["verdicts"][0]["hazards"]
    assert found["found"][0]["module"] == f"{BLOCK}.qkv"
    printed = cli("verify", result.path, "--hazards")
    assert f"{BLOCK}.qkv" in printed.stdout
    assert "--keep-fp32" in printed.stderr

    bisected = cli("verify", result.path, "--reference", "deit_digits", "--weights", overflowing, "--bisect")
    assert bisected.returncode == 3
    assert f"{BLOCK}.qkv" in bisected.stderr

    cured = exported_half(overflowing, tmp_path / "cured", *report.keep())
    assert cured.error is None, cured.error
    assert cured.manifest is not None
    assert cured.manifest.target.keep_fp32 == report.keep()
    assert not any(hazard.kind == "overflow" for hazard in bundle_hazards(read_bundle(cured.path)).hazards)


def test_an_fp32_program_is_looked_at_as_fp16(overflowing: Path, tmp_path: Path) -> None:
    options = ExportOptions("deit_digits", ("coreml",), weights=str(overflowing), out=tmp_path, cache=False)
    result = export(options)[0]
    assert result.error is None
    report = bundle_hazards(read_bundle(result.path))
    assert not report.half
    assert not report.broken
    assert ("overflow", f"{BLOCK}.qkv") in [(hazard.kind, hazard.module) for hazard in report.hazards]
    assert cli("verify", result.path, "--hazards").returncode == 0


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("model", ["tinyvit_digits", "deit_digits"])
def test_sound_models_have_no_hazards(exported: Exported, model: str, precision: str) -> None:
    report = bundle_hazards(read_bundle(exported(model, "coreml", precision)))
    assert report.hazards == ()
    assert report.operations > 90
    assert report.inputs == 6


def hazards(build: Any, x: np.ndarray, tmp_path: Path, *, half: bool = False, **limits: float) -> tuple[Hazard, ...]:
    program = load_program(save(build, {"x": x}, tmp_path, half=half))
    return find_hazards(program, [x], Fp16Limits(**limits))


def test_what_follows_an_overflow_is_not_reported(tmp_path: Path) -> None:
    from coremltools.converters.mil.mil import Builder as mb

    def build(x: Any) -> Any:
        loud = mb.mul(x=x, y=np.float32(1000), name="loud")
        return mb.mul(x=mb.relu(x=loud), y=np.float32(0.001))

    found = hazards(build, np.array([[1.0, 200.0]], np.float32), tmp_path)
    assert [(one.kind, one.operation, one.value) for one in found] == [("overflow", "loud", 200000)]
    assert "65,504" in found[0].sentence()
    assert len(found[0].keep) == 3, "the operation, and what reads it until the values fit again"


def test_just_inside_is_no_overflow(tmp_path: Path) -> None:
    from coremltools.converters.mil.mil import Builder as mb

    def build(x: Any) -> Any:
        return mb.mul(x=x, y=np.float32(2))

    assert hazards(build, np.array([[32752.0, 1.0]], np.float32), tmp_path) == ()
    assert hazards(build, np.array([[32753.0, 1.0]], np.float32), tmp_path)[0].kind == "overflow"


def test_subnormal_numbers(tmp_path: Path) -> None:
    from coremltools.converters.mil.mil import Builder as mb

    def build(x: Any) -> Any:
        small = mb.mul(x=x, y=np.float32(1e-6), name="small")
        return mb.mul(x=small, y=np.float32(1e6))

    found = hazards(build, np.array([[1.0, 2.0, 3.0]], np.float32), tmp_path)
    assert (found[0].kind, found[0].operation) == ("subnormal", "small")
    assert found[0].value == pytest.approx(1)
    mixed = hazards(lambda x: mb.mul(x=x, y=np.float32(0.5)), np.array([[1.0, 1e-6]], np.float32), tmp_path)
    assert mixed == (), "a few small numbers beside large ones are no loss"


def test_a_departure_is_named_where_it_starts(tmp_path: Path) -> None:
    from coremltools.converters.mil.mil import Builder as mb

    x = np.array([[0.1, 0.7, 0.4]], np.float32)

    def build(x: Any) -> Any:
        lifted = mb.add(x=x, y=np.float32(1000))
        lost = mb.sub(x=lifted, y=np.float32(1000), name="lost")
        return mb.square(x=mb.relu(x=lost))

    found = hazards(build, x, tmp_path)
    assert [(one.kind, one.operation) for one in found] == [("departure", "lost")]
    assert hazards(build, x, tmp_path, departure=10.0) == ()


def test_squares_inside_an_operation(tmp_path: Path) -> None:
    from coremltools.converters.mil.mil import Builder as mb

    x = np.array([[-300.0, 300.0, 1.0, 2.0]], np.float32)
    found = hazards(lambda x: mb.layer_norm(x=x, axes=[-1], epsilon=1e-5), x, tmp_path)
    assert [one.kind for one in found] == ["inner overflow"]
    assert found[0].value > 65504
    assert hazards(lambda x: mb.layer_norm(x=x, axes=[-1], epsilon=1e-5), x / 2, tmp_path) == ()


def test_other_formats_are_refused(exported: Exported) -> None:
    with pytest.raises(UsageError, match="operation by operation") as caught:
        bundle_hazards(read_bundle(exported()))
    assert "-t coreml" in caught.value.cure


def test_keep_fp32_is_checked(tmp_path: Path, exported: Exported) -> None:
    from edgevit.errors import ConversionFailed

    with pytest.raises(UsageError, match="is for fp16"):
        export(ExportOptions("deit_digits", ("coreml",), keep_fp32=("softmax",), out=tmp_path))
    with pytest.raises(UsageError, match="cannot keep single operations"):
        export(ExportOptions("deit_digits", ("litert",), precision="fp16", keep_fp32=("softmax",), out=tmp_path))
    options = ExportOptions(
        "tinyvit_digits", ("coreml",), precision="fp16", keep_fp32=("no_such",), out=tmp_path, cache=False
    )
    error = export(options)[0].error
    assert isinstance(error, ConversionFailed)
    assert "no_such matches no operation" in error.message


def test_keep_fp32_by_operator_type(tmp_path: Path) -> None:
    options = ExportOptions(
        "tinyvit_digits", ("coreml",), precision="fp16", keep_fp32=("softmax", "head.*"), out=tmp_path, cache=False
    )
    result = export(options)[0]
    assert result.error is None, result.error
    program = load_program(read_bundle(result.path).entry)
    kinds = {step.operation.outputs[0].type.dtype.name for step in program.steps if step.operation.type == "softmax"}
    assert kinds == {"fp32"}
    assert program.half
    inputs = np.zeros((1, 32, 32, 3), np.uint8)
    assert file_hazards(read_bundle(result.path).entry, inputs).half
