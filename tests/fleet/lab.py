"""A fleet of processes on the loopback interface, and a driver that asks it at a steady rate."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from edgevit.fleet.certificates import make_certificates
from edgevit.fleet.config import Security
from edgevit.fleet.frames import Frame
from edgevit.fleet.outcomes import Answer
from edgevit.fleet.running import FleetOptions, RunningFleet
from tools.lab import fleet as fleetlab
from tools.lab import network as netlab  # noqa: F401  # for others
from tools.lab.emulated import free_port

ROOT = Path(__file__).parents[2]

DEADLINE = 1.0
COMPUTE_MS = 5
SLACK = 0.4
"""Seconds that a busy machine may take to wake the coordinator after a deadline."""


@dataclass
class Lab:
    """A coordinator in this process, and members in their own."""

    plan: Path
    running: RunningFleet
    certs: Path | None
    logs: Path
    address: str
    transport: str = "quic"
    members: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    asked: list[tuple[int, Future[Answer]]] = field(default_factory=list)
    counted: int = 0

    def start(self, member: str, *further: object) -> None:
        secured = ["--certs", self.certs, "--transport", self.transport] if self.certs else []
        one = fleetlab.command(self.plan, member, self.address, *secured, "--delay", COMPUTE_MS, *further)
        self.members[member] = fleetlab.start([one], self.logs)[0]

    def signal(self, member: str, what: int) -> None:
        self.members[member].send_signal(what)
        if what == signal.SIGKILL:
            self.members[member].wait()

    def lose(self, member: str) -> None:
        """Kill a member and wait until its token is gone."""
        self.signal(member, signal.SIGKILL)
        ends = time.monotonic() + 15
        while self.running.health[member].state != "absent" and time.monotonic() < ends:
            time.sleep(0.05)
        assert self.running.health[member].state == "absent"

    def drive(self, count: int, every: float = 0.02, *, punctual: bool = True) -> list[Answer]:
        """Ask so many images at a steady rate; returns their answers, each of them checked.

        Args:
            count: of images.
            every: seconds between two of them; 0 asks for more than a small machine can take.
            punctual: whether each must have come by its deadline, which needs a core that is not starved.
        """
        first = len(self.asked)
        for number in range(first, first + count):
            self.asked.append((number, self.running.ask(Frame("", fleetlab.picture(number), "raw"))))
            time.sleep(every)
        answers = [future.result(timeout=30) for _, future in self.asked[first:]]
        for (number, _), answer in zip(self.asked[first:], answers, strict=True):
            if answer.shares is not None:
                assert int(answer.shares.argmax()) == number % fleetlab.CLASSES, "an answer to another image"
            if punctual:
                assert answer.latency <= DEADLINE + SLACK, "answered after its deadline"
        return answers

    def back(self, member: str, within: float) -> float:
        """Seconds until a member is used again."""
        start = time.monotonic()
        while time.monotonic() - start < within:
            if "answered" in {answer.members[member] for answer in self.drive(1)}:
                return time.monotonic() - start
        raise AssertionError(f"{member} was not used again within {within:g} s: {self.running.health[member]}")

    def check_tally(self) -> None:
        """Nothing lost, nothing counted twice."""
        tally = self.running.tally
        assert tally.requests == len(self.asked) + self.counted
        assert tally.adds_up()


@contextmanager
def lab(
    folder: Path, members: int = 4, *, secured: bool = True, window: int = 4, transport: str = "quic"
) -> Iterator[Lab]:
    """Bring a fleet up; ends every process that it started."""
    address = f"127.0.0.1:{free_port()}"
    plan = folder / "plan"
    fleetlab.synthetic_plan(plan, members, listen=address)
    certs = folder / "certs" if secured else None
    options = FleetOptions(
        role="coordinator", deadline=DEADLINE, window=window, encoding="raw", security=Security(certs, transport)
    )
    if certs:
        from edgevit.schema.plan import read_fleet

        make_certificates(read_fleet(plan / "fleet.toml"), certs)
    with RunningFleet(plan, options) as running:
        found = Lab(plan, running, certs, folder / "logs", address, transport)
        try:
            for number in range(members):
                found.start(f"m{number}")
            assert running.wait_for(members, 60), running.health
            found.drive(3)
            yield found
        finally:
            for process in found.members.values():
                process.kill()
                process.wait()
