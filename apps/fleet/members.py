"""Members on this computer, as processes of their own, so that one can be pulled out for real."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class LocalMembers:
    """Processes of `edgevit fleet serve`; ends them with the block.

    Attributes:
        plan: the plan's folder.
        address: HOST:PORT of the coordinator.
        names: of all members.
    """

    plan: Path
    address: str
    names: tuple[str, ...]
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __enter__(self) -> LocalMembers:
        for name in self.names:
            self.put_back(name)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()

    def here(self, name: str) -> bool:
        """Whether its process runs."""
        process = self._running.get(name)
        return process is not None and process.poll() is None

    def put_back(self, name: str) -> None:
        """Start it, if it does not run."""
        if self.here(name):
            return
        command = [sys.executable, "-m", "edgevit.cli.app", "fleet", "serve", str(self.plan), "--member", name]
        self._running[name] = subprocess.Popen([*command, "--connect", self.address, "--quiet"])

    def pull_out(self, name: str) -> None:
        """Kill it: no goodbye, as when somebody pulls the plug."""
        if self.here(name):
            self._running[name].kill()
            self._running[name].wait()
