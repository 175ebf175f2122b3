"""Defaults from ``edgevit.toml`` or ``[tool.edgevit]`` in pyproject.toml.

One table a command, option names as on the command line: ``[export] precision = "fp16"``. The
environment (``EDGEVIT_EXPORT_PRECISION``) and flags go before it.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from edgevit.errors import BadFile, UnknownName


def read_config(folder: Path, commands: dict[str, set[str]]) -> dict[str, dict[str, Any]]:
    """The defaults of each command.

    Args:
        folder: where to look.
        commands: the options that each command has.

    Raises:
        BadFile: the file is not valid TOML or a table is not a table.
        UnknownName: no such command or option; the nearest is offered.
    """
    path, table = _find(folder)
    defaults: dict[str, dict[str, Any]] = {}
    for command, options in table.items():
        if command not in commands:
            raise UnknownName(f"table in {path.name}", command, commands)
        if not isinstance(options, dict):
            raise BadFile(f"[{command}] must be a table of options", where=str(path))
        named = {key.replace("-", "_"): value for key, value in options.items()}
        for key in named:
            if key not in commands[command]:
                raise UnknownName(f"option in [{command}] of {path.name}", key, commands[command])
        defaults[command] = named
    return defaults


def _find(folder: Path) -> tuple[Path, dict[str, Any]]:
    own, shared = folder / "edgevit.toml", folder / "pyproject.toml"
    for path in (own, shared):
        if not path.is_file():
            continue
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            if path == shared:
                continue
            raise BadFile(f"not valid TOML: {error}", where=str(path)) from error
        found = table if path == own else table.get("tool", {}).get("edgevit")
        if found is not None:
            return path, found
    return own, {}
