"""Certificates and clocks: what is refused before anything is dialled, and what a member says while it is not connected."""

from __future__ import annotations

import datetime
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgevit.core.certificates import issue, read_issued
from edgevit.errors import BadFile, DeviceUnreachable, UsageError
from edgevit.fleet.certificates import AUTHORITY_DAYS, make_certificates
from edgevit.fleet.clients import FleetClient, member_states
from edgevit.fleet.config import COORDINATOR, Security, check_address, client_config, member_config
from edgevit.fleet.reach import reason, why_not_connected
from edgevit.fleet.running import FleetOptions, RunningFleet
from edgevit.fleet.serve import serve
from edgevit.fleet.status import fleet_status
from edgevit.fleet.trust import check_role, not_covered
from edgevit.schema.plan import Fleet, read_fleet
from tests.conftest import cli
from tests.fleet.lab import fleetlab, free_port

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan of two members and its certificates; copied, never changed."""
    folder = tmp_path_factory.mktemp("trust")
    fleetlab.synthetic_plan(folder / "plan", 2, listen="127.0.0.1:7447")
    make_certificates(read_fleet(folder / "plan/fleet.toml"), folder / "certs")
    return folder


@pytest.fixture
def made(shared: Path, tmp_path: Path) -> Path:
    shutil.copytree(shared, tmp_path / "made")
    return tmp_path / "made"


def fleet_of(made: Path) -> Fleet:
    return read_fleet(made / "plan/fleet.toml")


def reissue(made: Path, name: str, *, until: datetime.timedelta, early: datetime.timedelta = DAY, **further: object):  # type: ignore[no-untyped-def]
    """A certificate of the authority with other dates."""
    certs = made / "certs"
    authority = read_issued(certs / "ca.pem", certs / "ca.key")
    names = further.pop("names", [name, "localhost", "127.0.0.1"])
    found = issue(further.pop("subject", name), names, valid=until, purpose="a test", issuer=authority, early=early)  # type: ignore[arg-type]
    found.write(certs / f"{name}.pem", certs / f"{name}.key")


def ended(made: Path) -> None:
    reissue(made, "m0", until=-2 * DAY, early=9 * DAY)


def future(made: Path) -> None:
    reissue(made, "m0", until=9 * DAY, early=-2 * DAY)


def of_another_name(made: Path) -> None:
    for suffix in ("pem", "key"):
        shutil.copy(made / f"certs/m1.{suffix}", made / f"certs/m0.{suffix}")


def foreign_key(made: Path) -> None:
    shutil.copy(made / "certs/m1.key", made / "certs/m0.key")


def of_another_authority(made: Path) -> None:
    make_certificates(fleet_of(made), made / "other")
    shutil.copy(made / "other/ca.pem", made / "certs/ca.pem")


def ended_authority(made: Path) -> None:
    shutil.rmtree(made / "certs")
    make_certificates(fleet_of(made), made / "certs", now=NOW - (AUTHORITY_DAYS + 1) * DAY)
    authority = read_issued(made / "certs/ca.pem", made / "certs/ca.key")
    assert authority.certificate.not_valid_after_utc < NOW


def with_a_passphrase(made: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    path = made / "certs/m0.key"
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    locked = serialization.BestAvailableEncryption(b"secret")
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked))


def no_certificate(made: Path) -> None:
    (made / "certs/m0.pem").write_text("hello")


@pytest.mark.parametrize(
    ("change", "said", "where", "cure"),
    [
        (ended, "m0.pem is not valid any more", "valid until", "--renew"),
        (future, "m0.pem is not valid yet: most likely this machine's clock", "valid from", "timedatectl"),
        (of_another_name, "m0.pem is the certificate of m1, not of m0", "m0.pem", "copy m0.pem and m0.key"),
        (foreign_key, "m0.key does not belong to m0.pem", "m0.key", "copy both"),
        (of_another_authority, "signed by another authority", "certs", "from one folder"),
        (ended_authority, "m0.pem is not valid any more", "valid until", "--renew"),
        (with_a_passphrase, "m0.key is protected by a passphrase", "m0.key", "--renew"),
        (no_certificate, "m0.pem is not a certificate", "m0.pem", "edgevit fleet certs"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_member_that_would_be_refused_says_so_before_it_dials(
    change: object, said: str, where: str, cure: str, made: Path
) -> None:
    change(made)  # type: ignore[operator]
    told: list[str] = []
    with pytest.raises(BadFile) as caught:
        serve(made / "plan", "m0", security=Security(made / "certs"), compute=lambda _: None, notice=told.append)  # type: ignore[arg-type, return-value]
    assert said in caught.value.message
    assert where in caught.value.where
    assert cure in caught.value.cure
    assert told == [], "it does not say ready, or anything else"


def test_dates_and_this_machines_clock_are_both_said_in_three_lines(made: Path) -> None:
    ended(made)
    (made / "certs/ca.key").rename(made / "ca.key")
    done = cli("fleet", "serve", made / "plan", "--member", "m0", "--certs", made / "certs")
    assert done.returncode == 2
    first, second, third = done.stderr.strip().splitlines()
    assert first == "error: m0.pem is not valid any more"
    assert f"valid until {NOW - 2 * DAY:%Y-%m-%d}" in second
    assert f"this machine's clock says {NOW:%Y-%m-%d}" in second
    assert f"edgevit fleet certs {made / 'plan'} --out DIR --renew; then copy m0.pem and m0.key here" in third


@pytest.mark.parametrize("year", [1970, 2019])
def test_a_clock_without_a_battery_is_named_as_the_cause(year: int, made: Path) -> None:
    now = datetime.datetime(year, 1, 1, 0, 1, tzinfo=datetime.UTC)
    with pytest.raises(BadFile, match="clock is wrong") as caught:
        check_role(made / "certs", "m0", now=now)
    assert f"this machine's clock says {year}-01-01 00:01 UTC" in caught.value.where
    assert "timedatectl" in caught.value.cure


def test_a_clock_that_is_some_weeks_slow_is_good_enough(made: Path) -> None:
    check_role(made / "certs", "m0", now=NOW - 28 * DAY)


def test_the_end_is_warned_of_two_weeks_before(made: Path) -> None:
    found = check_role(made / "certs", "m0", plan=made / "plan")
    assert found.warning() == ""
    assert found.warning(found.ends - 15 * DAY) == ""
    assert "ends in 13 day(s)" in found.warning(found.ends - 13 * DAY)
    assert f"edgevit fleet certs {made / 'plan'} --out {made / 'certs'} --renew" in found.warning(found.ends - DAY)
    assert "no connection is accepted any more" in found.warning(found.ends)
    assert not found.ended(found.ends - DAY)
    assert found.ended(found.ends)


def test_the_cure_for_an_ended_certificate_is_true(made: Path) -> None:
    ended(made)
    with pytest.raises(BadFile) as caught:
        check_role(made / "certs", "m0", plan=made / "plan")
    words = caught.value.cure.partition("edgevit ")[2].split()
    assert cli(*words).returncode == 0
    check_role(made / "certs", "m0")


@pytest.mark.parametrize("role", ["coordinator", "client"])
def test_the_one_who_asks_is_checked_too(role: str, made: Path) -> None:
    reissue(made, role, until=-2 * DAY, early=9 * DAY)
    security, plan = Security(made / "certs"), made / "plan"
    with pytest.raises(BadFile, match=f"{role}.pem is not valid any more"):
        if role == "client":
            FleetClient(fleet_of(made), "127.0.0.1:9", security)
        else:
            RunningFleet(plan, FleetOptions(security=security))
    commands = [["fleet", "status", plan]] if role == "client" else [["fleet", "run", plan, "--input", plan]]
    for command in commands:
        done = cli(*command, "--certs", made / "certs")
        assert done.returncode == 2, done.stderr
        assert f"{role}.pem is not valid any more" in done.stderr


def test_certificates_that_could_not_be_used_are_made_again(made: Path) -> None:
    fleet = fleet_of(made)
    for change in (ended, future, of_another_name, foreign_key, with_a_passphrase):
        change(made)
        assert [one.name for one in make_certificates(fleet, made / "certs") if one.made] == ["m0"], change.__name__
        check_role(made / "certs", "m0")


@pytest.mark.parametrize("foreign", ["certificate", "anything"])
@pytest.mark.parametrize("fresh", [False, True])
def test_what_this_authority_did_not_make_is_not_replaced(foreign: str, fresh: bool, made: Path) -> None:
    certs, fleet = made / "certs", fleet_of(made)
    make_certificates(fleet, made / "other")
    text = (made / "other/m1.pem").read_bytes() if foreign == "certificate" else b"hello"
    if fresh:
        shutil.rmtree(certs)
        certs.mkdir()
    (certs / "m1.pem").write_bytes(text)
    (certs / "m1.key").write_bytes(b"precious")
    before = {path.name: path.read_bytes() for path in certs.iterdir()}
    with pytest.raises(BadFile, match=r"m1\.pem is there and not of this authority") as caught:
        make_certificates(fleet, certs, renew=True)
    assert {path.name: path.read_bytes() for path in certs.iterdir()} == before, "nothing was written"
    assert caught.value.cure.startswith(f"mv {certs}/m1.*")


def test_no_certificate_outlives_its_authority_and_an_ended_one_signs_nothing(tmp_path: Path, made: Path) -> None:
    fleet = fleet_of(made)
    long_ago = NOW - (AUTHORITY_DAYS - 100) * DAY
    make_certificates(fleet, tmp_path / "old", now=long_ago)
    found = make_certificates(fleet, tmp_path / "old", days=365)
    assert {one.until for one in found} == {found[0].until}, "all end with the authority"
    assert "the authority ends at" in found[0].note
    assert [one.note for one in make_certificates(fleet, made / "certs") if one.note] == []
    with pytest.raises(BadFile, match="the authority is not valid any more"):
        make_certificates(fleet, tmp_path / "old", now=NOW + 101 * DAY)
    with pytest.raises(BadFile, match="the authority is not valid yet"):
        make_certificates(fleet, tmp_path / "old", now=long_ago - 40 * DAY)
    shutil.copy(made / "certs/ca.key", tmp_path / "old/ca.key")
    with pytest.raises(BadFile, match=r"ca\.key does not belong to ca\.pem"):
        make_certificates(fleet, tmp_path / "old")


def test_the_coordinator_has_a_certificate_for_every_name_that_is_dialled(tmp_path: Path) -> None:
    fleet = Fleet.model_validate({"name": "lab", "listen": "0.0.0.0:7447", "member": [{"name": "m0"}]})
    make_certificates(fleet, tmp_path, hosts=["192.168.1.10", "hub.local"])
    assert not_covered(tmp_path, "192.168.1.10:7447") == ""
    assert not_covered(tmp_path, "0.0.0.0:7447") == ""
    assert "members that dial 10.0.0.9" in not_covered(tmp_path, "10.0.0.9:7447")
    make_certificates(fleet, tmp_path, renew=True)
    assert not_covered(tmp_path, "hub.local:7447") == "", "a renewal keeps what was asked for before"
    found = make_certificates(fleet, tmp_path, hosts=["10.0.0.9"])
    assert [one.name for one in found if one.made] == [COORDINATOR]
    assert not_covered(tmp_path, "10.0.0.9:7447") == ""


def test_the_command_says_from_when_to_when(made: Path) -> None:
    done = cli("fleet", "certs", made / "plan", "--out", made / "certs")
    assert done.returncode == 0
    assert f"{NOW + 365 * DAY:%Y-%m-%d}" in done.stdout
    assert "valid from" in done.stdout
    short = cli("fleet", "certs", made / "plan", "--out", made / "certs", "--renew", "--days", 3)
    assert short.stderr.count("ends at") == 4


def test_a_new_key_is_private_where_the_old_one_was_not(made: Path) -> None:
    key = made / "certs/m0.key"
    key.chmod(0o644)
    make_certificates(fleet_of(made), made / "certs", renew=True)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert not list((made / "certs").glob(".*"))


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("", "UDP port 7 through"),
        ("deadline has elapsed at /root/x.rs:901.. Retry in 200ms.", "nothing answers there"),
        ("[10.0.0.1:7: Connection refused (os error 111) at /x.rs:1.]", "nothing listens there"),
        ("error 45: invalid peer certificate: certificate expired: verification time 1", "clock is wrong"),
        ("invalid peer certificate: BadSignature at /x.rs:5.", "another authority"),
        ("invalid peer certificate: UnknownIssuer", "another authority"),
        ('invalid peer certificate: certificate not valid for name "10.0.0.1"', "--host 10.0.0.1"),
        ("Read error on QUIC link a => b: connection lost at /x.rs:135.", "ended the connection at once"),
        ("failed to lookup address information: Name or service not known", "there is no host"),
        ("something new at /root/.cargo/x.rs:7.. Retry in 200ms.", "something new"),
    ],
)
def test_the_engines_log_is_told_in_words(log: str, said: str) -> None:
    line = f"2026 DEBUG Unable to connect to configured peer quic/10.0.0.1:7! {log}\n" if log else ""
    found = reason(line, "quic/10.0.0.1:7")
    assert said in found
    assert ".rs:" not in found
    assert "\n" not in found


@dataclass
class Told:
    """What a member in this process says."""

    lines: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    problem: BaseException | None = None

    def __call__(self, text: str) -> None:
        with self.changed:
            self.lines.append(text)
            self.changed.notify_all()

    def until(self, text: str, seconds: float = 20) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: any(text in line for line in self.lines), seconds), self.lines


@contextmanager
def member(made: Path, address: str, security: Security, name: str = "m0") -> Iterator[Told]:
    """`fleet serve` in a thread."""
    told, stop = Told(), threading.Event()

    def run() -> None:
        try:
            compute = fleetlab.Behaviour(0, "normal", 16).compute
            serve(made / "plan", name, address=address, security=security, compute=compute, stop=stop, notice=told)
        except BaseException as error:
            told.problem = error
            told(f"ended: {error}")

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield told
    finally:
        stop.set()
        thread.join(20)


def again(made: Path, options: FleetOptions) -> RunningFleet:
    """A coordinator on a port that another one of this process has just left: the engine lets go of it a little later."""
    ends = time.monotonic() + 10
    while True:
        try:
            return RunningFleet(made / "plan", options)
        except UsageError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.1)


def test_ready_is_said_once_there_is_a_connection_and_its_loss_too(made: Path) -> None:
    # Over TCP: the engine keeps a QUIC listener's port for as long as the process lives.
    address, security = f"127.0.0.1:{free_port()}", Security(made / "certs", "tls")
    with member(made, address, security) as told:
        told.until(f"not connected yet: dialling the coordinator at {address}")
        assert not [line for line in told.lines if "ready" in line]
        with RunningFleet(made / "plan", FleetOptions(address=address, security=security)) as fleet:
            told.until(f"m0: ready, connected to the coordinator at {address}")
            assert fleet.wait_for(1, 10)
            assert fleet.absences()["m1"].startswith("m1: is not connected")
            ended_copy = made / "certs"
            reissue(made, "m1", until=-2 * DAY, early=9 * DAY)
            assert f"m1.pem is not valid any more, {ended_copy / 'm1.pem'}: valid until" in fleet.absences()["m1"]
        told.until("is lost; dialling again")
        told.lines.clear()
        with again(made, FleetOptions(address=address, security=security)):
            told.until("m0: ready")


def test_a_member_whose_coordinator_refuses_it_says_why(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own files fit together; the coordinator's are of another authority."""
    monkeypatch.setattr("edgevit.fleet.reach._PATIENCE_S", (0.2, 600.0))
    make_certificates(fleet_of(made), made / "other")
    address = f"127.0.0.1:{free_port()}"
    with (
        RunningFleet(made / "plan", FleetOptions(address=address, security=Security(made / "other"))) as fleet,
        member(made, address, Security(made / "certs")) as told,
    ):
        told.until("a certificate of another authority than ca.pem here")
        assert not [line for line in told.lines if "ready" in line]
        with pytest.raises(DeviceUnreachable) as caught:
            fleet.gather(0.1)
    assert "m0: is not connected" in caught.value.where


def test_a_certificate_that_ends_while_it_is_used_is_noticed_or_renewed(made: Path) -> None:
    address, certs = f"127.0.0.1:{free_port()}", made / "certs"
    seconds = datetime.timedelta(seconds=2)
    reissue(made, "m0", until=seconds)
    told_here: list[str] = []
    reissue(made, "coordinator", until=seconds)
    options = FleetOptions(address=address, security=Security(certs))
    with (
        RunningFleet(made / "plan", options, told_here.append),
        member(made, address, Security(certs)) as renewed,
    ):
        renewed.until("m0: ready")
        renewed.until("warning: ")
        reissue(made, "m0", until=DAY)  # before it ends
        renewed.until(f"ends in 24.0 hours, at {check_role(certs, 'm0').ends:%Y-%m-%d}")
        assert renewed.problem is None, "new files are taken"
        ends = time.monotonic() + 10
        while not any("coordinator.pem ended" in line for line in told_here) and time.monotonic() < ends:
            time.sleep(0.05)
        assert any("coordinator.pem ended" in line and "start again" in line for line in told_here)
    reissue(made, "m0", until=datetime.timedelta(seconds=1))
    with member(made, address, Security(certs)) as over:
        over.until("ended: m0.pem is not valid any more")
    assert isinstance(over.problem, BadFile)


def test_two_devices_under_one_name_are_noticed(made: Path) -> None:
    address, told = f"127.0.0.1:{free_port()}", []
    options = FleetOptions(address=address, encoding="raw")
    with (
        RunningFleet(made / "plan", options, told.append) as fleet,
        member(made, address, Security()) as first,
        member(made, address, Security()) as second,
    ):
        first.until("m0: ready")
        second.until("m0: ready")
        from edgevit.fleet.frames import Frame

        with member(made, address, Security(), "m1") as other:
            other.until("m1: ready")
            assert fleet.wait_for(2, 10)
            ends = time.monotonic() + 15
            while not any("m0 answers twice" in line for line in told) and time.monotonic() < ends:
                fleet.ask(Frame("", fleetlab.picture(1), "raw")).result(10)
        assert any("m0 answers twice" in line for line in told)
        state = next(one for one in member_states(fleet) if one.member == "m0")
        assert state.said["host"]


def test_a_client_is_told_why_nobody_can_be_reached(made: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    done = cli("fleet", "run", made / "plan", "--client", "--listen", address, "--input", made)
    assert done.returncode == 6
    assert "cannot be reached" in done.stderr
    assert "nothing listens there" in done.stderr
    assert ".rs:" not in done.stderr


def test_what_is_not_the_coordinators_host_is_named(made: Path) -> None:
    address, security = f"127.0.0.1:{free_port()}", Security(made / "certs")
    reissue(made, "coordinator", until=DAY, names=["hub.local"])
    with RunningFleet(made / "plan", FleetOptions(address=address, security=security)):
        config = member_config(fleet_of(made), "m0", address, security)
        assert "--host 127.0.0.1" in why_not_connected(config)
        plain = client_config(address, Security())
    assert why_not_connected(plain) != ""


def test_status_beside_a_coordinator_that_refuses_says_so(made: Path) -> None:
    """It cannot listen in the coordinator's place, and that is not what is wrong."""
    make_certificates(fleet_of(made), made / "other")
    address = f"127.0.0.1:{free_port()}"
    with (
        RunningFleet(made / "plan", FleetOptions(address=address, security=Security(made / "other", "tls"))),
        pytest.raises(DeviceUnreachable, match="cannot be reached") as caught,
    ):
        fleet_status(made / "plan", address=address, security=Security(made / "certs", "tls"))
    assert "another authority" in caught.value.where
    assert "in use" in caught.value.where


@pytest.mark.parametrize("address", ["abc", "1.2.3.4", "1.2.3.4:0", "1.2.3.4:99999", "::1:7447", "a b:1", ""])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="is no address"):
        check_address(address, Security(insecure=True))
