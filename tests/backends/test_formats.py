"""What each file carries: manifest, labels, names, metadata, and that it is reproducible."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from edgevit.backends.base import backend_of, backends, find_backend
from edgevit.bundle.read import read_bundle
from edgevit.errors import UnknownName
from edgevit.graph.boundary import Wrapped
from edgevit.schema.manifest import parse_manifest
from tests.conftest import FORMATS, REPRODUCIBLE

Exported = Callable[..., Path]


@pytest.mark.parametrize("target", FORMATS)
def test_the_embedded_manifest_is_the_bundles(exported: Exported, target: str) -> None:
    bundle = read_bundle(exported("tinyvit_digits", target))
    text = backend_of(bundle.entry).read_embedded(bundle.entry)
    assert text is not None
    inside = parse_manifest(text, "file")
    assert inside.embedded() == bundle.manifest.embedded()
    assert inside.files is inside.verdict is inside.lowering is None
    assert inside.labels == tuple("0123456789")


@pytest.mark.parametrize("target", FORMATS)
def test_the_manifest_says_what_the_lowering_cost(exported: Exported, target: str) -> None:
    lowering = read_bundle(exported("tinyvit_digits", target)).manifest.lowering
    assert lowering is not None
    assert 0.5 < lowering.seconds < 600
    assert 1e8 < lowering.peak_memory_bytes < 2e10


@pytest.mark.parametrize(
    ("target", "some"),
    [("onnx", "Conv"), ("litert", "CONV_2D"), ("executorch", "delegate: XnnpackBackend"), ("coreml", "ios17.conv")],
)
def test_operators_are_counted(exported: Exported, target: str, some: str) -> None:
    bundle = read_bundle(exported("tinyvit_digits", target))
    counts = backend_of(bundle.entry).operators(bundle.entry)
    found = counts.get(some) or counts.get(some.removeprefix("ios17."))
    assert found, counts


def test_onnx_operators_match_the_onnx_library(exported: Exported) -> None:
    import onnx

    entry = read_bundle(exported("tinyvit_digits", "onnx")).entry
    expected: dict[str, int] = {}
    for node in onnx.load(entry).graph.node:
        expected[node.op_type] = expected.get(node.op_type, 0) + 1
    assert dict(find_backend("onnx").operators(entry)) == expected


def test_onnx_states_its_opset_and_labels(exported: Exported) -> None:
    import onnx

    model = onnx.load(read_bundle(exported("tinyvit_digits", "onnx")).entry)
    assert model.opset_import[0].version == 20
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["labels"].split("\n") == list("0123456789")
    assert [model.graph.input[0].name, model.graph.output[0].name] == ["image", "probabilities"]


def test_no_file_names_the_machine_that_made_it(exported: Exported) -> None:
    for target in REPRODUCIBLE:
        bundle = exported("tinyvit_digits", target)
        data = next(path for path in bundle.iterdir() if path.suffix in (".onnx", ".tflite", ".pte")).read_bytes()
        assert str(Path(torch.__file__).parents[1]).encode() not in data
        assert str(Path(__file__).parents[2]).encode() not in data
        assert (
            Wrapped.__qualname__.encode() not in data or b"edgevit.graph.wrap.Wrapped" in data
        )  # whatever its file is


def test_tflite_metadata_names_labels_and_image(exported: Exported) -> None:
    from edgevit.core.binary import root

    entry = read_bundle(exported("tinyvit_digits", "litert")).entry
    with zipfile.ZipFile(entry) as archive:
        assert archive.read("labels.txt").decode().split() == list("0123456789")
    model = root(entry.read_bytes())
    buffers = list(model.tables(4))
    stored = next(buffers[one.integer(1)].raw(0) for one in model.tables(6) if one.text(0) == "TFLITE_METADATA")
    assert stored is not None
    assert stored[4:8] == b"M001"
    metadata = root(stored)
    assert metadata.text(0) == "tinyvit_digits"
    graph = next(metadata.tables(3))
    source, output = next(graph.tables(2)), next(graph.tables(3))
    assert (source.text(0), output.text(0)) == ("image", "probabilities")
    image = source.table(3).table(1)  # type: ignore[union-attr]
    assert (image.integer(0, 1), image.table(1).integer(0), image.table(1).integer(1)) == (1, 32, 32)  # type: ignore[union-attr]
    assert next(output.tables(6)).text(0) == "labels.txt"


def test_tflite_signature_has_real_names(exported: Exported) -> None:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(read_bundle(exported("tinyvit_digits", "litert")).entry))
    assert interpreter.get_signature_list() == {"serving_default": {"inputs": ["image"], "outputs": ["probabilities"]}}
    run = interpreter.get_signature_runner()
    assert run(image=np.zeros((1, 32, 32, 3), np.uint8))["probabilities"].shape == (1, 10)


def test_core_ml_is_a_classifier_with_an_image_input(exported: Exported) -> None:
    import coremltools as ct

    bundle = read_bundle(exported("tinyvit_digits", "coreml"))
    spec = ct.models.MLModel(str(bundle.entry), skip_model_load=True).get_spec()
    image = spec.description.input[0].type.imageType
    assert (image.height, image.width) == (32, 32)
    assert spec.description.predictedFeatureName == "classLabel"
    assert bundle.manifest.output.name == spec.description.predictedProbabilitiesName
    assert spec.specificationVersion == ct.target.iOS17


def test_a_core_ml_package_that_lies_is_caught(exported: Exported) -> None:
    from edgevit.backends.coreml.backend import check_saved

    bundle = read_bundle(exported("tinyvit_digits", "coreml"))
    check_saved(bundle.entry, bundle.manifest)
    with pytest.raises(ValueError, match="labels differ"):
        check_saved(bundle.entry, bundle.manifest.model_copy(update={"labels": tuple("9876543210")}))
    rule = bundle.manifest.preprocess.model_copy(update={"size": (31, 32)})
    with pytest.raises(ValueError, match="32x32"):
        check_saved(bundle.entry, bundle.manifest.model_copy(update={"preprocess": rule}))


@pytest.mark.usefixtures("own_processes")
@pytest.mark.parametrize("target", REPRODUCIBLE)
def test_the_same_export_gives_the_same_bytes(exported: Exported, tmp_path: Path, target: str) -> None:
    from edgevit.pipeline.export import export
    from edgevit.pipeline.options import ExportOptions

    again = export(ExportOptions("tinyvit_digits", (target,), out=tmp_path, cache=False))[0]
    assert again.path is not None
    first, second = read_bundle(exported("tinyvit_digits", target)), read_bundle(again.path)
    assert first.entry.read_bytes() == second.entry.read_bytes()


@pytest.mark.parametrize("target", ["onnx", "litert", pytest.param("executorch", marks=pytest.mark.matrix), "coreml"])
def test_fp16_halves_the_file(exported: Exported, target: str) -> None:
    def size(path: Path) -> int:
        return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())

    single, half = (read_bundle(exported("tinyvit_digits", target, precision)) for precision in ("fp32", "fp16"))
    assert size(half.entry) < 0.65 * size(single.entry)
    assert half.manifest.verdict is not None
    assert half.manifest.verdict.status == "passed"


@pytest.mark.usefixtures("own_processes")
def test_a_worker_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """coremltools writes whole packages where temporary files go."""
    from edgevit.pipeline.export import export
    from edgevit.pipeline.options import ExportOptions

    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    made = export(ExportOptions("shvit_digits", ("coreml",), out=tmp_path / "out", cache=False))[0]
    assert made.error is None and made.path is not None
    assert list((tmp_path / "tmp").iterdir()) == []
    assert {one.name for one in made.path.parent.iterdir()} == {made.path.name, "logs"}


def test_the_bill_of_materials_is_valid_cyclonedx(exported: Exported) -> None:
    import json

    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = (exported("tinyvit_digits", "onnx") / "sbom.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document = json.loads(text)
    assert document["metadata"]["component"]["type"] == "machine-learning-model"
    assert "torch" in {tool["name"] for tool in document["metadata"]["tools"]["components"]}


def test_an_unknown_backend() -> None:
    with pytest.raises(UnknownName):
        find_backend("onyx")


def test_another_packages_backend_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend is one file and an entry point, in edgevit or in anyone's package."""
    (tmp_path / "toaster.py").write_text(
        "import dataclasses\nfrom edgevit.backends.onnx.backend import BACKEND as ONNX\n"
        "BACKEND = dataclasses.replace(ONNX, name='toaster', suffix='.toast')\n"
    )
    info = tmp_path / "toaster-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toaster\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[edgevit.backends]\ntoaster = toaster:BACKEND\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    backends.cache_clear()
    try:
        (tmp_path / "m.toast").touch()
        assert backend_of(tmp_path / "m.toast").name == "toaster"
    finally:
        backends.cache_clear()
