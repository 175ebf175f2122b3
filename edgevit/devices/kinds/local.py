"""``local:``: this computer, in a process of its own."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from edgevit.devices.base import Found, Kind, Reach, RunnerEvent
from edgevit.devices.runner_process import RunnerProcess
from edgevit.devices.shell.device import ShellDevice
from edgevit.errors import UsageError

_CURES = {"runtime-missing": "pip install 'edgevit[runtime]'; ExecuTorch files: pip install 'edgevit[executorch]'"}


class LocalTransport:
    """Runs files where they lie: nothing is copied on this computer."""

    def put(self, path: Path) -> str:
        """The file's own absolute path: on this computer nothing is copied."""
        return str(path.resolve())

    def start(self, runtime: str, arguments: list[str], deadline_s: float) -> RunnerProcess:  # noqa: ARG002
        """Start this Python interpreter in a process of its own, outside of edgevit's folder."""
        env = {**os.environ, "ORT_DISABLE_TELEMETRY": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        return RunnerProcess([sys.executable, *arguments], deadline_s, lambda code, output: None, env, cures=_CURES)

    def own(self) -> dict[str, str]:
        """Empty: no runtimes are installed for this device."""
        return {}

    def library(self, runtime: str) -> tuple[str, str]:  # noqa: ARG002
        """Empty: here ExecuTorch comes with its own Python bindings."""
        return "", ""

    def install(self, runtime: str, host: RunnerEvent) -> None:  # noqa: ARG002
        """Refused: nothing is installed into the user's own Python."""
        raise UsageError(
            "--install-runtime is for other computers", cure=f"here, pip install 'edgevit[runtime]' brings {runtime}"
        )

    def clean(self) -> int:
        """Nothing to remove; 0 bytes."""
        return 0

    def close(self) -> None:
        """Does nothing: no connection is held."""


def open_local(uri: str, reach: Reach) -> ShellDevice:
    """Open this computer as a device; its only URI is ``local:``."""
    if uri.rstrip("/") != "local:":
        raise UsageError(f"{uri!r} is not a device", cure="this computer is local:")
    return ShellDevice("local:", "local", LocalTransport(), reach)


def discover() -> list[Found]:
    """The one device of this kind, this computer, which is always ready."""
    return [
        Found("local:", "ready", f"this computer: {platform.system()} {platform.machine()}, {os.cpu_count()} cores")
    ]


KIND = Kind("This computer", "local:", open_local, discover)
