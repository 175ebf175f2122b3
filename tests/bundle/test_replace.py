"""Nothing that is not edgevit's is replaced, and nothing that a person put into a bundle is lost."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edgevit.bundle.read import read_bundle
from edgevit.bundle.replace import check_bundle_replaceable, check_plan_replaceable
from edgevit.bundle.write import publish, staging
from edgevit.core.disk import explained_disk_errors
from edgevit.core.files import scratch_name, write_whole
from edgevit.errors import EnvironmentIncomplete, UsageError
from edgevit.pipeline import cache
from edgevit.pipeline.export import export
from edgevit.pipeline.options import ExportOptions
from tests.conftest import Exported, cli


@pytest.fixture
def bundle(exported: Exported, tmp_path: Path) -> Path:
    place = tmp_path / "o" / "tinyvit_digits" / "onnx-fp32"
    shutil.copytree(exported(), place)
    return place


def edit(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere", target_is_directory=True)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a note": (lambda b: (b / "notes.txt").write_text("mine"), "holds notes.txt"),
    "a hidden note": (lambda b: (b / ".notes").write_text("mine"), "holds .notes"),
    "a note below": (lambda b: (b / "golden" / "mine.png").write_text("mine"), "holds golden/mine.png"),
    "a link": (lambda b: (b / "link").symlink_to("/etc"), "holds link"),
    "an edited page": (lambda b: edit(b / "README.md"), "its README.md was changed"),
    "an edited model": (lambda b: edit(b / "tinyvit_digits.onnx"), "its tinyvit_digits.onnx was changed"),
    "an edited manifest": (
        lambda b: (b / "manifest.json").write_text((b / "manifest.json").read_text().replace('"7"', '"seven"')),
        "its manifest.json was changed",
    ),
    "another manifest": (lambda b: (b / "manifest.json").write_text("{}"), "its manifest.json is not edgevit's"),
    "no manifest": (lambda b: (b / "manifest.json").unlink(), "which edgevit did not write"),
    "a link in its place": (link, "it is a symbolic link"),
    "a file in its place": (lambda b: (shutil.rmtree(b), b.write_text("mine")), "it is a file"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("suffix", ["", ".rejected"])
def test_what_is_not_an_unchanged_bundle_is_refused_before_any_work(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, change: str, suffix: str
) -> None:
    place = bundle.with_name(bundle.name + suffix)
    bundle.rename(place)
    make, says = CHANGES[change]
    make(place)
    before = snapshot(bundle.parent)
    monkeypatch.setattr("edgevit.models.load.load_model", lambda *_, **__: pytest.fail("work was done"))
    for use_cache in (True, False):
        options = ExportOptions("tinyvit_digits", ("onnx",), out=bundle.parents[1], cache=use_cache)
        with pytest.raises(UsageError, match="is not replaced") as caught:
            export(options)
        assert says in caught.value.message
    assert snapshot(bundle.parent) == before


def snapshot(folder: Path) -> dict[str, object]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def test_an_unchanged_bundle_is_replaced_whatever_the_system_left_in_it(bundle: Path) -> None:
    (bundle / ".DS_Store").write_bytes(b"x")
    (bundle / "golden" / "._probe_0.png").write_bytes(b"x")
    (bundle / "README.md").unlink()  # nothing of it is lost
    check_bundle_replaceable(bundle)
    [result] = export(ExportOptions("tinyvit_digits", ("onnx",), out=bundle.parents[1]))
    assert result.ok and result.cached
    read_bundle(bundle)
    (bundle / ".DS_Store").write_bytes(b"x")
    read_bundle(bundle)


def test_a_note_that_comes_while_the_work_is_done(bundle: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.mkdir()
    (bundle / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"notes\.txt"):
        publish(new, bundle, check_bundle_replaceable)
    assert (bundle / "notes.txt").read_text() == "mine" and new.exists()


def test_the_dry_run_refuses_what_the_run_would(bundle: Path) -> None:
    (bundle / "notes.txt").write_text("mine")
    done = cli("export", "tinyvit_digits", "-t", "onnx", "-o", bundle.parents[1], "--dry-run")
    assert done.returncode == 2
    assert "onnx-fp32 is not replaced: it holds notes.txt, which is not the bundle's" in done.stderr


def test_a_file_where_the_model_s_folder_goes(tmp_path: Path) -> None:
    (tmp_path / "tinyvit_digits").write_text("mine")
    for out in (tmp_path, tmp_path / "tinyvit_digits"):
        with pytest.raises(UsageError, match="cannot be written"):
            export(ExportOptions("tinyvit_digits", ("onnx",), out=out))
    assert (tmp_path / "tinyvit_digits").read_text() == "mine"


PLAN_CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a note": (lambda p: (p / "notes.txt").write_text("mine"), "holds notes.txt"),
    "a note in a bundle": (lambda p: (p / "models/sub-1/onnx-fp32/n").write_text("mine"), "holds n"),
    "an edited head": (lambda p: edit(p / "fusion.safetensors"), "fusion.safetensors was changed"),
    "an edited fleet": (
        lambda p: (p / "fleet.toml").write_text("# mine\n" + (p / "fleet.toml").read_text()),
        "fleet.toml was changed",
    ),
    "a later fleet": (lambda p: os.utime(p / "fleet.toml", (4e9, 4e9)), "fleet.toml was changed"),
    "no plan": (lambda p: (p / "plan.json").unlink(), "which edgevit did not write"),
}


@pytest.mark.parametrize("change", PLAN_CHANGES)
def test_a_plan_is_replaced_only_unchanged(small_plan: Path, tmp_path: Path, change: str) -> None:
    shutil.copytree(small_plan, tmp_path / "plan")
    check_plan_replaceable(tmp_path / "plan")
    make, says = PLAN_CHANGES[change]
    make(tmp_path / "plan")
    with pytest.raises(UsageError) as caught:
        check_plan_replaceable(tmp_path / "plan")
    assert says in caught.value.message


def test_the_cache_is_emptied_of_edgevit_s_bundles_only(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEVIT_CACHE", str(tmp_path))
    cache.store("ab" * 32, bundle)
    mine = tmp_path / "bundles" / "mine"
    shutil.copytree(bundle, mine)
    (tmp_path / "bundles" / ".vim.tmp-1").mkdir()
    assert len(cache.entries()) == 1
    assert cache.clear() > 1000
    assert sorted(path.name for path in (tmp_path / "bundles").iterdir()) == [".vim.tmp-1", "mine"]


def test_scratch_folders_of_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = tmp_path / ".project.tmp-99999999"
    theirs.mkdir()
    monkeypatch.setattr("platform.node", lambda: "another container")
    abroad = tmp_path / scratch_name("x").replace(str(os.getpid()), "99999999")
    monkeypatch.undo()
    abroad.mkdir()
    orphan = tmp_path / scratch_name("y").replace(str(os.getpid()), "99999999")
    orphan.mkdir()
    with staging(tmp_path / "z"):
        assert theirs.exists() and abroad.exists() and not orphan.exists()


def test_a_link_and_a_pipe_are_written_through(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    write_whole(tmp_path / "link.json", b"new")
    assert (tmp_path / "link.json").is_symlink() and (tmp_path / "real.json").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_whole(tmp_path / "pipe", b"new")
    assert os.read(reader, 10) == b"new"
    os.close(reader)
    with pytest.raises(UsageError, match="Is a directory"), explained_disk_errors(tmp_path):
        write_whole(tmp_path, b"new")


def test_a_full_disk_is_told_in_three_lines(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentIncomplete, match="the disk is full") as caught, explained_disk_errors(tmp_path):
        raise OSError(28, "No space left on device")
    assert caught.value.exit_code == 5 and caught.value.cure
