from __future__ import annotations

from pathlib import Path

import pytest

from edgevit.backends.base import backends
from edgevit.errors import BadFile, UnknownName, UsageError
from edgevit.schema import target
from edgevit.schema.target import check_precision, devices, folder_name, resolve_target, runtimes


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for cached in (target.runtimes, target.devices):
        cached.cache_clear()
        monkeypatch.setattr(target, cached.__name__, cached)
    yield tmp_path / "edgevit/targets"
    for cached in (target.runtimes, target.devices):
        cached.cache_clear()


@pytest.mark.parametrize(
    ("name", "runtime"),
    [
        ("onnx", "onnxruntime-1"),
        ("tflite", "litert-2"),
        ("litert", "litert-2"),
        ("coreml", "coreml-ios17"),
        ("executorch", "executorch-xnnpack"),
        ("executorch-coreml", "executorch-coreml"),
        ("raspberry-pi-5", "litert-2"),
        ("iphone-15", "coreml-ios17"),
        ("browser", "litert-js"),
    ],
)
def test_a_backend_a_runtime_or_a_device(name: str, runtime: str) -> None:
    assert resolve_target(name).name == runtime


def test_an_unknown_target_offers_the_nearest() -> None:
    with pytest.raises(UnknownName) as caught:
        resolve_target("coreml-ios71")
    assert "coreml-ios17" in caught.value.cure


def test_the_shipped_files_fit_together() -> None:
    assert {runtime.backend for runtime in runtimes().values()} == set(backends())
    assert all(name in runtimes() for device in devices().values() for name in device.runtimes)
    defaults = [runtime.backend for runtime in runtimes().values() if runtime.default]
    assert sorted(defaults) == sorted(backends())


def test_folder_names_of_different_runtimes_differ() -> None:
    names = [folder_name(runtime, "fp32") for runtime in runtimes().values()]
    assert len(set(names)) == len(names)
    assert folder_name(resolve_target("coreml"), "fp16") == "coreml-fp16"


def test_a_precision_that_a_runtime_lacks() -> None:
    with pytest.raises(UsageError, match="w8"):
        check_precision(resolve_target("executorch"), "w8")


def test_a_device_of_ones_own_is_one_file(config: Path) -> None:
    (config / "devices").mkdir(parents=True)
    (config / "devices/toaster.toml").write_text(
        'title = "T"\nkind = "board"\nruntimes = ["litert-2"]\ncompute = ["cpu"]\nmemory_mb = 64\nreach = "ssh://t"\n'
    )
    assert resolve_target("toaster").name == "litert-2"


def test_a_runtime_of_ones_own_is_one_file(config: Path) -> None:
    (config / "runtimes").mkdir(parents=True)
    (config / "runtimes/onnx-old.toml").write_text(
        'title = "O"\nbackend = "onnx"\nversion = "1.16"\nprecisions = ["fp32"]\nruns_here = true\n'
    )
    assert folder_name(resolve_target("onnx-old"), "fp32") == "onnx-old-fp32"


def test_a_bad_target_file_is_named(config: Path) -> None:
    (config / "devices").mkdir(parents=True)
    (config / "devices/bad.toml").write_text('title = "T"\nwheels = 4\n')
    with pytest.raises(BadFile, match="wheels"):
        devices()


def test_the_shipped_schema_is_current() -> None:
    import runpy

    root = Path(__file__).parents[2]
    assert (root / "targets/schema.json").read_text() == runpy.run_path(str(root / "tools/target_schema.py"))[
        "schema"
    ]()
