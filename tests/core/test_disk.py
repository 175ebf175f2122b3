"""A full disk is told as such, whoever noticed it."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgevit.backends.process.job import JobResult
from edgevit.backends.process.jobs import _ran_out_of_disk
from edgevit.cli import app
from edgevit.core.disk import explained_disk_errors
from edgevit.errors import EnvironmentIncomplete, UsageError
from edgevit.pipeline.export import export
from edgevit.pipeline.options import ExportOptions


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        ValueError('Error while serializing: IoError(Os { code: 28, kind: StorageFull, message: "x" })'),
        OSError("4096 requested and 0 written"),
        RuntimeError("[enforce fail at inline_container.cc:424] . PytorchStreamWriter failed writing file data/0"),
    ],
)
def test_every_way_of_saying_it(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentIncomplete, match="the disk is full"), explained_disk_errors(tmp_path):
        raise RuntimeError("lowering failed") from error


def test_other_errors_are_left_alone(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="28 layers"), explained_disk_errors(tmp_path):
        raise RuntimeError("28 layers do not fit")
    with pytest.raises(UsageError), explained_disk_errors(tmp_path):
        raise UsageError("no space left on device is what a user said")


def test_a_worker_that_crashed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("terminate called after throwing an instance of 'c10::Error'\nwrite: No space left on device\n")
    assert _ran_out_of_disk(None, tmp_path, log)
    log.write_text("Segmentation fault\n")
    assert not _ran_out_of_disk(None, tmp_path, log)
    assert _ran_out_of_disk(JobResult(error="full", disk_full=True), tmp_path, tmp_path / "no log")


def test_the_command_line_ends_with_status_5(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> object:
        raise OSError(errno.ENOSPC, "No space left on device", "/somewhere/file")

    monkeypatch.setattr(app, "_defaults", full)
    with pytest.raises(SystemExit) as ended:
        app._run()
    assert ended.value.code == 5
    assert capsys.readouterr().err.splitlines()[:2] == ["error: the disk is full", "  /somewhere/file"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte, less than the captured program of any model."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_an_export_onto_a_small_disk(small_disk: Path) -> None:
    with pytest.raises(EnvironmentIncomplete, match="the disk is full") as caught:
        export(ExportOptions("tinyvit_digits", ("onnx",), out=small_disk, cache=False))
    assert caught.value.exit_code == 5 and caught.value.cure
    assert list((small_disk / "tinyvit_digits").iterdir()) == []
