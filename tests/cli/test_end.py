"""How the command line ends."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest


@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), (["no-such-command"], 2)])
@pytest.mark.parametrize("thread", ["fleet-goodbye", "other"])
def test_a_thread_in_the_engine_is_not_met_by_a_dying_interpreter(thread: str, arguments: list[str], code: int) -> None:
    """The process ends with its status and everything said, at once and without the interpreter's last steps."""
    script = (
        "import atexit, sys, threading, time\n"
        "from edgevit.cli.app import main\n"
        f"threading.Thread(target=time.sleep, args=(60,), name={thread!r}, daemon=True).start()\n"
        "atexit.register(print, 'last steps')\n"
        f"sys.argv[1:] = {arguments!r}\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == code, done.stderr
    assert version("edgevit") in done.stdout if code == 0 else "no-such-command" in done.stderr
    assert ("last steps" in done.stdout) is (thread == "other")
