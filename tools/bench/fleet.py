"""What the fleet's engine costs, on five devices that do not exist: one namespace each, 100 Mbit/s, 1 ms one way.

    python tools/bench/fleet.py [--images N] [--json FILE]

Needs root. Members decode a JPEG and sleep for 20 ms; the same work is also served over plain sockets and over gRPC,
and the three take turns image by image. A member's wait is from the message in its hands to the start of its compute:
what plain sockets wait for a core happens before that and cannot be told. Then: pipelined throughput, an overload of
2.4 times, 2 % loss, and faults. Run it on a quiet machine; its processes ask for real-time priority.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgevit.core.fusion import as_sent
from edgevit.fleet.certificates import make_certificates
from edgevit.fleet.config import Security
from edgevit.fleet.frames import Frame
from edgevit.fleet.member import decode
from edgevit.fleet.running import FleetOptions, RunningFleet
from edgevit.schema.plan import read_fleet, read_plan
from tools.lab import fleet as fleetlab
from tools.lab import network as netlab

ROOT = Path(__file__).parents[2]

DEVICES, SIZE, FEATURES, COMPUTE_MS, DEADLINE = 5, 224, 384, 20, 0.15
PORT, RAW_PORT, GRPC_PORT = 7447, 7500, 7600
ADDRESS = f"{netlab.COORDINATOR_ADDRESS}:{PORT}"
GOOD = netlab.Shape(delay_us=1000, jitter_us=200, rate_kbit=100_000)
LOSSY = netlab.Shape(delay_us=1000, jitter_us=200, loss=2, rate_kbit=100_000)
_LENGTH = struct.Struct("<I")
_SPENT = struct.Struct("<dd")
"""At the head of what plain sockets and gRPC answer: seconds computed, and waited before that."""


def jpeg(number: int) -> bytes:
    """About 20 kB that carry a number."""
    rng = np.random.default_rng(number)
    small = rng.integers(0, 256, (36, 36, 3), np.uint8)
    pixels = np.asarray(Image.fromarray(small).resize((SIZE, SIZE), Image.Resampling.BICUBIC)).copy()
    pixels[:16, :16] = 25 * (number % fleetlab.CLASSES) + 12
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=82, subsampling=0)
    return out.getvalue()


def work(plan: Path) -> Callable[[bytes, float], bytes]:
    """What a member computes, without the fleet."""
    rule, behaviour = read_plan(plan).preprocess.rule(), fleetlab.Behaviour(COMPUTE_MS / 1e3, "normal", FEATURES)

    def compute(payload: bytes, arrived: float) -> bytes:
        start = time.perf_counter()
        found = as_sent(behaviour.compute(decode(payload, "jpeg", rule))).tobytes()
        return _SPENT.pack(time.perf_counter() - start, start - arrived) + found

    return compute


def serve_raw(plan: Path) -> None:
    """Plain sockets: a length and the bytes."""
    compute, server = work(plan), socket.create_server(("", RAW_PORT))
    while True:
        peer, _ = server.accept()
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(OSError, EOFError):
            while True:
                image = _receive(peer)
                reply = compute(image, time.perf_counter())
                peer.sendall(_LENGTH.pack(len(reply)) + reply)


def _receive(peer: socket.socket) -> bytes:
    length = _LENGTH.unpack(_exactly(peer, _LENGTH.size))[0]
    return _exactly(peer, length)


def _exactly(peer: socket.socket, count: int) -> bytes:
    found = bytearray()
    while len(found) < count:
        more = peer.recv(count - len(found))
        if not more:
            raise EOFError
        found += more
    return bytes(found)


async def serve_grpc(plan: Path) -> None:
    """A plain gRPC prototype: one unary method on bytes."""
    import grpc

    compute = work(plan)

    async def infer(request: bytes, _context: Any) -> bytes:
        return await asyncio.to_thread(compute, request, time.perf_counter())

    handler = grpc.method_handlers_generic_handler("lab", {"infer": grpc.unary_unary_rpc_method_handler(infer)})
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(f"0.0.0.0:{GRPC_PORT}")
    await server.start()
    await server.wait_for_termination()


Spent = tuple[float, float]
"""Seconds computed, and waited before that, by the member that took longest."""


def _slowest(members: Sequence[Spent]) -> Spent:
    return max(members, key=sum)


class Raw:
    """Asks all devices over plain sockets."""

    async def open(self) -> None:
        self.peers = [
            await asyncio.open_connection(netlab.device_address(i), RAW_PORT, limit=1 << 20) for i in range(DEVICES)
        ]
        for _, writer in self.peers:
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def ask(self, image: bytes) -> Spent:
        async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Spent:
            writer.write(_LENGTH.pack(len(image)) + image)
            length = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))[0]
            return _SPENT.unpack_from(await reader.readexactly(length))

        return _slowest(await asyncio.gather(*(one(*peer) for peer in self.peers)))


class Grpc:
    """Asks all devices over gRPC."""

    async def open(self) -> None:
        import grpc

        self.calls = [
            grpc.aio.insecure_channel(f"{netlab.device_address(i)}:{GRPC_PORT}").unary_unary("/lab/infer")
            for i in range(DEVICES)
        ]

    async def ask(self, image: bytes) -> Spent:
        replies = await asyncio.gather(*(call(image, timeout=DEADLINE * 4) for call in self.calls))
        return _slowest([_SPENT.unpack_from(reply) for reply in replies])


class Engine:
    """Asks the fleet."""

    def __init__(self, running: RunningFleet) -> None:
        self.running = running

    async def open(self) -> None:
        pass

    async def ask(self, image: bytes) -> Spent:
        answer = await self.running.coordinator.infer(image, "jpeg", self.running.deadline)
        if len(answer.answered) != DEVICES:
            raise TimeoutError(str(answer.members))
        return _slowest([(answer.compute[name], answer.waited[name]) for name in answer.answered])


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """In milliseconds."""
    ordered = sorted(values)
    at = [ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e3 for share in (0.5, 0.99)]
    return {"p50_ms": round(at[0], 2), "p99_ms": round(at[1], 2)}


async def in_turns(ways: dict[str, Any], images: int) -> dict[str, Any]:
    """One image each, in turns."""
    for way in ways.values():
        await way.open()
    whole: dict[str, list[float]] = {name: [] for name in ways}
    beside: dict[str, list[float]] = {name: [] for name in ways}
    engine: dict[str, list[float]] = {name: [] for name in ways}
    lost = dict.fromkeys(ways, 0)
    for number in range(images + 10):
        image = jpeg(number)
        for name, way in ways.items():
            start = time.perf_counter()
            try:
                compute, waited = await way.ask(image)
            except TimeoutError:
                lost[name] += 1
                continue
            took = time.perf_counter() - start
            if number >= 10:
                whole[name].append(took)
                beside[name].append(took - compute)
                engine[name].append(took - compute - waited)
    return {
        name: {
            "end_to_end": percentiles(whole[name]),
            "without_compute": percentiles(beside[name]),
            "without_compute_and_wait": percentiles(engine[name]),
            "incomplete": lost[name],
            "images": len(whole[name]),
        }
        for name in ways
    }


def throughput(running: RunningFleet, images: int) -> dict[str, float]:
    """Pipelined: answers a second against what the slowest member's compute allows."""
    ready = [Frame("", jpeg(number), "jpeg") for number in range(images)]
    start = time.perf_counter()
    answers = [answer for _, answer in running.stream(ready)]
    took = time.perf_counter() - start
    complete = sum(len(answer.answered) == DEVICES for answer in answers)
    slowest = statistics.median(max(answer.compute.values()) for answer in answers if answer.compute)
    return {
        "a_second": round(complete / took, 2),
        "allowed": round(1 / slowest, 2),
        "share": round(complete / took * slowest, 4),
    }


def overload(running: RunningFleet, factor: float, seconds: float) -> dict[str, float]:
    """Offer more than the members can take; what counts is complete answers a second."""
    ready = [Frame("", jpeg(number), "jpeg") for number in range(64)]
    allowed = 1e3 / (COMPUTE_MS + 1.5)
    every, futures = 1 / (factor * 1e3 / COMPUTE_MS), []
    start = time.perf_counter()
    while (now := time.perf_counter()) - start < seconds:
        futures.append(running.ask(ready[len(futures) % 64]))
        time.sleep(max(0.0, start + len(futures) * every - now))
    answers = [future.result() for future in futures]
    took = time.perf_counter() - start
    complete = [answer for answer in answers if len(answer.answered) == DEVICES]
    slowest = statistics.median(max(answer.compute.values()) for answer in complete)
    return {
        "offered": round(len(futures) / took, 1),
        "a_second": round(len(complete) / took, 2),
        "allowed": round(1 / slowest, 2),
        "share": round(len(complete) / took * slowest, 4),
        "nominal": round(allowed, 1),
        **percentiles([answer.latency for answer in complete]),
    }


def drive(plan: Path, certs: Path, what: str, images: int) -> None:
    """Runs in the coordinator's namespace; prints one JSON line."""
    shed = what == "overload"
    options = FleetOptions(
        address=ADDRESS, deadline=DEADLINE if shed else 1.0, window=4, shed=shed, security=Security(certs)
    )
    with RunningFleet(plan, options) as running:
        if not running.wait_for(DEVICES, 30):
            raise SystemExit(f"members missing: {running.health}")
        for number in range(10):
            running.ask(Frame("", jpeg(number), "jpeg")).result()
        if what == "turns":
            # all three on the one event loop
            found = running.call(in_turns({"sockets": Raw(), "grpc": Grpc(), "fleet": Engine(running)}, images))
        elif what == "fleet":
            found = running.call(in_turns({"fleet": Engine(running)}, images))
        elif what == "throughput":
            found = throughput(running, images)
        elif what == "overload":
            found = overload(running, 2.4, images / 50)
        else:
            found = faults(running)
        print(json.dumps(found), flush=True)


def faults(running: RunningFleet) -> dict[str, Any]:
    """Asks 15 images a second; the other side of the pipe says what happens to device 2, and when."""
    asked: list[tuple[float, Any]] = []
    marks: list[tuple[str, float]] = []
    ended = threading.Event()

    def listen() -> None:
        marks.extend((line.strip(), time.perf_counter()) for line in sys.stdin)
        ended.set()

    threading.Thread(target=listen, daemon=True).start()
    print("ready", flush=True)
    number, start = 0, time.perf_counter()
    while not ended.is_set():
        asked.append((time.perf_counter(), running.ask(Frame("", jpeg(number % 64), "jpeg"))))
        number += 1
        time.sleep(max(0.0, start + number / 15 - time.perf_counter()))
    answers = [(when, future.result()) for when, future in asked]
    found: dict[str, Any] = {"requests": len(answers), "adds_up": running.tally.adds_up()}
    for (what, begin), (_, end) in zip(marks, [*marks[1:], ("", float("inf"))], strict=True):
        part = [answer for when, answer in answers if begin <= when < end]
        found[what] = {
            "late": sum(answer.members["m2"] == "late" for answer in part),
            "others_missing": sum(o != "answered" for a in part for m, o in a.members.items() if m != "m2"),
            "unanswered": sum(answer.shares is None for answer in part),
            "slowest_ms": round(max(answer.latency for answer in part) * 1e3, 1),
        }
        used = [when for when, answer in answers if begin <= when < end and answer.members["m2"] == "answered"]
        if what in ("start", "continue", "heal"):
            found[what]["used_again_after_s"] = round(used[0] - begin, 3) if used else None
    return found


def _first(*command: object) -> list[str]:
    """Before anything else that runs."""
    return ["chrt", "-r", "1", *map(str, command)]


def measure(net: netlab.Network, plan: Path, certs: Path, what: str, images: int) -> Any:
    """Run a driver in the coordinator's namespace and read what it found."""
    command = _first(sys.executable, __file__, "--drive", what, "--plan", plan, "--certs", certs, "--images", images)
    driver = net.run("coordinator", command, stdout=subprocess.PIPE, text=True)
    said = driver.communicate(timeout=600)[0]
    if driver.returncode:
        raise SystemExit(f"{what}: the driver failed")
    return json.loads(said.strip().splitlines()[-1])


def start_members(net: netlab.Network, plan: Path, certs: Path) -> list[subprocess.Popen[Any]]:
    """One in each namespace."""
    return [_member(net, plan, certs, number) for number in range(DEVICES)]


def _member(net: netlab.Network, plan: Path, certs: Path, number: int) -> subprocess.Popen[Any]:
    one = fleetlab.command(plan, f"m{number}", ADDRESS, "--certs", certs, "--delay", COMPUTE_MS)
    return net.run(f"dev{number}", _first(*one), stdout=subprocess.DEVNULL)


def measure_faults(net: netlab.Network, plan: Path, certs: Path, members: list[subprocess.Popen[Any]]) -> Any:
    """Kill, stop and cut off device 2, and let it come back each time."""
    import signal

    command = _first(sys.executable, __file__, "--drive", "faults", "--plan", plan, "--certs", certs)
    driver = net.run("coordinator", command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert driver.stdin and driver.stdout
    assert driver.stdout.readline().strip() == "ready"

    def say(what: str, then: float) -> None:
        driver.stdin.write(f"{what}\n")
        driver.stdin.flush()
        time.sleep(then)

    say("quiet", 3)
    members[2].send_signal(signal.SIGKILL)
    say("kill", 5)
    members[2] = _member(net, plan, certs, 2)
    time.sleep(0.6)  # an interpreter starts; `serve` counts from when it is ready
    say("start", 4)
    members[2].send_signal(signal.SIGSTOP)
    say("stop", 5)
    members[2].send_signal(signal.SIGCONT)
    say("continue", 4)
    net.cut(2)
    say("partition", 6)
    net.heal(2)
    say("heal", 5)
    driver.stdin.close()
    found = json.loads(driver.stdout.read().strip().splitlines()[-1])
    driver.wait()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", action="append", help="a step's name, e.g. 'in turns'; may be repeated")
    parser.add_argument("--drive", help=argparse.SUPPRESS)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--plan", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--certs", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve == "sockets":
        serve_raw(given.plan)
    elif given.serve == "grpc":
        asyncio.run(serve_grpc(given.plan))
    elif given.drive:
        drive(given.plan, given.certs, given.drive, given.images)
    else:
        _all(given.images, given.json, given.only)


def _all(images: int, out: Path | None, only: list[str] | None) -> None:
    reason = netlab.missing()
    if reason:
        raise SystemExit(reason)
    found: dict[str, Any] = {
        "devices": DEVICES,
        "image_bytes": len(jpeg(0)),
        "compute_ms": COMPUTE_MS,
        "cores": os.cpu_count(),
    }
    with tempfile.TemporaryDirectory() as name, netlab.network(DEVICES, Path(name)) as net:
        folder = Path(name)
        plan, certs = folder / "plan", folder / "certs"
        fleetlab.synthetic_plan(plan, DEVICES, listen=ADDRESS, size=SIZE, features=FEATURES)
        make_certificates(read_fleet(plan / "fleet.toml"), certs)
        subprocess.run(["chrt", "-f", "-p", "10", str(net.emulator.pid)], check=True)
        net.shape(GOOD)
        members = start_members(net, plan, certs)
        beside = [(f"dev{number}", kind) for number in range(DEVICES) for kind in ("sockets", "grpc")]
        for device, kind in beside:
            net.run(device, _first(sys.executable, __file__, "--serve", kind, "--plan", plan))
        time.sleep(3)
        steps: dict[str, Callable[[], Any] | Awaitable[Any]] = {
            "in turns": lambda: measure(net, plan, certs, "turns", images),
            "throughput": lambda: measure(net, plan, certs, "throughput", images),
            "overload 2.4x": lambda: measure(net, plan, certs, "overload", images),
            "faults": lambda: measure_faults(net, plan, certs, members),
        }
        for title, step in steps.items():
            if only and title not in only:
                continue
            found[title] = step()  # type: ignore[operator]
            print(title, json.dumps(found[title]), flush=True)
        if not only or "2 % loss" in only:
            net.shape(LOSSY)
            found["2 % loss"] = measure(net, plan, certs, "fleet", images)
            print("2 % loss", json.dumps(found["2 % loss"]), flush=True)
    if out:
        out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
