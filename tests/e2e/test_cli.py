"""The command line as a person and a program meet it."""

from __future__ import annotations

import itertools
import json
import os
import pty
import select
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

from edgevit.data.digits import digits_arrays
from edgevit.models.bundled import BUILDERS
from edgevit.models.load import load_model
from edgevit.verify.evaluate import Evaluation, evaluate_bundle, evaluate_model
from tests.conftest import FORMATS, cli, cli_json, crossed

Exported = Callable[..., Path]


@cache
def pytorch_answers(model: str) -> Evaluation:
    return evaluate_model(load_model(model), "digits:test")


# Two models in every format, and each of the others in one or two.
COVERED = [
    *itertools.product(("tinyvit_digits", "deit_digits"), FORMATS),
    ("shvit_digits", "onnx"),
    ("shvit_digits", "executorch"),
    ("mobilevitv2_digits", "litert"),
    ("efficientformerv2_digits", "coreml"),
]


@pytest.mark.parametrize(("model", "target"), crossed(list(BUILDERS), FORMATS, COVERED))
def test_every_bundle_predicts_what_pytorch_predicts(exported: Exported, model: str, target: str) -> None:
    """All 450 held-out digits, picture by picture."""
    from edgevit.bundle.loaded import load

    found = evaluate_bundle(load(exported(model, target)), "digits:test")
    expected = pytorch_answers(model)
    assert found.predictions == expected.predictions
    assert found.accuracy == expected.accuracy
    assert found.accuracy >= 0.97


def test_evaluate_prints_accuracy_between_0_and_1(exported: Exported, tmp_path: Path) -> None:
    document = cli_json("evaluate", exported(), "digits:test", "--limit", 50, "--predictions", tmp_path / "p.csv")
    assert 0.9 <= document["accuracy"] <= 1
    lines = (tmp_path / "p.csv").read_text().splitlines()
    assert lines[0] == "index,truth,prediction"
    right = sum(line.split(",")[1] == line.split(",")[2] for line in lines[1:])
    assert right / 50 == document["accuracy"]


def test_evaluate_a_folder_of_classes(exported: Exported, tmp_path: Path) -> None:
    images, labels = digits_arrays("test")
    for index in range(20):
        folder = tmp_path / str(labels[index])
        folder.mkdir(exist_ok=True)
        Image.fromarray(images[index]).save(folder / f"{index}.png")
    document = cli_json("evaluate", exported(), tmp_path)
    assert document["count"] == 20
    assert document["accuracy"] >= 0.9


@pytest.mark.parametrize("target", FORMATS)
def test_predict_names_the_digit_and_nothing_else(exported: Exported, tmp_path: Path, target: str) -> None:
    images, labels = digits_arrays("test")
    Image.fromarray(images[1]).save(tmp_path / "two.png")
    done = cli("predict", exported("tinyvit_digits", target), tmp_path / "two.png", "--json", "--top", 2)
    assert done.returncode == 0
    assert done.stderr == ""
    assert json.loads(done.stdout)["runtime"]
    best = json.loads(done.stdout)["predictions"][0]["classes"]
    assert [len(best), best[0]["label"]] == [2, str(labels[1])]
    assert best[0]["score"] > 0.5


def test_predict_for_people(exported: Exported, tmp_path: Path) -> None:
    Image.fromarray(digits_arrays("test")[0][1]).save(tmp_path / "two.png")
    done = cli("predict", exported(), tmp_path / "two.png")
    assert "two.png" in done.stdout
    assert "%" in done.stdout


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: None, "there is no picture"),
        (lambda p: p.write_bytes(b""), "empty file"),
        (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n garbage"), "not a picture"),
        (lambda p: Image.new("1", (10_000, 5_001)).save(p), "50.0 megapixels"),
    ],
)
def test_predict_with_a_bad_picture(
    exported: Exported, tmp_path: Path, make: Callable[[Path], None], says: str
) -> None:
    make(tmp_path / "p.png")
    done = cli("predict", exported(), tmp_path / "p.png")
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("target", FORMATS)
def test_inspect_a_lone_file(exported: Exported, tmp_path: Path, target: str) -> None:
    bundle = exported("tinyvit_digits", target)
    source = next(path for path in bundle.iterdir() if path.suffix in (".onnx", ".tflite", ".pte", ".mlpackage"))
    lone = tmp_path / f"renamed{source.suffix}"
    if source.is_dir():
        shutil.copytree(source, lone)
    else:
        shutil.copy(source, lone)
    document = cli_json("inspect", lone)
    assert document["manifest"]["model"]["name"] == "tinyvit_digits"
    assert sum(document["operators"].values()) > 0
    shown = cli("inspect", lone)
    assert "tinyvit_digits (TinyViT)" in shown.stdout


def test_inspect_a_file_of_another_tool(tmp_path: Path) -> None:
    import onnx
    from onnx import helper

    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, [1])],
        [helper.make_tensor_value_info("y", 1, [1])],
    )
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    done = cli("inspect", tmp_path / "m.onnx")
    assert done.returncode == 0
    assert "another tool" in done.stdout
    assert "Relu" in done.stdout


def test_inspect_a_model_and_its_rewrites() -> None:
    document = cli_json("inspect", "mobilevitv2_digits", "--graph")
    assert document["model"]["parameters"] == 142191
    assert document["rewrites"]["litert"]["bypass_expand"] > 0
    assert "fold_batch_norm" in cli("inspect", "mobilevitv2_digits", "--graph").stdout


def test_verify_says_passed_and_a_wrong_reference_fails(exported: Exported) -> None:
    passed = cli("verify", exported(), exported("tinyvit_digits", "coreml"))
    assert passed.returncode == 0
    assert "passed" in passed.stdout
    assert "evaluator" in passed.stdout
    failed = cli("verify", exported(), "--reference", "tinyvit_digits", "--weights", "random", "--json")
    assert failed.returncode == 3
    assert json.loads(failed.stdout)["verdicts"][0]["status"] == "failed"


def test_verify_bisect_needs_a_reference(exported: Exported) -> None:
    done = cli("verify", exported(), "--bisect")
    assert done.returncode == 2
    assert "--reference MODEL" in done.stderr


def test_models_filters_and_sorts() -> None:
    document = cli_json("models", "--sort", "macs", "--max-macs", 600, "--min-top1", 75)
    costs = [model["macs"] for model in document["models"]]
    assert costs == sorted(costs)
    assert max(costs) <= 600e6
    assert min(model["top1"] for model in document["models"]) >= 75
    assert cli("models", "nothing-like-this").returncode == 2


def test_targets_and_doctor() -> None:
    document = cli_json("targets")
    assert {runtime["backend"] for runtime in document["runtimes"]} == {"coreml", "litert", "executorch", "onnx"}
    assert {"host", "raspberry-pi-4", "raspberry-pi-5", "browser"} <= {device["name"] for device in document["devices"]}
    assert cli_json("targets", "raspberry-pi-5")["device"]["memory_mb"] == 8192
    checks = {check["name"]: check["state"] for check in cli_json("doctor")["checks"]}
    assert checks["export to onnx"] == "ok"


def test_bundle_commands(exported: Exported) -> None:
    assert cli_json("bundle", "check", exported())["ok"]
    assert json.loads(cli("bundle", "sbom", exported()).stdout)["bomFormat"] == "CycloneDX"
    assert "sha256" in cli("bundle", "show", exported()).stdout


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["export", "tiny_vit_5m_22", "-t", "onnx"], 2, "did you mean tiny_vit_5m_224"),
        (["export", "tinyvit_digits", "-t", "onxx"], 2, "did you mean onnx"),
        (["export", "tinyvit_digits"], 2, "--target"),
        (["export", "tiny_vit_5m_224", "-t", "onnx"], 5, "hf download timm/tiny_vit_5m_224.dist_in22k_ft_in1k"),
        (["export", "tinyvit_digits", "-t", "onnx", "--num-classes", "7"], 2, "untrained"),
        (["export", "tinyvit_digits", "-t", "onnx", "--labels", "nowhere.txt"], 2, "there is no labels file"),
        (
            ["export", "levit_128s", "-t", "onnx", "--weights", "random", "--size", "100"],
            2,
            "cannot take an input of 100x100",
        ),
        (["evaluate", "tinyvit_digits", "digits:validation"], 2, "digits:train or digits:test"),
        (["evaluate", "tinyvit_digits", "nowhere"], 2, "there is no folder nowhere"),
        (["verify", "nowhere"], 2, "there is no bundle nowhere"),
        (["inspect", "nowhere.onnx"], 2, "nowhere.onnx"),
        (["frobnicate"], 2, "frobnicate"),
    ],
)
def test_mistakes_get_one_clear_message(tmp_path: Path, arguments: list[str], status: int, says: str) -> None:
    done = cli(*arguments, cwd=tmp_path)
    assert done.returncode == status, done.stderr
    assert says in done.stderr.replace("\n", " ").replace("│", "")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_error_in_json_too() -> None:
    done = cli("export", "tiny_vit_5m_22", "-t", "onnx", "--json")
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "E_UNKNOWN_NAME"
    assert "tiny_vit_5m_224" in error["cure"]


def test_vv_shows_the_traceback() -> None:
    assert "Traceback" in cli("-vv", "export", "tiny_vit_5m_22", "-t", "onnx").stderr


def test_a_bug_is_logged_and_not_thrown_at_the_user(tmp_path: Path) -> None:
    code = "import edgevit.cli.app as a, edgevit.models.registry as r, sys\nr.list_models = lambda p: 1 / 0\nsys.argv = ['edgevit', 'models']\na.main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "EDGEVIT_CACHE": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "ZeroDivisionError" in next((tmp_path / "logs").glob("crash-*.log")).read_text()


def test_dry_run_plans_and_writes_nothing(tmp_path: Path) -> None:
    document = cli_json("export", "tiny_vit_5m_224", "-t", "coreml", "-t", "raspberry-pi-5", "--dry-run", cwd=tmp_path)
    assert [row["bundle"] for row in document["plan"]] == [
        "build/tiny_vit_5m_224/coreml-fp32",
        "build/tiny_vit_5m_224/litert-fp32",
    ]
    assert list(tmp_path.iterdir()) == []


def test_configuration_goes_flag_environment_file(tmp_path: Path) -> None:
    (tmp_path / "edgevit.toml").write_text('[export]\nprecision = "fp16"\nout = "dist"\ntarget = ["onnx"]\n')

    def planned(*arguments: str, env: dict[str, str] | None = None) -> str:
        document = cli_json("export", "tinyvit_digits", "--dry-run", *arguments, cwd=tmp_path, env=env)
        return str(document["plan"][0]["bundle"])

    assert planned() == "dist/tinyvit_digits/onnx-fp16"
    assert planned(env={"EDGEVIT_EXPORT_PRECISION": "fp32"}) == "dist/tinyvit_digits/onnx-fp32"
    assert (
        planned("-p", "fp16", "-o", "flag", env={"EDGEVIT_EXPORT_PRECISION": "fp32"}) == "flag/tinyvit_digits/onnx-fp16"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[exprot]\n", "did you mean export"),
        ("[export]\nprecison = 'fp16'\n", "did you mean precision"),
        ("[export\n", "not valid TOML"),
    ],
)
def test_a_mistake_in_the_configuration(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "edgevit.toml").write_text(text)
    done = cli("models", cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr


def test_configuration_in_pyproject(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\n[tool.edgevit.models]\nsort = "macs"\n')
    document = cli_json("models", cwd=tmp_path)
    costs = [model["macs"] for model in document["models"]]
    assert costs == sorted(costs)


def test_progress_is_live_on_a_terminal_and_gone_when_done(tmp_path: Path, exported: Exported) -> None:
    exported("tinyvit_digits", "onnx")
    main, side = pty.openpty()
    command = [sys.executable, "-m", "edgevit.cli.app", "export", "tinyvit_digits", "-t", "onnx", "-o", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=side, stdin=subprocess.DEVNULL, text=True)
    os.close(side)
    seen = b""
    while process.poll() is None or select.select([main], [], [], 0)[0]:
        if select.select([main], [], [], 0.2)[0]:
            try:
                seen += os.read(main, 4096)
            except OSError:
                break
    assert process.stdout is not None
    assert "passed" in process.stdout.read()
    assert b"cached" in seen or b"onnx-fp32" in seen
    os.close(main)


def test_no_colour_when_it_is_not_wanted(exported: Exported) -> None:
    done = cli("verify", exported(), env={"NO_COLOR": "1", "FORCE_COLOR": "", "TERM": "xterm-256color"})
    assert "\x1b[" not in done.stdout + done.stderr


def test_the_python_interface(exported: Exported, tmp_path: Path) -> None:
    import edgevit

    results = edgevit.export("tinyvit_digits", ["onnx"], out=str(tmp_path))
    assert results[0].ok
    assert edgevit.verify_bundle(results[0].path).status == "passed"
    Image.fromarray(digits_arrays("test")[0][1]).save(tmp_path / "two.png")
    assert edgevit.load(results[0].path).predict(tmp_path / "two.png")[0].label == "2"
    assert edgevit.list_models("shvit")[0].family == "SHViT"
    assert edgevit.evaluate(results[0].path, "digits:test").accuracy >= 0.97
