"""Devices on a network that does not exist: one namespace each, joined by links with a rate, a delay and loss.

    with netlab.network(5) as net:
        net.shape(netlab.Shape(delay_us=1000, rate_kbit=100_000))
        net.run("dev0", [...])      # a process in a device's namespace
        net.cut(3)                  # a partition

Needs root, `ip` and a C compiler. The coordinator is `10.77.0.1`, device N is `10.77.0.(10+N)`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
COORDINATOR_ADDRESS = "10.77.0.1"


@dataclass(frozen=True)
class Shape:
    """One link, both directions alike."""

    delay_us: float = 0
    jitter_us: float = 0
    loss: float = 0
    rate_kbit: float = 0


def missing() -> str:
    """Why there can be no such network here, or an empty string."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program in ("ip", "cc"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    return "" if Path("/dev/net/tun").exists() else "there is no /dev/net/tun"


def device_address(number: int) -> str:
    """Of device N."""
    return f"10.77.0.{10 + number}"


@dataclass
class Network:
    """A running network.

    Attributes:
        prefix: of the namespaces, so that two networks do not meet.
        count: devices.
        emulator: the link emulator's process.
        started: processes that were started here.
    """

    prefix: str
    count: int
    emulator: subprocess.Popen[str]
    started: list[subprocess.Popen[Any]]
    shapes: list[Shape]

    def space(self, name: str) -> str:
        """The namespace of ``coordinator`` or ``devN``."""
        return f"{self.prefix}-{name}"

    def shape(self, shape: Shape, device: int | None = None) -> None:
        """Give one link, or all, a shape."""
        for number in range(self.count) if device is None else [device]:
            self.shapes[number] = shape
            self._set(number, shape)

    def cut(self, device: int) -> None:
        """A partition: nothing passes, and nobody is told."""
        self._set(device, replace(self.shapes[device], loss=100))

    def heal(self, device: int) -> None:
        """End a partition."""
        self._set(device, self.shapes[device])

    def _set(self, number: int, shape: Shape) -> None:
        assert self.emulator.stdin and self.emulator.stdout
        self.emulator.stdin.write(f"{number} {shape.delay_us} {shape.jitter_us} {shape.loss} {shape.rate_kbit}\n")
        self.emulator.stdin.flush()
        answer = self.emulator.stdout.readline().strip()
        if answer != "ok":
            raise RuntimeError(f"the link emulator said {answer!r}")

    def run(self, name: str, command: Sequence[str], **further: Any) -> subprocess.Popen[Any]:
        """Start a process in a namespace; ended with the network."""
        process = subprocess.Popen(["ip", "netns", "exec", self.space(name), *command], **further)
        self.started.append(process)
        return process

    def close(self) -> None:
        """End every process started here and remove the namespaces."""
        for process in [*self.started, self.emulator]:
            process.kill()
            process.wait()
        for name in ("switch", "coordinator", *(f"dev{i}" for i in range(self.count))):
            subprocess.run(["ip", "netns", "del", self.space(name)], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _compiled(folder: Path) -> Path:
    program = folder / "linkemu"
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-o", str(program), str(HERE / "linkemu.c")], check=True)
    return program


@contextmanager
def network(count: int, folder: Path, prefix: str | None = None) -> Iterator[Network]:
    """Bring up so many devices behind one switch, and a coordinator on it.

    Args:
        count: devices.
        folder: an existing one, for the emulator.
        prefix: of the namespaces' names.
    """
    prefix = prefix or f"ev{os.getpid()}"
    spaces = {name: f"{prefix}-{name}" for name in ("switch", "coordinator", *(f"dev{i}" for i in range(count)))}
    emulator = _compiled(folder)
    for space in spaces.values():
        _ip("netns", "add", space)
    switch, coordinator = spaces["switch"], spaces["coordinator"]
    _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
    _ip("-n", switch, "link", "set", "bridge", "up")
    _ip("-n", coordinator, "link", "add", "eth0", "type", "veth", "peer", "name", "uplink", "netns", switch)
    _ip("-n", switch, "link", "set", "uplink", "master", "bridge", "up")
    process = subprocess.Popen(
        [str(emulator), switch, *(spaces[f"dev{i}"] for i in range(count))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    net = Network(prefix, count, process, [], [Shape()] * count)
    try:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError("the link emulator did not start")
        for name, address in {
            "coordinator": COORDINATOR_ADDRESS,
            **{f"dev{i}": device_address(i) for i in range(count)},
        }.items():
            _ip("-n", spaces[name], "addr", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", spaces[name], "link", "set", "eth0", "up")
            _ip("-n", spaces[name], "link", "set", "lo", "up")
        for number in range(count):
            _ip("-n", switch, "link", "set", f"port{number}", "master", "bridge", "up")
        yield net
    finally:
        net.close()
