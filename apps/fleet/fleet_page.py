"""Shows a fleet at work: `python fleet_page.py`, then open the address that it prints.

By default the plan's members run on this computer, each as a process of its own, so that they can be pulled out and
put back from the page. With --devices they are awaited on the network, as `edgevit fleet run` does.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import itertools
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from members import LocalMembers
from server import Broadcast, serve

from edgevit.data.capture import captured_pictures, is_live
from edgevit.errors import EdgevitError, UsageError
from edgevit.fleet.clients import answer_document, member_states
from edgevit.fleet.config import Security
from edgevit.fleet.frames import Frame, encode
from edgevit.fleet.running import FleetOptions, RunningFleet

HERE = Path(__file__).parent
STATE_EVERY_S = 0.5
FIRST_WAIT_S = 15


def pictures_of(given: argparse.Namespace, running: RunningFleet) -> Iterator[Frame]:
    """Over and over, unless it is a camera; by default the pictures that the plan's bundles bring."""
    source = given.input
    if source is None:
        found = sorted((given.plan / running.plan.sub_models[0].bundle / "golden").glob("probe_*.png"))
        once = [picture for path in found for picture in captured_pictures(str(path))]
        rounds: Any = itertools.repeat(once)
    elif is_live(source) or source == "-":
        rounds = iter([captured_pictures(source)])
    else:
        rounds = (captured_pictures(source) for _ in itertools.count())
    for name, picture in itertools.chain.from_iterable(rounds):
        yield Frame(name, encode(picture, running.rule, "jpeg"), "jpeg")


class Show:
    """Asks the fleet about one picture after the other, and tells the page."""

    def __init__(self, running: RunningFleet, members: LocalMembers | None, broadcast: Broadcast) -> None:
        self.running, self.members, self.broadcast = running, members, broadcast
        self.ended = threading.Event()

    def hello(self) -> dict[str, Any]:
        """What a page needs first."""
        plan = self.running.plan
        found = [
            {"name": name, "classes": [plan.labels[one] for sub in plan.of(name) for one in sub.classes]}
            for name in plan.members()
        ]
        accuracy = plan.accuracy
        return {
            "model": plan.model.name,
            "deadline_ms": self.running.deadline * 1e3,
            "members": found,
            "local": self.members is not None,
            "accuracy": {
                "fused": accuracy.fused,
                "one_missing": min((m.accuracy for m in accuracy.one_missing), default=None),
            },
        }

    def act(self, name: str, what: str) -> bool:
        """A button of the page; False for a member that is not this computer's."""
        if self.members is None or name not in self.members.names:
            return False
        self.members.pull_out(name) if what == "out" else self.members.put_back(name)
        return True

    def notice(self, text: str) -> None:
        """What the coordinator says."""
        self.broadcast.say("notice", {"text": text, "at": time.time()})

    def watch(self) -> None:
        """How the members are, twice a second."""
        while not self.ended.wait(STATE_EVERY_S):
            states = [
                {
                    "name": one.member,
                    "state": one.state,
                    "rejoined": one.rejoined,
                    "here": self.members.here(one.member) if self.members else None,
                }
                for one in member_states(self.running)
            ]
            self.broadcast.say("state", {"members": states, "tally": self.running.tally.document()})

    def ask(self, frames: Iterator[Frame], every: float) -> None:
        """One picture each so many seconds, until the end; members that come late are used when they are there."""
        ends = time.monotonic() + FIRST_WAIT_S
        while not self.ended.is_set() and time.monotonic() < ends:
            if self.running.wait_for(len(self.running.health), STATE_EVERY_S):
                break
        for frame in frames:
            start = time.monotonic()
            answer = self.running.ask(frame).result()
            document = answer_document(self.running, frame.name, answer, 3)
            picture = base64.b64encode(frame.payload).decode()
            took = {name: 1e3 * (self.running.health[name].latency or 0) for name in answer.answered}
            self.broadcast.say("answer", {**document, "took_ms": took, "picture": f"data:image/jpeg;base64,{picture}"})
            if self.ended.wait(max(0.0, start + every - time.monotonic())):
                return


def free_address() -> str:
    """A port of the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        return f"127.0.0.1:{one.getsockname()[1]}"


async def main(given: argparse.Namespace) -> None:
    """Everything runs until a signal."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    broadcast = Broadcast()
    address = given.listen or (None if given.devices else free_address())
    options = FleetOptions(address=address, security=Security(given.certs, insecure=given.insecure))
    with contextlib.ExitStack() as stack:
        told: list[Show] = []
        running = stack.enter_context(
            RunningFleet(
                given.plan, options, lambda text: told[0].notice(text) if told else print(text, file=sys.stderr)
            )
        )
        members = None
        if not given.devices:
            members = stack.enter_context(LocalMembers(given.plan, str(address), running.plan.members()))
        show = Show(running, members, broadcast)
        told.append(show)
        stack.callback(show.ended.set)
        try:
            serve(given.bind, given.port, broadcast, show.hello, show.act)
        except OSError as error:
            raise UsageError(
                f"the page cannot be served on port {given.port}: {error.strerror}", cure="--port 8081"
            ) from error
        threading.Thread(target=show.watch, daemon=True).start()
        frames = pictures_of(given, running)
        asking = asyncio.get_running_loop().run_in_executor(None, show.ask, frames, 1 / given.rate)
        asking.add_done_callback(lambda _: stop.set())
        print(f"http://{given.bind}:{given.port}/", flush=True)
        await stop.wait()
        show.ended.set()
        await asking


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, default=HERE / "plan")
    parser.add_argument("--input", help="a folder, a picture, a video, camera; by default the plan's own pictures")
    parser.add_argument("--rate", type=float, default=5, help="pictures a second (default 5)")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--bind", default="127.0.0.1", help="another address shows the page to the network")
    parser.add_argument("--devices", action="store_true", help="wait for members on the network")
    parser.add_argument("--listen", metavar="HOST:PORT", help="where members dial, in place of the plan's")
    parser.add_argument("--certs", type=Path, help="mutual TLS, with the folder of `edgevit fleet certs`")
    parser.add_argument("--insecure", action="store_true", help="members on the network without certificates")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        asyncio.run(main(parse()))
    except EdgevitError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
