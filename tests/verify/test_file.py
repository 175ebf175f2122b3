"""Model files without their bundle, edgevit's own and other tools'."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgevit.backends.base import find_backend
from edgevit.bundle.read import bundle_at, read_bundle
from edgevit.errors import BadFile, UsageError
from edgevit.models.load import LoadedModel, load_model
from edgevit.verify.file import verify_file
from tests.conftest import FORMATS, Exported, cli, cli_json


@pytest.fixture(scope="module")
def tinyvit() -> LoadedModel:
    return load_model("tinyvit_digits")


def alone(exported: Exported, target: str, tmp_path: Path) -> Path:
    source = read_bundle(exported("tinyvit_digits", target)).entry
    copy = tmp_path / source.name
    if source.is_dir():
        shutil.copytree(source, copy)
    else:
        shutil.copy(source, copy)
    return copy


@pytest.mark.parametrize("target", FORMATS)
def test_a_file_of_ours_says_what_it_takes(
    exported: Exported, tmp_path: Path, tinyvit: LoadedModel, target: str
) -> None:
    file = alone(exported, target, tmp_path)
    found = verify_file(file, tinyvit)
    assert found.verdict.status == "passed"
    assert found.verdict.probes == 6
    assert verify_file(file, load_model("tinyvit_digits", weights="random")).verdict.status == "failed"


def test_the_command_line(exported: Exported, tmp_path: Path) -> None:
    file = alone(exported, "coreml", tmp_path)
    nameless = cli("verify", file)
    assert nameless.returncode == 2
    assert "--reference MODEL" in nameless.stderr
    document = cli_json("verify", file, "--reference", "tinyvit_digits", "--hazards")
    assert document["verdicts"][0]["status"] == "passed"
    assert document["verdicts"][0]["hazards"]["found"] == []
    wrong = cli("verify", file, "--reference", "tinyvit_digits", "--weights", "random")
    assert wrong.returncode == 3
    assert cli("verify", file, "--reference", "tinyvit_digits", "--bisect").returncode == 2
    assert cli("verify", tmp_path / "nothing.mlpackage", "--reference", "tinyvit_digits").returncode == 2


def test_a_file_inside_its_bundle_means_the_bundle(exported: Exported) -> None:
    bundle = read_bundle(exported("tinyvit_digits", "coreml"))
    found = bundle_at(bundle.entry)
    assert found is not None
    assert found.path == bundle.path
    assert cli("verify", bundle.entry).returncode == 0
    assert bundle_at(bundle.path) is not None
    with pytest.raises(BadFile, match="no bundle"):
        bundle_at(bundle.path.parent / "other")


def foreign(tinyvit: LoadedModel, out: Path, *, image: bool, wrong: bool = False) -> Path:
    """What a user's own script would write with coremltools: no manifest, normalisation as an image's scale and bias."""
    import coremltools as ct

    rule = tinyvit.preprocessing
    mean, std = rule.mean[0], rule.std[0]
    assert set(rule.mean) == {mean}
    assert set(rule.std) == {std}
    example = torch.rand(1, 3, *rule.size)
    program = torch.export.export(tinyvit.module, (example,), strict=False).run_decompositions({})
    bias = [-mean / std] * 3 if not wrong else [0.0] * 3
    kind: Any = (
        ct.ImageType(name="picture", shape=tuple(example.shape), scale=1 / (255 * std), bias=bias)
        if image
        else ct.TensorType(name="pixels", shape=tuple(example.shape), dtype=np.float32)
    )
    model = ct.convert(
        program,
        inputs=[kind],
        minimum_deployment_target=ct.target.iOS17,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    model.save(str(out / "foreign.mlpackage"))
    return out / "foreign.mlpackage"


@pytest.mark.parametrize("image", [True, False], ids=["image", "tensor"])
def test_a_package_of_another_tool(tmp_path: Path, tinyvit: LoadedModel, image: bool) -> None:
    package = foreign(tinyvit, tmp_path, image=image)
    found = verify_file(package, tinyvit)
    assert found.verdict.status == "passed", found.verdict.reasons
    assert found.inputs.dtype == (np.uint8 if image else np.float32)
    assert cli("verify", package, "--reference", "tinyvit_digits").returncode == 0


def test_a_forgotten_bias_is_caught(tmp_path: Path, tinyvit: LoadedModel) -> None:
    assert verify_file(foreign(tinyvit, tmp_path, image=True, wrong=True), tinyvit).verdict.status == "failed"


def test_further_pictures(exported: Exported, tmp_path: Path, tinyvit: LoadedModel) -> None:
    from PIL import Image

    from edgevit.data.digits import digits_arrays

    (tmp_path / "photos").mkdir()
    for index, picture in enumerate(digits_arrays("test")[0][:3]):
        Image.fromarray(picture).save(tmp_path / "photos" / f"{index}.png")
    found = verify_file(alone(exported, "coreml", tmp_path), tinyvit, images=tmp_path / "photos")
    assert (found.verdict.status, found.verdict.probes) == ("passed", 9)


class Head(torch.nn.Module):
    """The mean colour and one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        weight = np.random.default_rng(3).normal(size=(10, 4)).astype(np.float32)
        self.weight = torch.nn.Parameter(torch.from_numpy(weight[:, :3].copy()))
        self.bias = torch.nn.Parameter(torch.from_numpy(weight[:, 3].copy()))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(image.mean((2, 3)), 3 * self.weight, self.bias)


def onnx_head(path: Path, layout: str, *, dtype: str = "FLOAT", batch: Any = 1, softmax: bool = False) -> LoadedModel:
    """A file as another tool writes it, of `Head`; returns the PyTorch model of it."""
    from onnx import TensorProto, helper, numpy_helper, save

    head, kind = Head().eval().requires_grad_(False), getattr(TensorProto, dtype)
    loaded = replace(load_model("tinyvit_digits"), module=head)
    rule = loaded.preprocessing
    weight, bias = 3 * head.weight.numpy().T, head.bias.numpy()
    if dtype == "UINT8":  # the user's own normalisation inside
        bias = bias - (rule.mean[0] / rule.std[0]) * weight.sum(0)
        weight = weight / np.float32(255 * rule.std[0])
    side, axes = rule.size[0], [2, 3] if layout == "NCHW" else [1, 2]
    shape = [batch, 3, side, side] if layout == "NCHW" else [batch, side, side, 3]
    half = dtype == "FLOAT16"
    arrays = {"w": weight, "b": bias}
    stored = [numpy_helper.from_array(v.astype(np.float16 if half else np.float32), k) for k, v in arrays.items()]
    stored.append(numpy_helper.from_array(np.array(axes, np.int64), "axes"))
    inside = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=inside),
        helper.make_node("ReduceMean", ["f", "axes"], ["m"], keepdims=0),
        helper.make_node("Gemm", ["m", "w", "b"], ["l"]),
        helper.make_node("Softmax", ["l"], ["p"]),
    ]
    given = [helper.make_tensor_value_info("x", kind, shape)]
    found = [helper.make_tensor_value_info("p" if softmax else "l", inside, [batch, 10])]
    graph = helper.make_graph(nodes if softmax else nodes[:3], "g", given, found, stored)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return loaded


@pytest.mark.parametrize(
    ("layout", "options"),
    [
        ("NCHW", {}),
        ("NHWC", {"softmax": True}),
        ("NCHW", {"batch": "N"}),
        ("NHWC", {"dtype": "UINT8"}),
        ("NCHW", {"dtype": "UINT8"}),
        ("NCHW", {"dtype": "FLOAT16"}),
    ],
)
def test_an_onnx_file_of_another_tool(tmp_path: Path, layout: str, options: dict[str, Any]) -> None:
    loaded = onnx_head(tmp_path / "m.onnx", layout, **options)
    found = verify_file(tmp_path / "m.onnx", loaded)
    assert found.verdict.status == "passed", found.verdict.reasons
    assert found.inputs.shape[1:] == ((3, 32, 32) if layout == "NCHW" else (32, 32, 3))


def test_an_onnx_file_that_computes_something_else(tmp_path: Path, tinyvit: LoadedModel) -> None:
    onnx_head(tmp_path / "m.onnx", "NCHW")
    assert verify_file(tmp_path / "m.onnx", tinyvit).verdict.status == "failed"


@pytest.mark.parametrize(
    ("options", "says"),
    [({"batch": 4}, "takes 4 pictures at once"), ({"dtype": "INT32"}, "int32"), ({"dtype": "DOUBLE"}, "float64")],
)
def test_an_onnx_file_that_takes_something_else(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    loaded = onnx_head(tmp_path / "m.onnx", "NCHW", **options)
    with pytest.raises(UsageError, match=says):
        verify_file(tmp_path / "m.onnx", loaded)


@pytest.mark.parametrize(("count", "shape"), [(1, [1, 3]), (2, [1, 3, 8, 8])])
def test_an_onnx_file_with_other_inputs(tmp_path: Path, tinyvit: LoadedModel, count: int, shape: list[int]) -> None:
    from onnx import TensorProto, helper, save

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("a", "b", "c")]
    graph = helper.make_graph([helper.make_node("Sum", ["a", "b"][:count], ["c"])], "g", value[:count], value[2:])
    save(helper.make_model(graph), tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="not one RGB picture" if count == 1 else "has 2 inputs: a, b"):
        verify_file(tmp_path / "m.onnx", tinyvit)


def test_a_tflite_file_of_another_tool(exported: Exported, tmp_path: Path, tinyvit: LoadedModel) -> None:
    data = read_bundle(exported("tinyvit_digits", "litert")).entry.read_bytes()
    (tmp_path / "m.tflite").write_bytes(data.replace(b"edgevit_manifest", b"another_manifest"))
    found = verify_file(tmp_path / "m.tflite", tinyvit)
    assert found.verdict.status == "passed", found.verdict.reasons
    assert found.inputs.dtype == np.uint8


def test_a_pte_file_of_another_tool_is_refused_with_a_cure(
    exported: Exported, tmp_path: Path, tinyvit: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = alone(exported, "executorch", tmp_path)
    backend = replace(find_backend("executorch"), read_embedded=lambda path: None)
    monkeypatch.setattr("edgevit.verify.file.backend_of", lambda path: backend)
    with pytest.raises(UsageError, match="what it takes is not known") as caught:
        verify_file(file, tinyvit)
    assert caught.value.cure.startswith("edgevit export tinyvit_digits -t executorch")


def test_a_package_that_takes_something_else(tmp_path: Path, tinyvit: LoadedModel) -> None:
    from coremltools.converters.mil.mil import Builder as mb

    from tests.mil.packages import save

    two = save(lambda a: mb.relu(x=a), {"a": np.ones((2, 3), np.float32)}, tmp_path)
    with pytest.raises(UsageError, match="not an image or a tensor"):
        verify_file(two, tinyvit)
