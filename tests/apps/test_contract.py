"""One input contract in Python, TypeScript, Kotlin and Swift."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.apps.rules import cases, write_cases
from tests.apps.toolboxes import APPS, compile_kotlin, node_modules
from tests.conftest import Exported

pytestmark = pytest.mark.system

HERE = Path(__file__).parent
ANDROID = APPS / "android/app/src"
KOTLIN = [ANDROID / f"main/java/dev/edgevit/app/{name}.kt" for name in ("Contract", "Prepare")]
GOLDEN_TEST = ANDROID / "test/java/dev/edgevit/app/GoldenTest.kt"


def test_the_cases_take_every_branch_of_the_rule() -> None:
    found = cases()
    assert len(found) == 108
    assert {(one.rule.crop_mode, one.rule.interpolation) for one in found} == {
        (mode, name)
        for mode in ("center", "squash", "border")
        for name in ("bicubic", "bilinear", "nearest", "lanczos")
    }
    assert len({one.source.kind + one.source.layout for one in found}) == 3


def test_typescript_prepares_pictures_as_python_does(tmp_path: Path, shared_folder: Path) -> None:
    wanted = write_cases(tmp_path / "cases")
    rolldown = node_modules(shared_folder) / ".bin/rolldown"
    built = tmp_path / "prepare.mjs"
    command = [str(rolldown), str(APPS / "web/src/prepare.ts"), "--file", str(built), "--format", "esm"]
    subprocess.run(command, check=True, capture_output=True)
    done = subprocess.run(
        ["node", str(HERE / "check_cases.mjs"), str(built), str(tmp_path / "cases")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == {"cases": len(wanted), "wrong": []}


def test_kotlin_prepares_pictures_as_python_does_and_reads_golden_manifests(
    exported: Exported, tmp_path: Path, shared_folder: Path
) -> None:
    wanted = write_cases(tmp_path / "cases")
    path = compile_kotlin([*KOTLIN, GOLDEN_TEST, HERE / "CheckCases.kt"], tmp_path / "classes", shared_folder)
    done = subprocess.run(
        ["java", "-cp", path, "dev.edgevit.app.CheckCasesKt", str(tmp_path / "cases")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == {"cases": len(wanted), "wrong": []}
    for backend, good in (("litert", True), ("executorch", True), ("onnx", False)):
        bundle = exported("tinyvit_digits", backend)
        junit = ["org.junit.runner.JUnitCore", "dev.edgevit.app.GoldenTest"]
        run = subprocess.run(
            ["java", f"-Dedgevit.bundle={bundle}", "-cp", path, *junit], capture_output=True, text=True, check=False
        )
        assert (run.returncode == 0) == good, run.stdout
        assert ("OK (1 test)" if good else "Export it with -t litert") in run.stdout


def syntax_errors(text: bytes, language: object) -> list[str]:
    import tree_sitter

    found, nodes = [], [tree_sitter.Parser(tree_sitter.Language(language)).parse(text).root_node]
    while nodes:
        node = nodes.pop()
        if node.type == "ERROR" or node.is_missing:
            found.append(f"{node.start_point}: {text[node.start_byte : node.end_byte][:60]!r}")
        nodes += node.children
    return found


@pytest.mark.parametrize("suffix", ["kt", "kts", "swift"])
def test_every_file_of_the_mobile_apps_parses(suffix: str) -> None:
    import tree_sitter_kotlin
    import tree_sitter_swift

    language = (tree_sitter_swift if suffix == "swift" else tree_sitter_kotlin).language()
    files = sorted(APPS.rglob(f"*.{suffix}"))
    assert len(files) >= 3
    assert {str(path): errors for path in files if (errors := syntax_errors(path.read_bytes(), language))} == {}
    assert syntax_errors(files[0].read_bytes()[:-2] + b"((", language), "the parser finds faults"


def test_what_swift_decodes_is_in_every_core_ml_manifest(exported: Exported) -> None:
    """The structs of Contract.swift against real manifests: every field is there, with a value of its type."""
    structs = _swift_structs((APPS / "ios/EdgevitApp/Contract.swift").read_text())
    kinds = {"String": str, "Int": int, "Double": (int, float)}

    def check(values: dict[str, object], struct: str) -> None:
        for name, kind in structs[struct].items():
            key = re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()
            assert key in values, f"{struct}.{name}"
            if kind in structs:
                check(values[key], kind)  # type: ignore[arg-type]
            else:
                several = kind.startswith("[")
                items = values[key] if several else [values[key]]
                assert all(isinstance(one, kinds[kind.strip("[]")]) for one in items), name  # type: ignore[union-attr]

    for precision in ("fp32", "fp16"):
        manifest = json.loads((exported("tinyvit_digits", "coreml", precision) / "manifest.json").read_text())
        check(manifest, "Manifest")


def _swift_structs(text: str) -> dict[str, dict[str, str]]:
    """Fields with their types, by struct; nested ones by their own name."""
    found: dict[str, dict[str, str]] = {}
    open_: list[str] = []
    for line in text.splitlines():
        if start := re.match(r"\s*struct (\w+): Decodable \{", line):
            open_.append(start[1])
            found[start[1]] = {}
        elif open_ and line.strip() == "}":
            open_.pop()
        elif open_ and (one := re.match(r"\s*let (\w+): (\[?\w+\]?)$", line)):
            found[open_[-1]][one[1]] = one[2]
    assert set(found) == {"Manifest", "Model", "Target", "Input", "Preprocess", "Output"}
    assert sum(map(len, found.values())) == 23
    return found


def test_the_xcode_project_holds_together() -> None:
    import openstep_plist

    text = (APPS / "ios/EdgevitApp.xcodeproj/project.pbxproj").read_text()
    project = openstep_plist.loads(text)
    objects = project["objects"]
    named = set(re.findall(r"\bED\d{22}\b", text))
    assert named == set(objects), "every object is defined and every reference leads to one"
    assert objects[project["rootObject"]]["isa"] == "PBXProject"
    (target,) = (one for one in objects.values() if one["isa"] == "PBXNativeTarget")
    (group,) = target["fileSystemSynchronizedGroups"]
    assert (APPS / "ios" / objects[group]["path"] / "EdgevitApp.swift").is_file()
    settings = [one["buildSettings"] for one in objects.values() if one["isa"] == "XCBuildConfiguration"]
    assert sum("INFOPLIST_KEY_NSCameraUsageDescription" in one for one in settings) == 2


def test_the_gradle_project_holds_together() -> None:
    import tomllib
    import xml.etree.ElementTree as ElementTree

    home = APPS / "android"
    catalog = tomllib.loads((home / "gradle/libs.versions.toml").read_text())
    for one in [*catalog["libraries"].values(), *catalog["plugins"].values()]:
        assert "version" not in one or one["version"]["ref"] in catalog["versions"]
    scripts = "".join(path.read_text() for path in home.rglob("*.kts"))
    known = {
        f"libs.{'plugins.' * (kind == 'plugins')}{name.replace('-', '.')}"
        for kind in ("libraries", "plugins")
        for name in catalog[kind]
    }
    used = set(re.findall(r"\blibs(?:\.\w+)+", scripts))
    assert used == known
    for path in home.rglob("*.xml"):
        ElementTree.parse(path)
    manifest = ElementTree.parse(home / "app/src/main/AndroidManifest.xml")
    name = "{http://schemas.android.com/apk/res/android}name"
    activity = manifest.find("application/activity")
    assert activity is not None
    assert (home / f"app/src/main/java/dev/edgevit/app{activity.get(name, '').replace('.', '/')}.kt").is_file()
    assert 'namespace = "dev.edgevit.app"' in scripts
