"""The rules of the house: lean imports, one direction, clean code, one wording."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = (
    "torch",
    "timm",
    "torchvision",
    "coremltools",
    "executorch",
    "litert_torch",
    "onnx",
    "onnxruntime",
    "ai_edge_litert",
    "sklearn",
    "scipy",
    "zenoh",
    "loky",
    "distributed",
    "cv2",
)
LEAN_COMMANDS = (
    ["--help"],
    ["export", "--help"],
    ["quantize", "--help"],
    ["models"],
    ["targets"],
    ["targets", "browser"],
    ["inspect", "tiny_vit_5m_224"],
    ["doctor"],
    ["profile", "--help"],
    ["compare", "--help"],
    ["devices"],
    ["devices", "local:"],
    ["cache", "show"],
    ["split", "--help"],
    ["fleet", "--help"],
    ["fleet", "serve", "--help"],
    ["app", "--help"],
    ["app", "list"],
)


@pytest.mark.parametrize("arguments", LEAN_COMMANDS, ids=" ".join)
def test_command_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom edgevit.cli.app import main\n"
        f"sys.argv = ['edgevit', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code in (0, None), end.code\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "print('HEAVY', loaded, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "HEAVY []" in done.stderr, done.stderr[-2000:]


def test_every_test_file_is_collected() -> None:
    """pytest skips folders by name, and modules of one name need packages to be told apart."""
    import tomllib
    from fnmatch import fnmatch

    skipped = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["norecursedirs"]
    for path in (ROOT / "tests").rglob("test_*.py"):
        folders = path.relative_to(ROOT).parent.parts
        assert not [name for name in folders if any(fnmatch(name, pattern) for pattern in skipped)], path
        assert (path.parent / "__init__.py").is_file(), f"{path.parent} is no package"


def test_every_module_and_public_function_has_a_docstring() -> None:
    import ast

    bare = []
    for path in (ROOT / "edgevit").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
        owners = {
            id(child)
            for node in nodes
            if isinstance(node, ast.FunctionDef)
            for child in ast.walk(node)
            if child is not node
        }
        public = [node for node in nodes if not node.name.startswith("_") and id(node) not in owners]
        bare += [f"{path}:{node.lineno} {node.name}" for node in public if not ast.get_docstring(node)]
        bare += [] if ast.get_docstring(tree) else [str(path)]
    assert not bare


def test_docstrings_say_something_and_class_names_are_used_once() -> None:
    import ast
    from collections import defaultdict

    short, homes = [], defaultdict(list)
    for path in sorted((ROOT / "edgevit").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                words = (ast.get_docstring(node) or "no docstring, which others check").split()
                short += [f"{path}: {getattr(node, 'name', 'module')}"] if len(words) <= 3 else []
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(str(path))
    assert not short, "docstrings of three words or fewer"
    assert not {name: paths for name, paths in homes.items() if len(paths) > 1}, "class names with two meanings"


def test_every_help_ends_with_two_examples() -> None:
    import typer

    from edgevit.cli.app import app

    def leaves(command: object, name: str) -> list[tuple[str, str]]:
        if hasattr(command, "commands"):
            return [leaf for key, sub in command.commands.items() for leaf in leaves(sub, f"{name} {key}")]
        return [(name, command.epilog or "")]

    for name, epilog in leaves(typer.main.get_command(app), "edgevit"):
        assert len(re.findall(rf"^\s+{re.escape(name.strip())}", epilog, re.MULTILINE)) == 2, name


def test_public_names_are_importable() -> None:
    import edgevit

    assert all(callable(getattr(edgevit, name)) for name in edgevit.__all__)
    assert dir(edgevit) == sorted(edgevit.__all__)
    with pytest.raises(AttributeError):
        edgevit.nothing  # noqa: B018


def test_every_error_says_its_exit_code_in_the_tree() -> None:
    from edgevit import errors

    tree = errors.__doc__ or ""
    found = {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.EdgevitError)
    }
    for name, kind in found.items():
        assert re.search(rf"{name}\s+exit {kind.exit_code}", tree) or (
            name == "EnvironmentIncomplete" and "exit 5" in tree
        ), name
    assert len({kind.code for kind in found.values()}) == len(found)
