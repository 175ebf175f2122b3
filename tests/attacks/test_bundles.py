"""Bundles from hostile hands: each is refused with one clear message, and nothing outside is touched."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edgevit.bundle.read import read_bundle
from edgevit.errors import BadFile, CheckFailed, EdgevitError
from tests.conftest import cli

Attack = Callable[[Path], None]


def edit_manifest(change: Callable[[dict[str, object]], None]) -> Attack:
    def attack(folder: Path) -> None:
        document = json.loads((folder / "manifest.json").read_text())
        change(document)
        (folder / "manifest.json").write_text(json.dumps(document))

    return attack


def first_file(name: str) -> Callable[[dict[str, object]], None]:
    return lambda document: document["files"][0].update(path=name)  # type: ignore[index]


def flip_a_byte(folder: Path) -> None:
    path = next(folder.glob("*.onnx"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def link_the_model(folder: Path) -> None:
    path = next(folder.glob("*.onnx"))
    target = folder.parent / "elsewhere.onnx"
    shutil.move(path, target)
    path.symlink_to(target)


def link_the_manifest(folder: Path) -> None:
    target = folder.parent / "elsewhere.json"
    shutil.move(folder / "manifest.json", target)
    (folder / "manifest.json").symlink_to(target)


ATTACKS: dict[str, tuple[Attack, type[EdgevitError], str]] = {
    "a changed byte": (flip_a_byte, CheckFailed, "not what the manifest says"),
    "a file cut short": (lambda f: os.truncate(next(f.glob("*.onnx")), 100), CheckFailed, "not what the manifest says"),
    "a missing file": (lambda f: (f / "labels.txt").unlink(), CheckFailed, "labels.txt is missing"),
    "a stowaway": (
        lambda f: (f / "run.sh").write_text("rm -rf /") and None,
        CheckFailed,
        "run.sh is not in the manifest",
    ),
    "a symbolic link": (link_the_model, BadFile, "symbolic link"),
    "a linked manifest": (link_the_manifest, BadFile, "manifest"),
    "a linked folder": (lambda f: (f / "more").symlink_to("/etc"), BadFile, "symbolic link"),
    "a named pipe": (lambda f: os.mkfifo(f / "pipe"), BadFile, "special file"),
    "a path upwards": (edit_manifest(first_file("../../secret")), BadFile, "outside the bundle"),
    "an absolute path": (edit_manifest(first_file("/etc/passwd")), BadFile, "outside the bundle"),
    "a path with a backslash": (edit_manifest(first_file("..\\secret")), BadFile, "outside the bundle"),
    "a path with a dot": (edit_manifest(first_file("./labels.txt")), BadFile, "outside the bundle"),
    "an empty path": (edit_manifest(first_file("")), BadFile, "outside the bundle"),
    "an entry upwards": (edit_manifest(lambda d: d.update(entry="../model.onnx")), BadFile, "outside the bundle"),
    "an entry not listed": (edit_manifest(lambda d: d.update(entry="other.onnx")), BadFile, "does not list the model"),
    "a file twice": (edit_manifest(lambda d: d["files"].append(d["files"][0])), BadFile, "twice"),  # type: ignore[attr-defined]
    "an unknown key": (edit_manifest(lambda d: d.update(run="calc.exe")), BadFile, "run"),
    "a newer schema": (edit_manifest(lambda d: d.update(schema_version=2)), BadFile, "schema_version"),
    "no file list": (edit_manifest(lambda d: d.pop("files")), BadFile, "lists no files"),
    "a manifest without end": (
        lambda f: (f / "manifest.json").write_text(" " * (5 << 20)) and None,
        BadFile,
        "larger than 4 MiB",
    ),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), BadFile, "no manifest"),
    "not JSON": (lambda f: (f / "manifest.json").write_bytes(b"\x80\x04") and None, BadFile, "JSON"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_hostile_bundle_is_refused(exported: Callable[..., Path], tmp_path: Path, name: str) -> None:
    attack, error, says = ATTACKS[name]
    shutil.copytree(exported("tinyvit_digits", "onnx"), tmp_path / "bundle")
    attack(tmp_path / "bundle")
    with pytest.raises(error, match=says):
        read_bundle(tmp_path / "bundle")


@pytest.mark.parametrize(
    ("name", "status"), [("a changed byte", 3), ("a path upwards", 2), ("an unknown key", 2), ("a symbolic link", 2)]
)
@pytest.mark.parametrize("command", [["verify"], ["bundle", "check"], ["inspect"]], ids=" ".join)
def test_every_command_refuses_it_in_three_lines(
    exported: Callable[..., Path], tmp_path: Path, name: str, status: int, command: list[str]
) -> None:
    shutil.copytree(exported("tinyvit_digits", "onnx"), tmp_path / "bundle")
    ATTACKS[name][0](tmp_path / "bundle")
    done = cli(*command, tmp_path / "bundle")
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error:")
    assert done.stdout == ""


def test_an_untouched_copy_is_accepted(exported: Callable[..., Path], tmp_path: Path) -> None:
    shutil.copytree(exported("tinyvit_digits", "onnx"), tmp_path / "bundle")
    assert read_bundle(tmp_path / "bundle").manifest.model.name == "tinyvit_digits"
