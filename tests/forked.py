"""The command line in a process of its own that does not import every toolchain anew.

A server imports once what takes the commands most of their time (`tests.preloaded`) and is forked for each of them.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.forkserver import set_forkserver_preload
from pathlib import Path


def _start(arguments: Sequence[str], folder: Path, environment: dict[str, str], cwd: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        opened = os.open(folder / name, os.O_WRONLY | os.O_CREAT)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.argv = ["edgevit", *arguments]
    from edgevit.cli.app import main

    main()


def run_forked(
    arguments: Sequence[str], environment: dict[str, str], cwd: Path, timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run the command line.

    Raises:
        subprocess.TimeoutExpired: it took longer, and was killed.
    """
    context = get_context("forkserver")
    set_forkserver_preload(["tests.preloaded"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        process = context.Process(target=_start, args=(arguments, folder, environment, cwd))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(list(arguments), timeout)
        said = {}
        for stream in ("stdout", "stderr"):
            said[stream] = ""
            with contextlib.suppress(FileNotFoundError):
                said[stream] = (folder / stream).read_text(encoding="utf-8")
        return subprocess.CompletedProcess(list(arguments), process.exitcode, said["stdout"], said["stderr"])
