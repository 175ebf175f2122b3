"""How the command line ends."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest


@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), (["no-such-command"], 2)])
@pytest.mark.parametrize("module", ["zenoh", "json"])
def test_beside_the_engine_it_ends_at_once(module: str, arguments: list[str], code: int) -> None:
    """With its status and everything said, and without the interpreter's last steps."""
    script = (
        f"import atexit, sys, {module}\n"
        "from edgevit.cli.app import main\n"
        "atexit.register(print, 'last steps')\n"
        f"sys.argv[1:] = {arguments!r}\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == code, done.stderr
    assert version("edgevit") in done.stdout if code == 0 else "no-such-command" in done.stderr
    assert ("last steps" in done.stdout) is (module == "json")


def test_the_package_is_a_program() -> None:
    done = subprocess.run([sys.executable, "-m", "edgevit", "--version"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.strip()
