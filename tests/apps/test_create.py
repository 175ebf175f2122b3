"""`edgevit app`: templates, new apps, other bundles; a person's work is never written over."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgevit.bundle.read import read_bundle
from edgevit.errors import BadFile, CheckFailed, UnknownName, UsageError
from edgevit.schema.plan import read_plan
from edgevit.templates.create import RECORD, new_app, update_app
from edgevit.templates.template import templates
from tests.apps.toolboxes import APPS
from tests.conftest import Exported, cli, cli_json
from tests.devices.services import ROOT

pytestmark = pytest.mark.system


def digest(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_list_names_every_folder_of_apps() -> None:
    found = cli_json("app", "list")["templates"]
    assert {one["name"] for one in found} == {path.parent.name for path in APPS.glob("*/template.toml")}  # type: ignore[union-attr, index]
    assert {"web", "raspberry-pi", "android", "ios", "fleet"} <= set(templates())
    assert "raspberry-pi" in cli("app", "list").stdout


@pytest.mark.parametrize(
    ("template", "backend"),
    [("web", "onnx"), ("web", "litert"), ("raspberry-pi", "litert"), ("android", "executorch"), ("ios", "coreml")],
)
def test_a_new_app_holds_the_bundle_and_its_contract(
    template: str, backend: str, exported: Exported, tmp_path: Path
) -> None:
    bundle, app = exported("tinyvit_digits", backend), tmp_path / "My App"
    told = cli_json("app", "new", template, bundle, app)
    info = templates()[template].info
    assert told["start"] == [f"cd {shlex.quote(str(app))}", *info.next]
    assert len(info.next) <= 2, "with `edgevit app new`, three commands"
    assert digest(app / info.place) == digest(bundle)
    read_bundle(app / info.place)
    copied = set(digest(app))
    committed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "."],
        cwd=APPS / template, capture_output=True, text=True, check=True,
    ).stdout.split("\n")  # fmt: skip
    wanted = {name for name in committed if name} - {"template.toml"}
    assert {name for name in copied if not name.startswith(info.place)} == wanted | {RECORD}
    readme = (app / "README.md").read_text()
    assert "float32 [1x10], probabilities" in readme and "<!--" not in readme
    for name in info.fill:
        text = (app / name).read_text()
        assert "my-app" in text or "my_app" in text
        assert "edgevit-app" not in text and "edgevit_app" not in text
    assert json.loads((app / RECORD).read_text())["template"] == template


def test_apps_of_different_names_can_be_on_one_phone_and_one_origin(exported: Exported, tmp_path: Path) -> None:
    for template, backend, name, line in (
        ("android", "litert", "2 Cats!", 'applicationId = "dev.edgevit.app_2_cats"'),
        ("android", "litert", "my-Dogs", 'applicationId = "dev.edgevit.my_dogs"'),
        ("ios", "coreml", "2 Cats!", 'PRODUCT_BUNDLE_IDENTIFIER = "dev.edgevit.2-cats";'),
    ):
        app = tmp_path / template / name
        app.parent.mkdir(exist_ok=True)
        new_app(template, exported("tinyvit_digits", backend), app)
        assert any(line in (app / one).read_text() for one in templates()[template].info.fill)
    worker = (APPS / "web/src/offline.js").read_text()
    assert "self.registration.scope" in worker.partition("const CACHE")[0]
    assert "startsWith(OWN)" in worker, "another app's caches are not removed"


def test_a_fleet_page_takes_a_plan(small_plan: Path, exported: Exported, tmp_path: Path) -> None:
    done = cli("app", "new", "fleet", small_plan, tmp_path / "fleet")
    assert done.returncode == 0, done.stderr
    assert read_plan(tmp_path / "fleet/plan") == read_plan(small_plan)
    with pytest.raises(BadFile, match="no plan"):
        new_app("fleet", exported("tinyvit_digits", "onnx"), tmp_path / "other")
    features = small_plan / read_plan(small_plan).sub_models[0].bundle
    with pytest.raises(UsageError, match="features"):
        new_app("web", features, tmp_path / "web")
    assert not (tmp_path / "web").exists()


def test_nothing_is_written_over(exported: Exported, tmp_path: Path) -> None:
    bundle, app = exported("tinyvit_digits", "onnx"), tmp_path / "app"
    app.mkdir()  # an empty folder is free
    new_app("web", bundle, app)
    (app / "src/main.ts").write_text("mine")
    before = digest(app)
    again = cli("app", "new", "web", bundle, app)
    assert again.returncode == 2
    assert "is there already; nothing was changed" in again.stderr and "edgevit app update" in again.stderr
    assert digest(app) == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError):
        new_app("web", bundle, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["app", "file"] or len(list(tmp_path.iterdir())) == 2


def test_another_bundle_changes_nothing_else(exported: Exported, tmp_path: Path) -> None:
    app = tmp_path / "app"
    new_app("web", exported("tinyvit_digits", "onnx"), app)
    (app / "src/main.ts").write_text("mine")
    other = exported("shvit_digits", "litert")
    done = cli("app", "update", app, other)
    assert done.returncode == 0, done.stderr
    assert digest(app / "model") == digest(other)
    assert (app / "src/main.ts").read_text() == "mine"
    (app / "model/labels.txt").write_text("mine")
    with pytest.raises(CheckFailed, match="changed by hand; nothing was replaced"):
        update_app(app, exported("tinyvit_digits", "onnx"))
    assert (app / "model/labels.txt").read_text() == "mine"
    with pytest.raises(BadFile, match="no app"):
        update_app(tmp_path, other)


def test_what_an_app_cannot_run_is_refused(exported: Exported, tmp_path: Path) -> None:
    coreml, onnx = exported("tinyvit_digits", "coreml"), exported("tinyvit_digits", "onnx")
    done = cli("app", "new", "web", coreml, tmp_path / "app")
    assert done.returncode == 2
    assert "runs onnx and litert; this bundle is coreml" in done.stderr
    assert "edgevit export tinyvit_digits -t onnx" in done.stderr
    with pytest.raises(UnknownName, match="template"):
        new_app("wbe", onnx, tmp_path / "app")
    with pytest.raises(BadFile):
        new_app("web", tmp_path / "nothing", tmp_path / "app")
    damaged = tmp_path / "damaged"
    shutil.copytree(onnx, damaged)
    (damaged / "labels.txt").write_text("x")
    with pytest.raises(CheckFailed, match="was changed"):
        new_app("web", damaged, tmp_path / "app")
    assert not (tmp_path / "app").exists()


def test_the_wheel_brings_the_templates(tmp_path: Path) -> None:
    """What git tracks, and nothing that a build left behind."""
    code = (
        "from hatchling.builders.wheel import WheelBuilder; import sys\n"
        "builder = WheelBuilder(sys.argv[1])\n"
        "print('\\n'.join(one.distribution_path for one in builder.recurse_included_files()))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(ROOT)], capture_output=True, text=True, check=True)
    packed = set(done.stdout.split("\n"))
    assert {"edgevit/_apps/web/src/prepare.ts", "edgevit/_apps/ios/template.toml", "edgevit/__init__.py"} <= packed
    assert "edgevit/_targets/schema.json" in packed
    assert not [name for name in packed if "node_modules" in name or "/dist/" in name or "__pycache__" in name]
