"""The parts without a network: whom to wait for, what a message must be, and what a coordinator refuses to do late."""

from __future__ import annotations

import asyncio
import struct
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import zenoh
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgevit.errors import UsageError
from edgevit.fleet.config import check_names, local_config, open_session
from edgevit.fleet.health import PROBE_S, TRIP, Health
from edgevit.fleet.member import Serving, decode
from edgevit.fleet.wire import (
    FOLLOW_S,
    Malformed,
    Reply,
    Request,
    digest_of,
    infer_key,
    read_alive,
    read_reply,
    read_request,
)
from edgevit.schema.model import Preprocessing
from edgevit.schema.plan import Fleet

MEMBER = b"m" * 16


def test_two_misses_make_a_suspect_and_an_answer_in_time_clears_it() -> None:
    one = Health()
    assert one.role(0) == "skip"
    one.arrives(True)
    for _ in range(TRIP - 1):
        one.misses_one(1)
        assert one.role(1) == "ask"
    one.misses_one(2)
    assert one.state == "suspect"
    assert one.role(2 + PROBE_S / 2) == "skip"
    assert one.role(2 + PROBE_S) == "probe"
    assert one.role(2 + PROBE_S + 0.01) == "skip"
    one.answers(0.9, 0.1, in_time=False)
    assert one.state == "suspect", "a late answer is a miss"
    one.answers(0.1, 0.1, in_time=True)
    assert one.state == "healthy"
    assert one.misses == 0


def test_an_answer_in_time_between_misses_keeps_a_member() -> None:
    one = Health()
    one.arrives(True)
    for now in range(20):
        one.misses_one(now)
        one.answers(0.1, 0.1, in_time=True)
    assert one.state == "healthy"


def test_a_token_decides_who_is_there() -> None:
    one = Health()
    one.arrives(False)
    assert (one.state, one.role(0)) == ("another plan", "skip")
    one.arrives(True)
    assert one.role(1) == "ask"
    one.leaves()
    assert one.role(2) == "skip"
    one.arrives(True)
    assert (one.role(3), one.rejoined) == ("ask", 1)


@given(st.binary(max_size=200), st.binary(max_size=50))
def test_no_bytes_pass_for_a_message(attachment: bytes, payload: bytes) -> None:
    with pytest.raises(Malformed):
        read_request(attachment, payload)
    with pytest.raises(Malformed):
        read_reply(attachment, payload, number=1, member=MEMBER, features=4)


def test_a_request_survives_and_a_changed_one_does_not() -> None:
    image = b"image"
    request = Request(7, 0.25, "jpeg", MEMBER, lossy=True)
    packed = request.pack(digest_of(image))
    assert read_request(packed, image) == request
    with pytest.raises(Malformed, match="changed"):
        read_request(packed, b"imagE")
    with pytest.raises(Malformed):
        read_request(packed[:-1], image)
    with pytest.raises(Malformed):
        read_request(Request(7, float("nan"), "jpeg", MEMBER).pack(digest_of(image)), image)


def test_a_reply_is_only_good_for_its_own_request_bundle_and_size() -> None:
    values = np.array([1, 2, 3, 4], "<f2")
    packed = Reply(7, 0.01, 0.0, MEMBER).pack(values.tobytes())
    reply, found = read_reply(packed, values.tobytes(), number=7, member=MEMBER, features=4)
    assert reply.compute == 0.01
    assert found.tolist() == [1, 2, 3, 4]
    wrong = [
        ({"number": 8, "member": MEMBER, "features": 4}, values.tobytes(), "not the answer"),
        ({"number": 7, "member": b"x" * 16, "features": 4}, values.tobytes(), "another bundle"),
        ({"number": 7, "member": MEMBER, "features": 5}, values.tobytes(), "changed"),
        ({"number": 7, "member": MEMBER, "features": 4}, values.tobytes()[:-1] + b"\1", "changed"),
    ]
    for expected, payload, said in wrong:
        with pytest.raises(Malformed, match=said):
            read_reply(packed, payload, **expected)
    bad = struct.pack("<4e", 1, float("inf"), 0, 0)
    with pytest.raises(Malformed, match="not finite"):
        read_reply(Reply(7, 0, 0, MEMBER).pack(bad), bad, number=7, member=MEMBER, features=4)


@pytest.mark.parametrize("lossy", [False, True])
def test_packets_follow_an_answer_where_some_are_lost(lossy: bool) -> None:
    session, key = open_session(local_config(), "a test"), infer_key("lab", "m0")
    rule, image = Preprocessing((2, 2)), bytes(12)
    member = Serving(session, "lab", "m0", MEMBER, rule, lambda pixels: np.arange(3, dtype=np.float32))
    member.open()
    header = Request(7, 1.0, "raw", MEMBER, lossy=lossy).pack(digest_of(image))
    every, start = zenoh.ConsolidationMode.NONE, time.perf_counter()
    replies = session.get(key, payload=image, attachment=header, consolidation=every, timeout=5)
    came = [(time.perf_counter(), bytes(reply.ok.payload)) for reply in replies]
    ended = time.perf_counter()
    member.close()
    session.close()
    (_, answer), *following = came
    assert np.frombuffer(answer, "<f2").tolist() == [0, 1, 2]
    assert [payload for _, payload in following] == [b""] * lossy
    if lossy:
        assert following[0][0] - start > FOLLOW_S[0]
        assert ended - start > FOLLOW_S[1]


@pytest.mark.parametrize("encoding", ["raw", "jpeg", "png"])
def test_what_is_no_image_is_refused(encoding: str) -> None:
    rule = Preprocessing((32, 32))
    for payload in (b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a" + bytes(50), bytes(100)):
        with pytest.raises(Malformed):
            decode(payload, encoding, rule)  # type: ignore[arg-type]


def test_keys_name_members_and_roles_stay_roles() -> None:
    assert read_alive("edgevit/f/pi-1/alive/00ff") == ("pi-1", "00ff")
    for name in ("coordinator", "client", "ca"):
        with pytest.raises(UsageError, match="cannot be named"):
            check_names(Fleet.model_validate({"member": [{"name": name}]}))


def test_a_fleet_s_file_survives_itself(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from edgevit.schema.plan import read_fleet

    fleet = Fleet.model_validate(
        {
            "name": "k-1",
            "listen": "[::1]:99",
            "deadline_ms": 70,
            "network": {"mbit_s": 7},
            "member": [{"name": "a", "memory_mb": 1.5, "profile": 'a "b".json'}, {"name": "b"}],
        }
    )
    (tmp_path / "fleet.toml").write_text(fleet.to_toml())
    assert read_fleet(tmp_path / "fleet.toml") == fleet


def test_an_overloaded_coordinator_sheds_and_serves_what_it_can(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Three times more than one member can take, in one process; `tools/bench/fleet.py` measures how much is served."""
    import time

    from edgevit.core.fusion import read_head
    from edgevit.fleet.config import local_config, open_session
    from edgevit.fleet.coordinator import Coordinator
    from edgevit.fleet.member import serving
    from edgevit.schema.plan import FUSION
    from tests.fleet.lab import fleetlab

    plan = fleetlab.synthetic_plan(tmp_path / "plan", 1, listen="127.0.0.1:1")
    head = read_head(tmp_path / "plan" / FUSION, [one.classes for one in plan.sub_models])

    async def drive() -> tuple[int, Coordinator]:
        session = open_session(local_config(), "opening")
        member = serving(session, "lab", plan, "m0", fleetlab.Behaviour(0.04, "normal", 16).compute)
        member.open()
        found = Coordinator(session, "lab", plan, head)
        assert await found.wait_for(1, 10)
        start, asked = time.monotonic(), []
        while time.monotonic() - start < 4:
            asked.append(asyncio.ensure_future(found.infer(fleetlab.picture(len(asked)), "raw", 0.3, shed=True)))
            await asyncio.sleep(0.04 / 3)
        answers = await asyncio.gather(*asked)
        await found.close()
        member.close()
        session.close()
        return sum(bool(one.answered) for one in answers), found

    answered, found = asyncio.run(drive())
    outcomes = found.tally.members["m0"]
    assert answered > 10
    assert found.tally.shed > answered
    # what is let in can be answered: few are late, and the member is not blamed for the crowd
    assert outcomes["late"] + outcomes["expired"] <= 0.2 * answered
    assert outcomes["suspect"] <= 0.2 * answered
    assert found.tally.adds_up()


def test_a_member_that_hangs_from_the_first_image_on_is_found_out(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """What it does to the estimate of a request's time must not excuse it."""
    from edgevit.core.fusion import read_head
    from edgevit.fleet.config import local_config, open_session
    from edgevit.fleet.coordinator import Coordinator
    from edgevit.fleet.member import serving
    from edgevit.schema.plan import FUSION
    from tests.fleet.lab import fleetlab

    plan = fleetlab.synthetic_plan(tmp_path / "plan", 2, listen="127.0.0.1:1")
    head = read_head(tmp_path / "plan" / FUSION, [one.classes for one in plan.sub_models])

    async def drive() -> list[str]:
        session = open_session(local_config(), "opening")
        delays = {"m0": 0.0, "m1": 1.0}
        members = [
            serving(session, "lab", plan, name, fleetlab.Behaviour(delay, "normal", 16).compute)
            for name, delay in delays.items()
        ]
        for member in members:
            member.open()
        found = Coordinator(session, "lab", plan, head)
        assert await found.wait_for(2, 10)
        answers = [await found.infer(fleetlab.picture(n), "raw", 0.2) for n in range(4)]
        await found.close()
        for member in members:
            member.close()
        session.close()
        return [answer.members["m1"] for answer in answers]

    assert asyncio.run(drive()) == ["late", "late", "suspect", "suspect"]


def test_a_closed_member_is_done_with_its_query(tmp_path: Path) -> None:
    """A thread that still holds one when the interpreter ends would abort the process."""
    from edgevit.fleet.member import serving
    from tests.fleet.lab import fleetlab

    plan = fleetlab.synthetic_plan(tmp_path / "plan", 1, listen="127.0.0.1:1")
    session = open_session(local_config(), "opening")
    started = threading.Event()

    def compute(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        started.set()
        time.sleep(0.5)
        return np.zeros(16, np.float32)

    member = serving(session, "lab", plan, "m0", compute)
    member.open()
    payload = fleetlab.picture(0)
    header = Request(1, 5, "raw", member.digest).pack(digest_of(payload))
    asked = [session.get(infer_key("lab", "m0"), payload=payload, attachment=header, timeout=5) for _ in range(3)]
    assert started.wait(5)
    start = time.monotonic()
    member.close()
    assert time.monotonic() - start < 1, "what waits behind the one in work is not computed any more"
    assert not [thread.name for thread in threading.enumerate() if thread.name.endswith("-m0")]
    assert [sum(1 for reply in one if reply.ok is not None) for one in asked] == [1, 0, 0]
    session.close()


def test_a_member_on_a_32_bit_system_says_that_it_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgevit.errors import EnvironmentIncomplete, MissingDependency
    from edgevit.fleet import member

    def missing(path: Path) -> None:
        raise MissingDependency("onnxruntime", "running .onnx files", extra="onnx")

    monkeypatch.setattr(member, "find_backend", lambda name: type("Backend", (), {"load": staticmethod(missing)}))
    with pytest.raises(MissingDependency):
        member._runner("onnx", Path("x.onnx"))
    monkeypatch.setattr(member.sys, "maxsize", (1 << 31) - 1)
    with pytest.raises(EnvironmentIncomplete, match="this is a 32-bit system") as caught:
        member._runner("onnx", Path("x.onnx"))
    assert "64-bit Raspberry Pi OS" in caught.value.cure
