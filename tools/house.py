"""How the code reads, in figures: one line a figure, for `edgevit/` at any commit.

    python tools/house.py [FOLDER]

Lengths of files and functions, `Any` per 1,000 lines, docstrings of three words or fewer, class names that are defined
in more than one module, parameters of the command line's commands.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LONG_FUNCTION = 60
"""Lines; what fits on one screen."""
SHORT_DOCSTRING = 3
"""Words; nothing can be explained in so few."""


@dataclass(frozen=True)
class Figures:
    """What was counted in one package."""

    files: int
    lines: int
    file_lengths: tuple[int, int, int]
    function_lengths: tuple[int, int, int]
    long_functions: tuple[str, ...]
    any_per_1000: float
    short_docstrings: tuple[str, ...]
    repeated_classes: tuple[str, ...]
    export_parameters: int


def _spread(lengths: list[int]) -> tuple[int, int, int]:
    """Median, 90th percentile and maximum."""
    return int(np.median(lengths)), int(np.percentile(lengths, 90)), max(lengths)


def count(package: Path) -> Figures:
    """Count a package's sources.

    Args:
        package: folder of the package, e.g. ``edgevit``.

    Raises:
        SyntaxError: a source cannot be parsed.
    """
    lengths, functions, long, short, classes = [], [], [], [], []
    uses_of_any, export_parameters = 0, 0
    for path in sorted(package.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        tree, name = ast.parse(text), path.relative_to(package).as_posix()
        lengths.append(text.count("\n"))
        uses_of_any += len(re.findall(r"\bAny\b", re.sub(r"^from typing import.*$", "", text, flags=re.MULTILINE)))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or node.lineno) - node.lineno + 1
                functions.append(size)
                if size > LONG_FUNCTION:
                    long.append(f"{name}:{node.name} {size}")
                if name == "cli/export.py" and node.name == "export":
                    export_parameters = len(node.args.args) + len(node.args.kwonlyargs)
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                classes.append((node.name, name))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
                said = ast.get_docstring(node)
                if said and len(said.split()) <= SHORT_DOCSTRING:
                    short.append(f"{name}:{getattr(node, 'name', '')} {said!r}")
    times = Counter(name for name, _ in set(classes))
    repeated = tuple(
        f"{name}: {', '.join(where for one, where in classes if one == name)}"
        for name, number in sorted(times.items())
        if number > 1
    )
    return Figures(
        files=len(lengths),
        lines=sum(lengths),
        file_lengths=_spread(lengths),
        function_lengths=_spread(functions),
        long_functions=tuple(long),
        any_per_1000=round(1000 * uses_of_any / sum(lengths), 1),
        short_docstrings=tuple(short),
        repeated_classes=repeated,
        export_parameters=export_parameters,
    )


def main() -> None:
    package = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "edgevit"
    figures = count(package)
    print(f"files {figures.files}, lines {figures.lines}")
    print("file median / p90 / max: {} / {} / {}".format(*figures.file_lengths))
    print("function median / p90 / max: {} / {} / {}".format(*figures.function_lengths))
    print(f"functions over {LONG_FUNCTION} lines: {len(figures.long_functions)}", *figures.long_functions, sep="\n  ")
    print(f"Any per 1,000 lines: {figures.any_per_1000}")
    print(f"docstrings of {SHORT_DOCSTRING} words or fewer: {len(figures.short_docstrings)}")
    print(*(f"  {one}" for one in figures.short_docstrings), sep="\n")
    print(f"class names used twice: {len(figures.repeated_classes)}", *figures.repeated_classes, sep="\n  ")
    print(f"parameters of cli.export written by hand: {figures.export_parameters}")


if __name__ == "__main__":
    main()
