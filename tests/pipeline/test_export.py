"""The pipeline: options, isolation, limits, interruption, and that nothing is ever half-written."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from edgevit.backends.process import jobs
from edgevit.backends.process.job import PlaceFacts, PlaceJob
from edgevit.backends.process.jobs import ProcessLimits, run_job
from edgevit.bundle.loaded import load
from edgevit.bundle.read import read_bundle
from edgevit.errors import ConversionFailed, EnvironmentIncomplete, UsageError
from edgevit.pipeline import cache
from edgevit.pipeline.export import export
from edgevit.pipeline.options import ExportOptions
from tests.conftest import cli, cli_json

BASE = ExportOptions("shvit_digits", ("onnx",))


def run(out: Path, **change: object) -> object:
    return export(dataclasses.replace(BASE, out=out, **change))[0]


def left_behind(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*")]


@pytest.mark.parametrize(
    ("change", "source", "output"),
    [
        ({"input": "tensor"}, ("NCHW", "float32"), "probabilities"),
        ({"output": "logits"}, ("NHWC", "uint8"), "logits"),
        ({"input": "tensor", "output": "logits", "size": 64}, ("NCHW", "float32"), "logits"),
        ({"labels": tuple("abcdefghij")}, ("NHWC", "uint8"), "probabilities"),
    ],
)
def test_options_reach_the_file(
    tmp_path: Path, change: dict[str, object], source: tuple[str, str], output: str
) -> None:
    result = run(tmp_path, **change)
    assert result.error is None
    manifest = result.manifest
    assert (manifest.input.layout, manifest.input.dtype) == source
    assert (manifest.output.kind, manifest.verdict.status) == (output, "passed")
    assert manifest.preprocess.size == ((64, 64) if "size" in change else (32, 32))
    assert load(result.path).predict(result.path / "golden/probe_1.png")[0].label in manifest.labels


@pytest.mark.parametrize("target", ["coreml", "litert", "executorch"])
def test_tensor_and_logits_in_every_format(tmp_path: Path, target: str) -> None:
    result = run(tmp_path, targets=(target,), input="tensor", output="logits")
    assert result.error is None, result.error
    assert result.manifest.verdict.status == "passed"


def test_the_executorch_core_ml_delegate_is_a_target_of_its_own(tmp_path: Path) -> None:
    result = run(tmp_path, targets=("executorch-coreml",), precision="fp16")
    assert result.error is None, result.error
    assert result.target == "executorch-coreml-fp16"
    from edgevit.backends.base import backend_of

    assert "delegate: CoreMLBackend" in backend_of(read_bundle(result.path).entry).operators(
        read_bundle(result.path).entry
    )


def test_a_bundle_has_everything(tmp_path: Path) -> None:
    path = run(tmp_path).path
    names = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    assert {"manifest.json", "labels.txt", "LICENCE", "README.md", "sbom.json", "shvit_digits.onnx"} <= names
    assert {"golden/inputs.safetensors", "golden/outputs.safetensors", "golden/probe_0.png"} <= names
    assert left_behind(tmp_path) == []


def test_an_operation_is_kept_in_fp32(tmp_path: Path) -> None:
    from edgevit.backends.base import backend_of

    result = run(tmp_path, precision="fp16", keep_fp32=("softmax",))
    assert result.error is None, result.error
    assert result.manifest.target.keep_fp32 == ("softmax",)
    assert 0 < result.manifest.verdict.noise < result.manifest.verdict.tolerance
    entry = read_bundle(result.path).entry
    assert backend_of(entry).operators(entry)["Cast"] > 3
    refused = run(tmp_path / "no", precision="fp16", keep_fp32=("third",), cache=False)
    assert "--keep-fp32 third matches no operation" in refused.error.message


def test_no_verify_says_so(tmp_path: Path) -> None:
    verdict = run(tmp_path, verify=False).manifest.verdict
    assert verdict.status == "not_run"
    assert "--no-verify" in verdict.reasons[0]


def test_the_same_export_comes_from_the_cache(tmp_path: Path) -> None:
    first, second = run(tmp_path / "a"), run(tmp_path / "b")
    assert second.manifest.files == first.manifest.files
    assert second.cached
    assert not run(tmp_path / "c", cache=False).cached
    assert read_bundle(second.path).manifest == first.manifest


def test_a_damaged_cache_entry_is_not_used(tmp_path: Path) -> None:
    from edgevit.pipeline.describe import cache_key
    from edgevit.schema.target import resolve_target

    run(tmp_path / "a", seed=1, weights="random")
    key = cache_key(dataclasses.replace(BASE, seed=1, weights="random"), resolve_target("onnx"))
    entry = cache.cache_folder() / "bundles" / str(key)
    (entry / "labels.txt").write_text("wrong\n")
    assert not run(tmp_path / "b", seed=1, weights="random").cached
    assert not (entry / "labels.txt").exists() or (entry / "labels.txt").read_text() != "wrong\n"


def test_other_weights_are_another_key(tmp_path: Path) -> None:
    from edgevit.pipeline.describe import cache_key
    from edgevit.schema.target import resolve_target

    keys = {
        cache_key(dataclasses.replace(BASE, **change), resolve_target("onnx"))
        for change in (
            {},
            {"weights": "random"},
            {"weights": "random", "seed": 1},
            {"precision": "fp16"},
            {"size": 64},
            {"input": "tensor"},
            {"labels": ("a",)},
        )
    }
    assert len(keys) == 7


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"targets": ()}, "no target"),
        ({"precision": "int8"}, "int8"),
        ({"targets": ("onnx", "onxx")}, "onxx"),
        ({"model": "shvit_digitz"}, "shvit_digitz"),
        ({"weights": "nowhere.pth"}, "nowhere.pth"),
        ({"size": 7}, "out of range"),
        (
            {"targets": ("litert",), "precision": "fp16", "keep_fp32": ("softmax",)},
            "cannot keep single operations in fp32",
        ),
        (
            {"targets": ("executorch-coreml",), "precision": "fp16", "keep_fp32": ("softmax",)},
            "executorch-coreml.* cannot keep single",
        ),
    ],
)
def test_a_wrong_request_writes_nothing(tmp_path: Path, change: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        run(tmp_path / "out", **change)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def worker(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let the next worker run ``code`` in place of its job."""
    script = folder / "worker.py"
    script.write_text(code)
    real = subprocess.Popen

    def popen(command: list[str], **options: object) -> object:
        return real([sys.executable, str(script), command[-1]], **options)

    monkeypatch.setattr(jobs.subprocess, "Popen", popen)


@pytest.mark.usefixtures("own_processes")
@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import os; os.abort()", "crashed with SIGABRT"),
        ("import ctypes; ctypes.string_at(0)", "crashed with SIGSEGV"),
        ("raise SystemExit(9)", "status 9"),
        ("import time; time.sleep(60)", "longer than its limit"),
        ("x = [bytearray(b'x' * (1 << 20)) for _ in range(1500)]; import time; time.sleep(30)", "more than its limit"),
    ],
)
def test_a_worker_that_dies_is_that_targets_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, says: str
) -> None:
    worker(tmp_path, monkeypatch, code)
    limits = ProcessLimits(seconds=8 if "longer" in says else 60, memory_bytes=600 << 20)
    with pytest.raises(ConversionFailed, match=says) as caught:
        run_job(PlaceJob(backend="onnx", file=tmp_path / "none"), PlaceFacts, tmp_path, tmp_path / "logs/log", limits)
    assert str(tmp_path / "logs/log") in caught.value.where


@pytest.mark.usefixtures("own_processes")
def test_one_targets_crash_leaves_the_others_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.Popen

    def popen(command: list[str], **options: object) -> object:
        crashes = "litert_torch" in command
        return real([sys.executable, "-c", "import os; os.abort()"] if crashes else command, **options)

    monkeypatch.setattr(jobs.subprocess, "Popen", popen)
    plain = dataclasses.replace(BASE, targets=("litert", "onnx"), out=tmp_path, cache=False, jobs=2, rewrites=("none",))
    litert, onnx = export(plain)
    assert isinstance(litert.error, ConversionFailed)
    assert onnx.ok
    assert not (tmp_path / "shvit_digits/litert-fp32").exists()
    assert left_behind(tmp_path) == []


@pytest.mark.usefixtures("own_processes")
def test_an_export_that_fails_early_leaves_no_worker(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        export(dataclasses.replace(BASE, targets=("litert", "onnx"), out=tmp_path, cache=False, size=7))
    workers = [
        one for one in psutil.Process().children(recursive=True) if "edgevit.backends.process.worker" in one.cmdline()
    ]
    assert workers == []
    assert left_behind(tmp_path) == []


def start(out: Path, *more: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "edgevit.cli.app",
        "export",
        "tinyvit_digits",
        "-t",
        "litert",
        "-t",
        "executorch",
        "-o",
        str(out),
        "--no-cache",
        *more,
    ]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        stdin=subprocess.DEVNULL,
        preexec_fn=_take_interrupts,
    )


def _take_interrupts() -> None:
    """A suite that a shell runs in the background ignores SIGINT, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for_lowering(process: subprocess.Popen[str]) -> list[psutil.Process]:
    assert process.stderr is not None
    for line in process.stderr:
        if "lowering" in line:
            break
    for _ in range(100):  # a small model is lowered within two seconds
        workers = psutil.Process(process.pid).children(recursive=True)
        if workers:
            return workers
        time.sleep(0.05)
    raise AssertionError("no worker was started")


def assert_gone(workers: list[psutil.Process]) -> None:
    assert workers
    _, alive = psutil.wait_procs(workers, timeout=15)
    assert not alive


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_export_leaves_nothing(tmp_path: Path, sent: signal.Signals) -> None:
    process = start(tmp_path)
    workers = wait_for_lowering(process)
    process.send_signal(sent)
    assert process.wait(timeout=30) == 130
    assert_gone(workers)
    assert left_behind(tmp_path) == []
    for file in [path for path in tmp_path.rglob("*") if path.suffix in (".tflite", ".pte")]:
        read_bundle(file.parent)  # whole: a target that was done before the signal came


def test_a_killed_export_is_cleaned_up_by_the_next(tmp_path: Path) -> None:
    process = start(tmp_path)
    workers = wait_for_lowering(process)
    process.kill()
    process.wait(timeout=30)
    assert_gone(workers)
    assert left_behind(tmp_path)
    result = export(ExportOptions("tinyvit_digits", ("onnx",), out=tmp_path))[0]
    assert result.ok
    assert left_behind(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> object:
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    done = cli("export", "tinyvit_digits", "-t", "onnx", "-o", small_disk, "--no-cache")
    assert done.returncode == 5, done.stderr
    assert "error: the disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert not [path for path in small_disk.rglob("*") if path.suffix == ".onnx"]
    assert left_behind(small_disk) == []


def test_a_read_only_output(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = cli("export", "tinyvit_digits", "-t", "onnx", "-o", small_disk)
    assert done.returncode == 2, done.stderr
    assert "cannot be written: Read-only file system" in done.stderr


def test_an_output_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UsageError, match="cannot be written"):
        run(tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_a_missing_toolchain_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgevit.pipeline import export as module

    backend = dataclasses.replace(module.find_backend("onnx"), packages=("torch", "no-such-package"))
    with pytest.raises(EnvironmentIncomplete) as caught:
        module._require(backend)
    assert "pip install 'edgevit[onnx]'" in caught.value.cure


def test_an_older_bundle_is_replaced_whole(tmp_path: Path) -> None:
    first = run(tmp_path).path
    (first / "stray.txt").write_text("x")
    with pytest.raises(UsageError, match=r"stray\.txt"):
        run(tmp_path, labels=tuple("abcdefghij"))
    (first / "stray.txt").unlink()
    second = run(tmp_path, labels=tuple("abcdefghij")).path
    assert first == second
    assert read_bundle(second).manifest.labels[0] == "a"


def test_other_targets_of_the_model_stay(tmp_path: Path) -> None:
    run(tmp_path)
    kept = tmp_path / "shvit_digits/mine.txt"
    kept.write_text("mine")
    run(tmp_path, precision="fp16")
    assert kept.read_text() == "mine"
    assert (tmp_path / "shvit_digits/onnx-fp32").is_dir()


def test_cache_show_and_clear(tmp_path: Path) -> None:
    env = {"EDGEVIT_CACHE": str(tmp_path / "cache")}
    assert cli("export", "shvit_digits", "-t", "onnx", "-o", tmp_path / "out", env=env).returncode == 0
    shown = cli_json("cache", "show", env=env)
    assert [entry["model"] for entry in shown["bundles"]] == ["shvit_digits"]
    assert cli_json("cache", "clear", env=env)["freed_bytes"] > 1e6
    assert cli_json("cache", "show", env=env)["bundles"] == []


def test_the_whole_cache_is_seen_and_cleared_by_kind(tmp_path: Path) -> None:
    env = {"EDGEVIT_CACHE": str(tmp_path)}
    ours = ("bundles/" + "0" * 64, "split/pool-" + "1" * 32, "web/onnxruntime-web-1.2.3", "runtimes/ort-1-cp311.tar.gz")
    for name in (*ours, "logs/crash-20260101-000000-7.log", "split/mine", "logs/mine.log", "other/x"):
        place = tmp_path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"x" * 1000) if "." in place.name and "web" not in name else (
            place.mkdir(),
            (place / "data").write_bytes(b"x" * 1000),
        )
    assert {kind: row["entries"] for kind, row in cli_json("cache", "show", env=env)["kinds"].items()} == {
        "bundles": 1,
        "split": 1,
        "runtimes": 1,
        "web": 1,
        "logs": 1,
    }
    assert cli_json("cache", "clear", "split", "web", env=env)["freed_bytes"] == 2000
    done = cli("cache", "clear", env=env)
    assert "runtimes for devices, fetched stay (1.0 kB): edgevit cache clear runtimes" in done.stderr
    refused = cli("cache", "clear", "splits", env=env)
    assert refused.returncode == 2 and "split" in refused.stderr
    assert cli_json("cache", "clear", "all", env=env)["left_bytes"] == {}
    assert sorted(path.name for path in tmp_path.rglob("*mine*")) == ["mine", "mine.log"]


def test_every_option_decides_unless_it_says_otherwise() -> None:
    idle = {"targets", "bisect", "out", "cache", "jobs", "timeout", "memory_gib"}
    assert {one.name for one in dataclasses.fields(BASE)} - set(BASE.deciding()) == idle


def test_an_unwritable_cache_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    done = cli(
        "export", "shvit_digits", "-t", "onnx", "-o", tmp_path / "out", env={"EDGEVIT_CACHE": str(tmp_path / "cache")}
    )
    assert done.returncode == 0, done.stderr


def test_two_exports_at_once(tmp_path: Path) -> None:
    running = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "edgevit.cli.app",
                "export",
                "shvit_digits",
                "-t",
                "onnx",
                "-o",
                str(tmp_path),
                "--no-cache",
                "-q",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ,
        )
        for _ in range(2)
    ]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert read_bundle(tmp_path / "shvit_digits/onnx-fp32").manifest.verdict.status == "passed"


def test_peak_memory_is_the_workers_own() -> None:
    """A large process that starts a small one does not lend it its peak."""
    ballast = bytearray(b"x" * (700 << 20))
    code = "from edgevit.backends.process.worker import _peak_memory; print(_peak_memory())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(ballast) > int(done.stdout) > 1 << 20


def test_rewrites_can_be_chosen(tmp_path: Path) -> None:
    plain = run(tmp_path / "none", model="tinyvit_digits", rewrites=("none",))
    assert plain.error is None, plain.error
    assert plain.manifest.lowering.rewrites == {}
    chosen = run(tmp_path / "chosen", model="tinyvit_digits").manifest
    assert chosen.target.rewrites == ()
    first = next(iter(chosen.lowering.rewrites))
    one = run(tmp_path / "one", model="tinyvit_digits", rewrites=(first,))
    assert set(one.manifest.lowering.rewrites) == {first}
    assert one.manifest.target.rewrites == (first,)
    for wrong, match in ((("fold_batchnorm",), "unknown rewrite"), (("all", "drop_noops"), "stands alone")):
        with pytest.raises(UsageError, match=match):
            run(tmp_path / "wrong", rewrites=wrong)
