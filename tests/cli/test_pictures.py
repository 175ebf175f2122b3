"""Pictures that cannot be read are named, counted and left out; the others keep their results."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from edgevit.data.digits import digits_arrays
from tests.conftest import Exported, cli


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four digits in folders by class, a damaged one, a .heic, and what a Mac leaves."""
    folder = tmp_path_factory.mktemp("photos")
    images, labels = digits_arrays("test")
    for index in range(4):
        place = folder / str(labels[index])
        place.mkdir(exist_ok=True)
        Image.fromarray(images[index]).save(place / f"{index}.png")
    (folder / str(labels[0]) / "bad [red].png").write_bytes(b"nothing")
    (folder / str(labels[0]) / "IMG.heic").write_bytes(b"nothing")
    (folder / str(labels[0]) / "._0.png").write_bytes(b"nothing")
    (folder / ".DS_Store").write_bytes(b"nothing")
    return folder


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_one_bad_picture_among_many(exported: Exported, photos: Path, command: str) -> None:
    done = cli(command, exported(), photos, "--json")
    assert done.returncode == 2
    document = json.loads(done.stdout)
    assert sorted(Path(one["image"]).name for one in document["skipped"]) == ["IMG.heic", "bad [red].png"]
    assert document["count"] == 4 if command == "evaluate" else len(document["predictions"]) == 4
    assert "bad [red].png" in done.stderr and "2 pictures were skipped" in done.stderr and "._0" not in done.stderr


def test_only_bad_pictures(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"nothing")
    done = cli("predict", exported(), tmp_path / "a.png")
    assert done.returncode == 2 and "error:" in done.stderr and "not a picture that can be read" in done.stderr


def test_a_fleet_goes_on(small_plan: Path, photos: Path) -> None:
    done = cli("fleet", "run", small_plan, "--local", "--input", photos, "--json")
    assert done.returncode == 2, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 5 and len(lines[-1]["summary"]["skipped"]) == 2


def test_a_profile_says_so(exported: Exported, photos: Path) -> None:
    bundle, other = exported(), exported("tinyvit_digits", "litert")
    done = cli("profile", bundle, other, "--evaluate", photos, "--runs", 5, "--seconds", 0.2, "--warmup", 1, "--json")
    assert done.returncode in (2, 3), done.stderr
    assert done.stderr.count("bad [red].png") == 1
    assert len(json.loads(done.stdout)["profiles"]) == 2


def test_quantize_says_so(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    done = cli(
        "quantize",
        "shvit_digits",
        "-o",
        out,
        "--calib",
        "digits:train",
        "--images",
        8,
        "--quantizer",
        "minmax",
        "--evaluate",
        photos,
        "--json",
    )
    assert done.returncode == 2, done.stderr
    assert "2 pictures were skipped" in done.stderr
    assert json.loads(done.stdout)["agreement"]["images"] == 4 and out.is_file()


def test_a_floor_is_measured_on_the_others(photos: Path, tmp_path: Path) -> None:
    done = cli("export", "shvit_digits", "-t", "onnx", "-p", "w8", "-o", tmp_path, "--floor", 0.5, "--evaluate", photos)
    assert done.returncode == 0, done.stderr
    assert "bad [red].png" in done.stderr


def test_a_split_says_so_also_from_its_store(few_digits: Path, tmp_path: Path) -> None:
    from edgevit.split.plan.preview import SplitSource
    from tests.conftest import small_split

    digits = Path(shutil.copytree(few_digits, tmp_path / "digits"))
    (digits / "train" / "3" / "bad.png").write_bytes(b"nothing")
    skipped: list[str] = []
    for _ in range(2):
        source = SplitSource(small_split(digits), lambda *_: None, lambda name, error: skipped.append(name))
        assert len(source.pool[0].pictures) == 200
    assert [Path(name).name for name in skipped] == ["bad.png"] * 2


_WITHOUT_TORCH = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "timm", "torchvision", "onnx", "litert_torch", "executorch", "coremltools"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
"""


@pytest.mark.parametrize("target", ["onnx", "litert"])
@pytest.mark.parametrize("command", ["verify", "predict", "evaluate", "inspect", "bundle check"])
def test_a_device_without_torch(exported: Exported, photos: Path, tmp_path: Path, target: str, command: str) -> None:
    import subprocess

    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "blocking.py").write_text(_WITHOUT_TORCH)
    further = {"predict": [str(next(photos.rglob("[0-9].png")))], "evaluate": [str(clean(photos, tmp_path))]}
    code = "import blocking, sys; from edgevit.cli.app import main; main()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(Path.cwd())])}
    arguments = [*command.split(), str(exported("tinyvit_digits", target)), *further.get(command, [])]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def clean(photos: Path, tmp_path: Path) -> Path:
    """The same folder with readable pictures only."""
    return Path(shutil.copytree(photos, tmp_path / "clean", ignore=shutil.ignore_patterns("bad*", "*.heic")))
