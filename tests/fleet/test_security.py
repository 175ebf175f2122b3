"""Who is let in, and what each may do: every attempt is made for real against a running fleet."""

from __future__ import annotations

import datetime
import json
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zenoh

from edgevit.core.certificates import issue
from edgevit.errors import BadFile, UsageError
from edgevit.fleet.certificates import make_certificates
from edgevit.fleet.clients import FleetClient
from edgevit.fleet.config import CLIENT, Security, check_address, client_config, member_config
from edgevit.fleet.member import serving
from edgevit.fleet.wire import alive_key, all_alive, infer_key, member_digest
from edgevit.schema.plan import read_fleet, read_plan
from tests.conftest import cli
from tests.fleet.lab import Lab, fleetlab, lab

pytestmark = pytest.mark.system

PATIENCE = 2.5


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("fleet"), 3) as fleet:
        yield fleet


@contextmanager
def session(config: dict[str, Any]) -> Iterator[Any]:
    opened = zenoh.open(zenoh.Config.from_json5(json.dumps(config)))
    try:
        yield opened
    finally:
        opened.close()


def tokens_seen(opened: Any, fleet: Lab) -> int:
    found = opened.liveliness().get(all_alive(fleet.running.fleet.name), timeout=1.0)
    return sum(reply.ok is not None for reply in found)


def replies(opened: Any, key: str) -> int:
    return sum(reply.ok is not None for reply in opened.get(key, timeout=1.0))


def as_client(fleet: Lab, certs: Path) -> dict[str, Any]:
    return client_config(fleet.address, Security(certs, fleet.transport))


def without_certificate(fleet: Lab, scratch: Path) -> dict[str, Any]:
    config = as_client(fleet, fleet.certs)
    tls = config["transport"]["link"]["tls"]
    for name in [key for key in tls if key.startswith(("listen", "connect"))]:
        del tls[name]
    tls["enable_mtls"] = False
    return config


def of_another_authority(fleet: Lab, scratch: Path) -> dict[str, Any]:
    make_certificates(fleet.running.fleet, scratch)
    (scratch / "ca.pem").write_bytes((fleet.certs / "ca.pem").read_bytes())
    return as_client(fleet, scratch)


def trusting_another_authority(fleet: Lab, scratch: Path) -> dict[str, Any]:
    make_certificates(fleet.running.fleet, scratch)
    for leaf in ("client.pem", "client.key"):
        (scratch / leaf).write_bytes((fleet.certs / leaf).read_bytes())
    return as_client(fleet, scratch)


def plain(fleet: Lab, scratch: Path) -> dict[str, Any]:
    return client_config(fleet.address, Security())


@pytest.mark.parametrize(
    "attempt", [without_certificate, of_another_authority, trusting_another_authority, plain], ids=lambda f: f.__name__
)
def test_nobody_gets_in_without_a_certificate_of_the_fleet(attempt: Any, secured: Lab, tmp_path: Path) -> None:
    with pytest.raises(zenoh.ZError), session(attempt(secured, tmp_path / "certs")):
        pass
    secured.drive(3)


def test_a_client_may_ask_and_see(secured: Lab) -> None:
    fleet = secured.running.fleet
    with FleetClient(fleet, secured.address, Security(secured.certs, secured.transport)) as client:
        said = client.status()
        assert [one["state"] for one in said["members"]] == ["healthy"] * 3
        answer = client.ask(fleetlab.picture(7), "raw", 5)
        assert answer["classes"][0]["label"] == "7"
        assert set(answer["members"].values()) == {"answered"}
    secured.counted += 1


def test_over_tcp_the_same_holds(tmp_path: Path) -> None:
    with lab(tmp_path, 2, transport="tls") as fleet:
        for number, attempt in enumerate((without_certificate, of_another_authority, plain)):
            with pytest.raises(zenoh.ZError), session(attempt(fleet, tmp_path / str(number))):
                pass
        with FleetClient(fleet.running.fleet, fleet.address, Security(fleet.certs, "tls")) as client:
            assert [one["state"] for one in client.status()["members"]] == ["healthy"] * 2
        fleet.drive(3)


def test_a_client_reaches_no_member(secured: Lab) -> None:
    with session(as_client(secured, secured.certs)) as client:
        assert tokens_seen(client, secured) == 0
        assert replies(client, f"edgevit/{secured.running.fleet.name}/m0/status") == 0


def test_a_stranger_whom_the_authority_signed_sees_nothing(secured: Lab, tmp_path: Path) -> None:
    from edgevit.core.certificates import read_issued

    authority = read_issued(secured.certs / "ca.pem", secured.certs / "ca.key")
    guest = issue("guest", ["guest"], valid=datetime.timedelta(days=1), purpose="a test", issuer=authority)
    guest.write(tmp_path / "client.pem", tmp_path / "client.key")
    (tmp_path / "ca.pem").write_bytes((secured.certs / "ca.pem").read_bytes())
    with session(as_client(secured, tmp_path)) as stranger:
        assert tokens_seen(stranger, secured) == 0
        assert replies(stranger, f"edgevit/{secured.running.fleet.name}/*/status") == 0


def test_a_member_cannot_answer_for_another(secured: Lab) -> None:
    """m1's certificate is valid; m2 is away, and m1 claims to be m2."""
    fleet, plan = secured.running.fleet, read_plan(secured.plan)
    secured.lose("m2")
    config = member_config(fleet, "m1", secured.address, Security(secured.certs, secured.transport))
    del config["access_control"]  # its own side does not stop it
    impostor = fleetlab.Behaviour(0, "normal", 16)
    with session(config) as opened:
        claimed = serving(opened, fleet.name, plan, "m2", impostor.compute)
        claimed.open()
        time.sleep(PATIENCE)
        answers = secured.drive(20)
        assert secured.running.health["m2"].state == "absent"
        assert {answer.members["m2"] for answer in answers} == {"absent"}
        assert claimed.counts.answered == 0
    secured.start("m2")
    secured.back("m2", 20)


def test_a_client_cannot_be_a_member(secured: Lab) -> None:
    fleet, plan = secured.running.fleet, read_plan(secured.plan)
    secured.lose("m0")
    with session(as_client(secured, secured.certs)) as client:
        digest = member_digest(plan, "m0").hex()
        token = client.liveliness().declare_token(alive_key(fleet.name, "m0", digest))
        asked: list[object] = []
        queryable = client.declare_queryable(infer_key(fleet.name, "m0"), lambda query: asked.append(query))
        client.put(infer_key(fleet.name, "m0"), b"x")
        time.sleep(PATIENCE)
        assert secured.running.health["m0"].state == "absent"
        secured.drive(5)
        assert not asked
        token.undeclare()
        queryable.undeclare()
    secured.start("m0")
    secured.back("m0", 20)


def test_a_member_cannot_ask_another(secured: Lab) -> None:
    fleet = secured.running.fleet
    config = as_client(secured, secured.certs)
    for side in ("listen", "connect"):
        for what, suffix in (("certificate", "pem"), ("private_key", "key")):
            config["transport"]["link"]["tls"][f"{side}_{what}"] = str(secured.certs / f"m1.{suffix}")
    with session(config) as opened:
        time.sleep(1)
        assert secured.running.health["m0"].state == "healthy"
        assert replies(opened, f"edgevit/{fleet.name}/m0/status") == 0


@pytest.mark.parametrize("address", ["192.0.2.7:7447", "example.org:7447", "0.0.0.0:7447", "[2001:db8::1]:7447"])
def test_plain_connections_stay_on_this_machine_unless_asked(address: str) -> None:
    with pytest.raises(UsageError, match="nothing protects"):
        check_address(address, Security())
    check_address(address, Security(insecure=True))
    check_address(address, Security(certs=Path("certs")))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost:1", "[::1]:1"])
def test_loopback_needs_nothing(address: str) -> None:
    check_address(address, Security())


def test_the_commands_refuse_an_unprotected_address(tmp_path: Path) -> None:
    fleetlab.synthetic_plan(tmp_path / "plan", 2, listen="0.0.0.0:7447")
    for command in (
        ["fleet", "run", tmp_path / "plan", "--input", tmp_path],
        ["fleet", "status", tmp_path / "plan"],
        ["fleet", "serve", tmp_path / "plan", "--member", "m0"],
    ):
        done = cli(*command)
        assert done.returncode == 2, done.stderr
        assert "nothing protects the connection" in done.stderr
        assert "edgevit fleet certs" in done.stderr


def test_a_role_without_its_files_says_which(tmp_path: Path) -> None:
    fleetlab.synthetic_plan(tmp_path / "plan", 2, listen="127.0.0.1:7447")
    fleet = read_fleet(tmp_path / "plan/fleet.toml")
    make_certificates(fleet, tmp_path / "certs")
    (tmp_path / "certs/m0.key").unlink()
    with pytest.raises(BadFile, match=r"no m0\.key"):
        member_config(fleet, "m0", fleet.listen, Security(tmp_path / "certs"))


def test_certificates_stay_until_they_end_and_keys_are_private(tmp_path: Path) -> None:
    fleetlab.synthetic_plan(tmp_path / "plan", 2, listen="127.0.0.1:7447")
    fleet = read_fleet(tmp_path / "plan/fleet.toml")
    first = make_certificates(fleet, tmp_path / "certs")
    assert all(one.made for one in first)
    assert {one.name for one in first} == {"ca", "coordinator", CLIENT, "m0", "m1"}
    for key in (tmp_path / "certs").glob("*.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert not any(one.made for one in make_certificates(fleet, tmp_path / "certs"))
    (tmp_path / "certs/m1.pem").unlink()
    assert [one.name for one in make_certificates(fleet, tmp_path / "certs") if one.made] == ["m1"]
    renewed = make_certificates(fleet, tmp_path / "certs", renew=True)
    assert [one.name for one in renewed if not one.made] == ["ca"]
    make_certificates(fleet, tmp_path / "soon", days=5)
    assert sum(one.made for one in make_certificates(fleet, tmp_path / "soon")) == 4
    (tmp_path / "certs/ca.key").unlink()
    with pytest.raises(BadFile, match="half an authority"):
        make_certificates(fleet, tmp_path / "certs")
