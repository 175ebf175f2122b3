"""What a fleet does when a member dies, hangs, is cut off, lies or is slow: real processes, real connections."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgevit.errors import DeviceUnreachable
from edgevit.fleet.clients import FleetClient
from edgevit.fleet.config import Security
from edgevit.fleet.outcomes import Answer
from tests.fleet.lab import DEADLINE, fleetlab, lab

pytestmark = pytest.mark.system

MOST_SLOWED = 5


def slowed(answers: Sequence[Answer], member: str) -> int:
    """Requests that waited for a member until their deadline."""
    return sum(answer.members[member] == "late" for answer in answers)


def untouched(answers: Sequence[Answer], but: str) -> bool:
    """Whether all other members answered everything."""
    return all(outcome == "answered" for one in answers for name, outcome in one.members.items() if name != but)


@pytest.mark.parametrize("what", [signal.SIGKILL, signal.SIGSTOP])
def test_a_member_that_dies_or_hangs_slows_few_requests_and_no_other_member(
    what: signal.Signals, tmp_path: Path
) -> None:
    with lab(tmp_path) as fleet:
        fleet.asked.append((0, fleet.running.ask(_frame(0))))  # in the air while it happens
        fleet.signal("m1", what)
        answers = [fleet.asked.pop()[1].result(), *fleet.drive(150)]
        assert slowed(answers, "m1") <= MOST_SLOWED
        assert untouched(answers, "m1")
        assert all(answer.shares is not None for answer in answers)
        last = answers[-20:]
        assert all(answer.members["m1"] in ("suspect", "absent", "gone") for answer in last)
        assert sum(answer.latency for answer in last) / 20 < DEADLINE / 2
        if what == signal.SIGSTOP:
            fleet.signal("m1", signal.SIGCONT)
        else:
            fleet.start("m1")
        fleet.back("m1", 10)
        assert untouched(fleet.drive(50), "")
        fleet.asked.insert(0, (0, fleet.asked[0][1]))
        fleet.check_tally()


def _frame(number: int):  # type: ignore[no-untyped-def]
    from edgevit.fleet.frames import Frame
    from tools.lab import fleet as fleetlab

    return Frame("", fleetlab.picture(number), "raw")


def test_a_slow_member_is_no_longer_waited_for_and_its_late_answers_are_dropped(tmp_path: Path) -> None:
    with lab(tmp_path) as fleet:
        fleet.signal("m2", signal.SIGKILL)
        fleet.start("m2", "--delay", int((DEADLINE + 0.3) * 1e3))
        ends = time.monotonic() + 20
        while fleet.running.health["m2"].state != "suspect" and time.monotonic() < ends:
            fleet.drive(1)
        answers = fleet.drive(100)
        assert slowed(answers, "m2") <= MOST_SLOWED
        assert untouched(answers, "m2")
        assert {answer.members["m2"] for answer in answers} <= {"suspect", "late"}
        fleet.check_tally()


@pytest.mark.parametrize(
    ("mode", "outcomes", "state"),
    [
        ("corrupt", {"corrupt", "suspect"}, "suspect"),
        ("other-plan", {"another plan"}, "another plan"),
        ("fails", {"failed", "suspect"}, "suspect"),
    ],
)
def test_a_member_with_wrong_answers_is_named_and_never_used(
    mode: str, outcomes: set[str], state: str, tmp_path: Path
) -> None:
    with lab(tmp_path) as fleet:
        fleet.lose("m0")  # its token is gone, so that the next one is asked at once
        fleet.start("m0", "--mode", mode)
        ends, seen = time.monotonic() + 20, Counter[str]()
        while not (outcomes <= set(seen) and fleet.running.health["m0"].state == state) and time.monotonic() < ends:
            seen.update(answer.members["m0"] for answer in fleet.drive(5))
        assert outcomes <= set(seen)
        assert fleet.running.health["m0"].state == state
        answers = fleet.drive(60)
        assert {answer.members["m0"] for answer in answers} <= outcomes
        assert untouched(answers, "m0")
        fleet.check_tally()


def test_the_tally_of_ten_thousand_requests_under_random_faults_adds_up(tmp_path: Path) -> None:
    """The load is all that the machine has, beside members that start: the tally is asked for, and not the time."""
    rng = random.Random(4)
    with lab(tmp_path, 4, secured=False, window=8) as fleet:
        stopped: set[str] = set()
        for _ in range(100):
            member = f"m{rng.randrange(1, 4)}"
            fault = rng.choice(("kill", "stop", "go on", "nothing", "nothing", "corrupt"))
            if fault == "go on" and stopped:
                member = stopped.pop()
                fleet.signal(member, signal.SIGCONT)
            elif fault == "stop" and member not in stopped:
                stopped.add(member)
                fleet.signal(member, signal.SIGSTOP)
            elif fault in ("kill", "corrupt"):
                stopped.discard(member)
                fleet.signal(member, signal.SIGKILL)
                fleet.start(member, *(["--mode", "corrupt"] if fault == "corrupt" else []))
            fleet.drive(100, every=0.0, punctual=False)
        fleet.check_tally()
        tally = fleet.running.tally
        assert tally.requests == 10_003
        assert tally.complete + tally.partial == tally.requests
        assert not set(tally.members["m0"]) & {"corrupt", "failed", "another plan"}, "nothing happened to this one"
        assert tally.members["m0"]["answered"] > 0.95 * tally.requests
        outcomes = Counter[str]()
        for one in tally.members.values():
            outcomes.update(one)
        assert sum(outcomes.values()) == 4 * tally.requests
        assert len(outcomes) >= 4, outcomes


def test_a_client_whose_coordinator_leaves_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (
        lab(tmp_path, 1, secured=False) as fleet,
        FleetClient(fleet.running.fleet, fleet.address, Security()) as client,
        ThreadPoolExecutor() as pool,
    ):
        fleet.signal("m0", signal.SIGSTOP)
        asked = pool.submit(client.ask, fleetlab.picture(1), "raw", 30)
        time.sleep(0.3 * DEADLINE)
        assert not asked.done()
        fleet.running.close()
        with pytest.raises(DeviceUnreachable):
            asked.result(10)
    assert not [record.getMessage() for record in caplog.records]
