"""What `edgevit doctor` says of machines that export, of devices that only run, and of installations that are broken."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from edgevit.backends.base import backends
from edgevit.cli import doctor
from edgevit.pipeline import doctor as module
from edgevit.pipeline.doctor import CheckResult, checkup, import_fault, smallest_extra, useful

DEVICE = {"onnxruntime": "1.99.0", "ai-edge-litert": "2.1.0", "numpy": "2.1.0"}
TOOLCHAIN = {
    "torch": "2.13.0+cpu", "onnx": "1.23.2", "onnxscript": "0.7.2", "timm": "1.0.31", "onnxruntime": "1.31.1",
}  # fmt: skip


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> object:
    """Pretends that just these packages are installed, and that they can be imported."""

    def pretend(found: dict[str, str], fault: str = "") -> dict[str, CheckResult]:
        monkeypatch.setattr(
            module, "package_versions", lambda names: {name: found[name] for name in names if name in found}
        )
        monkeypatch.setattr(module, "import_fault", lambda name: fault)
        monkeypatch.setattr(module, "kinds", dict)
        return {one.name: one for one in checkup()}

    return pretend


def test_a_device_with_runtimes_only_is_well(installed: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: type("Memory", (), {"total": 1 << 30}))
    found = installed(DEVICE)  # type: ignore[operator]
    assert found["run .onnx"].state == found["run .tflite"].state == "ok", "the newest runtime is not wrong"
    assert found["memory"].state == "ok" and "enough to run bundles" in found["memory"].found
    assert found["export to onnx"].cure == "pip install 'edgevit[onnx]'"
    assert useful(list(found.values()))


def test_nothing_at_all_is_useful_for_nothing(installed: object) -> None:
    found = installed({"numpy": "2.1.0"})  # type: ignore[operator]
    assert found["run .onnx"].state == "missing"
    assert found["run .onnx"].cure == found["run .tflite"].cure == "pip install 'edgevit[runtime]'"
    assert found["run .pte"].cure == "pip install 'edgevit[executorch]'"
    assert not useful(list(found.values()))


def test_core_ml_files_that_are_only_evaluated_make_no_machine_useful(
    installed: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.sys, "platform", "linux")
    found = installed({"torch": "2.13.0"})  # type: ignore[operator]
    assert found["run .mlpackage"].usable and not useful(list(found.values()))


@pytest.mark.parametrize(
    ("change", "name", "state", "said"),
    [
        ({}, "export to onnx", "ok", "onnx 1.23.2"),
        ({"onnx": "1.30.0"}, "export to onnx", "untested", "newer than edgevit is tested with"),
        ({"torch": "2.14.0"}, "export to onnx", "untested", "torch 2.14.0, newer"),
        ({"torch": "2.12.1"}, "export to onnx", "wrong", "torch 2.12.1, older"),
        ({"onnx": "1.10"}, "export to onnx", "wrong", "older than edgevit needs"),
        ({"onnxruntime": "2.0.0"}, "run .onnx", "ok", "onnxruntime 2.0.0"),
        ({"onnxruntime": "1.19.0"}, "run .onnx", "wrong", "older than edgevit needs"),
    ],
)
def test_newer_is_untested_and_older_is_wrong(
    change: dict[str, str], name: str, state: str, said: str, installed: object
) -> None:
    found = installed({**TOOLCHAIN, **change})  # type: ignore[operator]
    assert (found[name].state, said in found[name].found) == (state, True), found[name]
    assert bool(found[name].cure) == (state == "wrong")
    assert useful(list(found.values()))


def test_a_runtime_that_cannot_be_imported_is_not_missing(installed: object) -> None:
    found = installed(DEVICE, "ImportError: libatomic.so.1: cannot open")["run .onnx"]  # type: ignore[operator]
    assert found.state == "wrong"
    assert "cannot be imported: ImportError: libatomic.so.1" in found.found
    assert found.cure == "pip install --force-reinstall onnxruntime"


def test_an_import_is_tried_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_module.py").write_text("import nowhere_at_all")
    (tmp_path / "crashing_module.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGILL)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert import_fault("json") == ""
    assert import_fault("broken_module") == "ModuleNotFoundError: No module named 'nowhere_at_all'"
    assert import_fault("crashing_module") == "the import ends with signal 4"


def test_every_cure_names_an_extra_that_there_is(installed: object) -> None:
    extras = metadata.metadata("edgevit").get_all("Provides-Extra") or []
    for found in installed({}).values():  # type: ignore[operator]
        if "edgevit[" in found.cure:
            assert found.cure.partition("[")[2].partition("]")[0] in extras
    assert {smallest_extra(one) for one in backends().values()} <= set(extras)


def test_a_32_bit_system_is_named() -> None:
    found = module._system(is_64_bit=False)
    assert found.state == "wrong" and "64-bit Raspberry Pi OS" in found.cure
    assert module._system(is_64_bit=True).state == "ok"


@pytest.mark.parametrize(("free", "exporting", "state"), [(1 << 30, True, "wrong"), (1 << 30, False, "ok"), (1 << 20, False, "wrong")])  # fmt: skip
def test_a_device_needs_less_disk_than_a_machine_that_exports(free: int, exporting: bool, state: str) -> None:
    assert module._disk(free, exporting).state == state


@pytest.mark.parametrize(("state", "status"), [("ok", None), ("untested", None), ("missing", 5), ("wrong", 5)])
def test_the_exit_status_tells_whether_anything_can_be_done(
    state: str, status: int | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    findings = [CheckResult("run .onnx", state, "x", "pip install 'edgevit[runtime]'")]  # type: ignore[arg-type]
    monkeypatch.setattr(module, "checkup", lambda: findings)
    try:
        doctor.doctor(json=False)
        code = None
    except doctor.typer.Exit as end:
        code = end.exit_code
    assert code == status
    assert state in capsys.readouterr().out
