"""Packages as they come: classifiers, image inputs, damaged files and hostile ones."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgevit.bundle.read import read_bundle
from edgevit.bundle.write import write_manifest
from edgevit.errors import BadFile, EdgevitError, UsageError
from edgevit.mil.evaluate import load_program, run
from edgevit.mil.package import model_file, read_package
from edgevit.mil.program import InFile
from edgevit.mil.runner import load
from edgevit.schema.manifest import VerdictInfo
from edgevit.verify.bundle import verify_bundle
from tests.conftest import Exported
from tests.mil.packages import save

Change = Callable[[Any], None]


def copied(exported: Exported, tmp_path: Path, precision: str = "fp32") -> Path:
    """A bundle of one's own; returns its package."""
    shutil.copytree(exported("tinyvit_digits", "coreml", precision), tmp_path / "bundle")
    return read_bundle(tmp_path / "bundle").entry


def respecified(package: Path, change: Change) -> None:
    """Change the specification of a package in place."""
    from coremltools.proto import Model_pb2

    file = model_file(package)
    model = Model_pb2.Model()
    model.ParseFromString(file.read_bytes())
    change(model)
    file.write_bytes(model.SerializeToString())


def operations(model: Any) -> Any:
    function = model.mlProgram.functions["main"]
    return function.block_specializations[function.opset].operations


def verdict_after(package: Path) -> VerdictInfo:
    """The verdict on a bundle whose hashes were made right again, so that only its answers can give it away."""
    bundle = read_bundle(package.parent, check=False)
    write_manifest(bundle.path, bundle.manifest)
    return verify_bundle(read_bundle(bundle.path))


def weights(package: Path) -> list[InFile]:
    found = []
    for operation in read_package(package).function.operations:
        found += [one for one in operation.attributes.values() if isinstance(one, InFile)]
    return found


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_one_flipped_weight_is_caught(exported: Exported, tmp_path: Path, precision: str) -> None:
    package = copied(exported, tmp_path, precision)
    head = next(one for one in weights(package) if one.type.shape == (10, 96))
    file = read_package(package).weight_file(head.file)
    data = bytearray(file.read_bytes())
    start = struct.unpack_from("<Q", data, head.offset + 16)[0]
    kind = np.dtype(head.type.dtype.storage)
    values = np.frombuffer(data, kind, 960, start).copy()
    values[np.abs(values).argmax()] *= -1
    data[start : start + values.nbytes] = values.tobytes()
    file.write_bytes(data)
    verdict = verdict_after(package)
    assert verdict.status == "failed"
    assert "range" in " ".join(verdict.reasons)


def test_one_changed_transpose_is_caught(exported: Exported, tmp_path: Path) -> None:
    package = copied(exported, tmp_path)

    def change(model: Any) -> None:
        for operation in operations(model):
            if operation.type == "const" and operation.outputs[0].name.endswith("_perm_0"):
                order = operation.attributes["val"].immediateValue.tensor.ints.values
                if sorted(order) == [0, 1, 2, 3] and list(order) == [0, 2, 1, 3]:
                    order[:] = [0, 1, 2, 3]
                    return
        raise AssertionError("no such transpose")

    respecified(package, change)
    with pytest.raises(EdgevitError, match=r"shape|declares|cannot be executed"):
        verdict_after(package)


def test_a_transpose_that_keeps_the_shapes_is_caught(exported: Exported, tmp_path: Path) -> None:
    """An attention matrix read the other way round has the same shape and other values."""
    package = copied(exported, tmp_path)

    def change(model: Any) -> None:
        made = {one.outputs[0].name: one for one in operations(model)}
        for operation in operations(model):
            if operation.type != "matmul":
                continue
            shape = [
                d.constant.size
                for d in made[operation.inputs["x"].arguments[0].name].outputs[0].type.tensorType.dimensions
            ]
            if shape[-1] == shape[-2]:
                flag = made[operation.inputs["transpose_x"].arguments[0].name].attributes["val"].immediateValue
                flag.tensor.bools.values[:] = [not flag.tensor.bools.values[0]]
                return
        raise AssertionError("no such matmul")

    respecified(package, change)
    assert verdict_after(package).status == "failed"


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
def test_a_truncated_weight_file_is_caught(exported: Exported, tmp_path: Path, kept: float) -> None:
    package = copied(exported, tmp_path)
    file = next(package.rglob("weight.bin"))
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * kept)])
    with pytest.raises(BadFile, match=r"weight file|outside"):
        load_program(package)
    with pytest.raises(EdgevitError, match=r"weight file|outside"):
        verdict_after(package)


def test_a_missing_weight_file(exported: Exported, tmp_path: Path) -> None:
    package = copied(exported, tmp_path)
    next(package.rglob("weight.bin")).unlink()
    with pytest.raises(BadFile, match="weight file is missing"):
        load_program(package)


@pytest.mark.parametrize(
    ("at", "value", "match"),
    [
        (4, b"\x03", "version 3"),
        (64, b"\x00\x00\x00\x00", "no record starts"),
        (68, b"\x04", "holds int8"),
        (72, b"\x01" + b"\x00" * 7, "too few"),
    ],
)
def test_damaged_records(exported: Exported, tmp_path: Path, at: int, value: bytes, match: str) -> None:
    package = copied(exported, tmp_path)
    file = next(package.rglob("weight.bin"))
    data = bytearray(file.read_bytes())
    data[at : at + len(value)] = value
    file.write_bytes(data)
    with pytest.raises(BadFile, match=match):
        load_program(package)


def test_a_specification_cut_anywhere_never_crashes(exported: Exported, tmp_path: Path) -> None:
    package = copied(exported, tmp_path)
    file = model_file(package)
    whole = file.read_bytes()
    for cut in range(1, len(whole), len(whole) // 40):
        file.write_bytes(whole[:cut])
        with pytest.raises(EdgevitError):
            load_program(package)


def test_random_bytes_never_crash(exported: Exported, tmp_path: Path) -> None:
    package = copied(exported, tmp_path)
    file = model_file(package)
    whole = file.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(60):
        data = bytearray(whole)
        for place in random.integers(0, len(data), 8):
            data[place] = int(random.integers(256))
        file.write_bytes(bytes(data))
        try:
            loaded = load_program(package)
            run(loaded, {one.name: torch.zeros(1, 3, 32, 32) for one in loaded.package.function.inputs})
        except EdgevitError:
            pass


@pytest.mark.parametrize("outside", ["../../../etc/passwd", "/etc/passwd", ""])
def test_a_package_that_points_outside_itself(exported: Exported, tmp_path: Path, outside: str) -> None:
    package = copied(exported, tmp_path)

    def change(model: Any) -> None:
        for operation in operations(model):
            for value in operation.attributes.values():
                if value.WhichOneof("value") == "blobFileValue":
                    value.blobFileValue.fileName = f"@model_path/{outside}"

    respecified(package, change)
    with pytest.raises(BadFile, match="not inside"):
        load_program(package)


@pytest.mark.parametrize("document", ["", "[]", "{}", '{"rootModelIdentifier": "x", "itemInfoEntries": {}}'])
def test_a_damaged_listing(exported: Exported, tmp_path: Path, document: str) -> None:
    package = copied(exported, tmp_path)
    (package / "Manifest.json").write_text(document)
    with pytest.raises(BadFile, match=r"Manifest.json is damaged"):
        load_program(package)


def test_a_listing_that_points_outside(exported: Exported, tmp_path: Path) -> None:
    package = copied(exported, tmp_path)
    listing = json.loads((package / "Manifest.json").read_text())
    listing["itemInfoEntries"][listing["rootModelIdentifier"]]["path"] = "../../manifest.json"
    (package / "Manifest.json").write_text(json.dumps(listing))
    with pytest.raises(BadFile, match="not inside"):
        load_program(package)


def test_not_a_package(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="not a Core ML package"):
        load_program(tmp_path)


def test_a_neural_network_is_not_a_program(exported: Exported, tmp_path: Path) -> None:
    package = copied(exported, tmp_path)

    def change(model: Any) -> None:
        model.neuralNetwork.SetInParent()

    respecified(package, change)
    with pytest.raises(BadFile, match="no ML Program") as caught:
        load_program(package)
    assert "mlprogram" in caught.value.cure


def first(model: Any, kind: str) -> Any:
    return next(one for one in operations(model) if one.type == kind)


def test_an_unknown_operator_is_named(exported: Exported, tmp_path: Path) -> None:
    package = copied(exported, tmp_path)
    respecified(package, lambda model: setattr(first(model, "softmax"), "type", "hyper_softmax"))
    with pytest.raises(UsageError, match="'hyper_softmax'") as caught:
        load_program(package)
    assert "macOS" in caught.value.cure


def test_an_unknown_parameter_is_named(exported: Exported, tmp_path: Path) -> None:
    package = copied(exported, tmp_path)

    def change(model: Any) -> None:
        conv = first(model, "conv")
        conv.inputs["padding"].CopyFrom(conv.inputs["pad"])

    respecified(package, change)
    with pytest.raises(BadFile, match=r"\(conv\).*no parameter 'padding'"):
        load_program(package)


def test_a_missing_parameter_is_named(exported: Exported, tmp_path: Path) -> None:
    package = copied(exported, tmp_path)
    respecified(package, lambda model: first(model, "conv").inputs.pop("weight"))
    with pytest.raises(BadFile, match=r"\(conv\).*'weight' is missing"):
        load_program(package)


def test_a_value_that_nothing_produces_is_named(exported: Exported, tmp_path: Path) -> None:
    package = copied(exported, tmp_path)
    respecified(package, lambda m: setattr(first(m, "softmax").inputs["x"].arguments[0], "name", "phantom"))
    with pytest.raises(BadFile, match=r"\(softmax\).*nothing before it produces its input 'phantom'"):
        load_program(package)


def test_a_value_that_is_produced_twice(exported: Exported, tmp_path: Path) -> None:
    package = copied(exported, tmp_path)
    respecified(package, lambda m: operations(m).append(first(m, "softmax")))
    with pytest.raises(BadFile, match="twice"):
        load_program(package)


def test_a_shape_that_is_not_what_is_declared(exported: Exported, tmp_path: Path) -> None:
    package = copied(exported, tmp_path)

    def change(model: Any) -> None:
        first(model, "softmax").outputs[0].type.tensorType.dimensions[-1].constant.size = 3

    respecified(package, change)
    with pytest.raises(BadFile, match=r"\(softmax\).*the program declares"):
        load(package)(np.zeros((1, 32, 32, 3), np.uint8))


def converted(tmp_path: Path, **image: Any) -> Path:
    """A package whose one image input has a scale, a bias and an order of colours."""
    import coremltools as ct

    class Channels(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3))

    colours = 1 if image.get("color_layout") == ct.colorlayout.GRAYSCALE else 3
    example = torch.rand(1, colours, 6, 8)
    program = torch.export.export(Channels(), (example,)).run_decompositions({})
    model = ct.convert(
        program,
        inputs=[ct.ImageType(name="picture", shape=tuple(example.shape), **image)],
        minimum_deployment_target=ct.target.iOS17,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    model.save(str(tmp_path / "image.mlpackage"))
    return tmp_path / "image.mlpackage"


PICTURE = np.random.default_rng(3).integers(0, 256, (1, 6, 8, 3), dtype=np.uint8)


def test_an_image_input_with_scale_and_bias(tmp_path: Path) -> None:
    package = converted(tmp_path, scale=1 / 127.5, bias=[-1.0, -0.5, 0.25])
    expected = PICTURE.astype(np.float64).mean((1, 2)) / 127.5 + [-1.0, -0.5, 0.25]
    np.testing.assert_allclose(load(package)(PICTURE), expected, rtol=1e-5)


def test_the_order_of_colours(tmp_path: Path) -> None:
    import coremltools as ct

    package = converted(tmp_path, color_layout=ct.colorlayout.BGR)
    assert read_package(package).inputs[0].colour == "BGR"
    np.testing.assert_allclose(load(package)(PICTURE), PICTURE.mean((1, 2))[:, ::-1], rtol=1e-5)


def test_a_grey_image(tmp_path: Path) -> None:
    import coremltools as ct
    from PIL import Image

    package = converted(tmp_path, color_layout=ct.colorlayout.GRAYSCALE)
    expected = np.asarray(Image.fromarray(PICTURE[0]).convert("L"), np.float64).mean()
    np.testing.assert_allclose(load(package)(PICTURE), [[expected]], rtol=1e-5)


@pytest.mark.parametrize("wrong", [PICTURE[:, :5], PICTURE.astype(np.float32), PICTURE[..., :1]])
def test_a_picture_that_does_not_fit(tmp_path: Path, wrong: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"takes uint8 \[1, 6, 8, 3\]"):
        load(converted(tmp_path))(wrong)


def test_a_classifier_gives_its_label_and_every_probability(exported: Exported) -> None:
    bundle = read_bundle(exported("tinyvit_digits", "coreml"))
    program = load_program(bundle.entry)
    assert program.package.classes() == bundle.manifest.labels
    outputs = run(program, {"image": torch.rand(1, 3, 32, 32) * 255})
    probabilities = outputs["classLabel_probs"]
    assert list(probabilities) == list(bundle.manifest.labels)
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert outputs["classLabel"] == max(probabilities, key=probabilities.__getitem__)


def test_wrong_inputs_to_a_program(tmp_path: Path) -> None:
    from coremltools.converters.mil.mil import Builder as mb

    program = load_program(
        save(lambda a, b: mb.add(x=a, y=b), {"a": np.ones(2, np.float32), "b": np.ones(2, np.float32)}, tmp_path)
    )
    with pytest.raises(UsageError, match="needs the input 'b'"):
        run(program, {"a": torch.ones(2)})
    with pytest.raises(UsageError, match=r"shape \[3\]"):
        run(program, {"a": torch.ones(3), "b": torch.ones(2)})
    with pytest.raises(UsageError, match="one input"):
        load(program.package.path)


def test_fp16_rounds_after_every_operation(tmp_path: Path) -> None:
    """(x + 2048) - 2048: the sum is a multiple of 2 in fp16, whatever x was."""
    from coremltools.converters.mil.mil import Builder as mb

    x = np.array([0.7, 1.2, 3.4], np.float32)

    def build(x: Any) -> Any:
        return mb.sub(x=mb.add(x=x, y=np.float32(2048)), y=np.float32(2048))

    half = load_program(save(build, {"x": x}, tmp_path, half=True))
    full = load_program(save(build, {"x": x}, tmp_path))
    assert half.half
    assert not full.half
    given = {"x": torch.from_numpy(x)}
    wanted = ((x.astype(np.float16) + np.float16(2048)) - np.float16(2048)).astype(np.float32)
    assert next(iter(run(half, given).values())).tolist() == wanted.tolist()
    np.testing.assert_allclose(next(iter(run(full, given).values())), x, atol=2e-4)


def test_coremltools_is_not_needed(exported: Exported) -> None:
    """Predicting off macOS imports torch and nothing of the converter."""
    bundle = exported("tinyvit_digits", "coreml")
    code = (
        "import sys\nimport edgevit\n"
        f"print(edgevit.load({str(bundle)!r}).predict({str(bundle / 'golden/probe_0.png')!r})[0].label)\n"
        "print('coremltools' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[1] == "False"
