"""`edgevit quantize`, and what `export` and `evaluate` do with a recipe."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from edgevit.schema.recipe import read_recipe
from tests.conftest import cli, cli_json

MODEL = "deit_digits"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Solved by the command, with its report."""
    folder = tmp_path_factory.mktemp("recipe")
    done = cli(
        "quantize", MODEL, "--calib", "digits:train", "--images", 16, "--quantizer", "minmax", "--evaluate", "digits:test",
        "--limit", 100, "--floor", 0.9, "--report", folder / "layers.html", "-o", folder / "deit.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "minmax" in done.stdout
    return folder / "deit.json"


def test_a_recipe_says_what_it_is(recipe: Path) -> None:
    found = read_recipe(recipe)
    assert found.quantizer == "minmax" and found.model.name == MODEL
    assert found.calibration is not None and found.calibration.images == 16
    assert found.agreement is not None and found.agreement.accuracy is not None and found.agreement.accuracy > 0.9
    assert str(recipe.parent) not in recipe.read_text()


def test_the_report_is_one_page_without_a_network(recipe: Path) -> None:
    page = (recipe.parent / "layers.html").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)\s*=|https?://|@import|url\(", page)
    assert page.count("<rect") == len(read_recipe(recipe).weights)
    assert "The worst 3" in page and "prefers-color-scheme: dark" in page and "@media print" in page


def test_export_and_evaluate_take_it(recipe: Path, tmp_path: Path) -> None:
    document = cli_json("export", MODEL, "--recipe", recipe, "-p", "int8", "-t", "onnx", "-o", tmp_path)
    result = document["results"][0]  # type: ignore[index]
    assert result["verdict"]["status"] == "passed"
    assert result["verdict"]["float_top1"] >= 0.8
    assert result["lowering"]["integer_share"] > 0.85
    bundle = tmp_path / MODEL / "onnx-int8"
    assert json.loads((bundle / "recipe.json").read_text()) == json.loads(recipe.read_text())
    assert cli("verify", bundle).returncode == 0
    assert cli("verify", bundle, "--reference", MODEL).returncode == 0
    shown = cli("inspect", bundle).stdout
    assert "W8A8 by minmax" in shown and "by integer kernels" in shown
    simulated = cli_json("evaluate", MODEL, "digits:test", "--recipe", recipe, "--limit", 60)
    deployed = cli_json("evaluate", bundle, "digits:test", "--limit", 60)
    assert abs(float(simulated["accuracy"]) - float(deployed["accuracy"])) <= 0.02  # type: ignore[arg-type]


def test_what_no_runtime_executes_is_refused_with_the_nearest_choice(tmp_path: Path) -> None:
    file = tmp_path / "paper.json"
    calibrated = ("--calib", "digits:train", "--images", 8)
    assert cli("quantize", MODEL, *calibrated, "--quantizer", "fqvit", "-q", "-o", file).returncode == 0
    assert cli_json("evaluate", MODEL, "digits:test", "--recipe", file, "--limit", 30)["accuracy"] > 0.8  # type: ignore[operator]
    refused = cli("export", MODEL, "--recipe", file, "-p", "int8", "-t", "onnx", "-o", tmp_path)
    assert refused.returncode == 2
    assert "only be simulated" in refused.stderr and "--exportable" in refused.stderr
    six = tmp_path / "six.json"
    assert (
        cli("quantize", MODEL, *calibrated, "--bits", "w6a6", "--quantizer", "minmax", "-q", "-o", six).returncode == 0
    )
    refused = cli("export", MODEL, "--recipe", six, "-p", "int8", "-t", "onnx", "-o", tmp_path)
    assert refused.returncode == 2 and "--bits w8a8" in refused.stderr


def test_a_missed_floor_is_exit_code_3(tmp_path: Path) -> None:
    file = tmp_path / "low.json"
    done = cli(
        "quantize", MODEL, "--calib", "digits:train", "--images", 8, "--quantizer", "minmax", "--bits", "w2a2",
        "--evaluate", "digits:test", "--limit", 50, "--floor", 0.98, "-o", file,
    )  # fmt: skip
    assert done.returncode == 3
    assert "below the floor of 98.00%" in done.stderr
    assert not file.exists() and file.with_suffix(".rejected.json").exists()


def test_an_artifact_is_held_to_its_floor(recipe: Path, tmp_path: Path) -> None:
    asked = (
        "export",
        MODEL,
        "--recipe",
        recipe,
        "-p",
        "int8",
        "-t",
        "onnx",
        "--evaluate",
        "digits:test",
        "-o",
        tmp_path,
    )
    done = cli(*asked, "--floor", 1.0)
    assert done.returncode == 3
    assert "its accuracy on digits:test is" in done.stderr
    assert (tmp_path / MODEL / "onnx-int8.rejected").is_dir()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("quantize", MODEL, "-o", "x.json"), "without pictures"),
        (("quantize", MODEL, "--calib", "digits:train", "-o", "x.txt"), "a recipe is a .json file"),
        (("quantize", MODEL, "--calib", "digits:train", "--quantizer", "qhvit", "-o", "x.json"), "unknown quantizer"),
        (("quantize", MODEL, "--calib", "digits:train", "--bits", "8", "-o", "x.json"), "not understood"),
        (("export", MODEL, "-t", "onnx", "-p", "int8"), "needs the ranges"),
        (("export", MODEL, "-t", "onnx", "--calib", "digits:train"), "for quantized exports"),
        (("export", MODEL, "-t", "executorch", "-p", "w8"), "does not take w8"),
        (("export", MODEL, "-t", "onnx", "-p", "int8", "--recipe", "nowhere.json"), "no recipe nowhere.json"),
        (("export", MODEL, "-t", "onnx", "-p", "w8", "--floor", "0.9"), "--floor needs pictures"),
    ],
)
def test_requests_that_cannot_work(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    done = cli(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert list(tmp_path.glob("*.json")) == []


def test_an_export_solves_a_recipe_of_its_own(tmp_path: Path) -> None:
    """The one that `quantize --exportable` finds on the same pictures."""
    asked = ("--calib", "digits:train", "--quantizer", "minmax", "-q")
    done = cli("export", MODEL, "-p", "int8", "-t", "onnx", *asked, "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    assert cli("quantize", MODEL, *asked, "--exportable", "-o", tmp_path / "r.json").returncode == 0
    own, found = read_recipe(tmp_path / MODEL / "onnx-int8/recipe.json"), read_recipe(tmp_path / "r.json")
    assert own.calibration is not None and own.calibration == found.calibration
    assert (own.weights, own.activations, own.folds) == (found.weights, found.activations, found.folds)


def test_the_same_from_python(tmp_path: Path) -> None:
    import edgevit

    found = edgevit.quantize(
        MODEL, "digits:train", out=tmp_path / "r.json", quantizer="repq", exportable=True, images=8
    )
    assert found.recipe == read_recipe(tmp_path / "r.json")
    result = edgevit.export(MODEL, ["onnx"], precision="int8", recipe=str(tmp_path / "r.json"), out=tmp_path)[0]
    assert result.ok and result.manifest is not None and result.manifest.quantization is not None
    assert result.manifest.quantization.quantizer == "repq"


def test_mixed_precision_keeps_layers(tmp_path: Path) -> None:
    file = tmp_path / "mixed.json"
    document = cli_json(
        "quantize", MODEL, "--calib", "digits:train", "--images", 8, "--quantizer", "minmax", "--auto-mixed", "size=1.3",
        "--keep-fp16", "head", "-o", file,
    )  # fmt: skip
    reasons = document["kept"]
    assert reasons["head"].startswith("asked for")  # type: ignore[index]
    assert any("budget" in why for why in reasons.values())  # type: ignore[union-attr]
    assert len(document["sensitivity"]) > 20  # type: ignore[arg-type]
    done = cli_json("export", MODEL, "--recipe", file, "-p", "int8", "-t", "litert", "-o", tmp_path)
    assert done["results"][0]["ok"]  # type: ignore[index]
    assert 0.3 < done["results"][0]["lowering"]["integer_share"] < 0.95  # type: ignore[index]
