"""Profiling over a real sshd, and everything that goes wrong on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgevit.bundle.read import read_bundle
from edgevit.devices.base import Reach, open_device
from edgevit.devices.kinds.ssh import parse_address
from edgevit.errors import DeviceFailed, DeviceUnreachable, UsageError
from edgevit.profiling.contract import Settings
from edgevit.profiling.measure import profile
from tests.conftest import Exported, cli, cli_json
from tests.devices.fakes import plant
from tests.devices.services import Server, client_config, eventually, sshd

pytestmark = pytest.mark.system

QUICK = Settings(threads=1, runs=30, seconds=2, least_seconds=0.3, warmup_window_s=0.1, warmup_limit_s=5)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with sshd(tmp_path / "ssh") as running:
        yield running


def reach(server: Server, config: Path | None = None) -> Reach:
    return Reach(ssh_config=config or server.config)


def faulty(server: Server, bundle: Path, fault: str, settings: Settings = QUICK) -> DeviceUnreachable:
    plant(server.own, fault)
    device = open_device(server.uri, reach(server))
    try:
        with pytest.raises(DeviceUnreachable) as caught:
            profile(read_bundle(bundle), device, settings)
    finally:
        device.close()
    return caught.value


@pytest.mark.parametrize("target", ["onnx", "litert"])
def test_a_bundle_is_profiled_and_its_answers_are_compared(server: Server, exported: Exported, target: str) -> None:
    bundle = read_bundle(exported(target=target))
    device = open_device(server.uri, reach(server))
    found = profile(bundle, device, Settings(**{**vars(QUICK), "per_op": True}))
    device.close()
    assert found.answers is not None and found.answers.equal and found.answers.probes == 6
    assert found.latency is not None and found.latency.runs >= 30 and found.latency.low <= found.latency.median
    assert found.first_ms and found.load_ms and found.memory.peak and found.memory.model
    assert not found.emulated and found.device.uri == server.uri
    assert {one.phase for one in found.conditions} >= {"before", "after"}
    assert sum(row.us for row in found.operators) > 0 and len(found.operators) > 10


def test_the_command_line_reports_in_every_form(server: Server, exported: Exported, tmp_path: Path) -> None:
    page, table, data = tmp_path / "p.html", tmp_path / "p.md", tmp_path / "p.json"
    arguments = ["profile", exported(), "-d", server.uri, "--ssh-config", server.config, "--seconds", "1"]
    document = cli_json(
        *arguments, "--allow-noisy", "--report", page, "--report", table, "--report", data, "--evaluate", "digits:test"
    )
    assert document["schema_version"] == 1
    one = document["profiles"][0]
    assert one["latency"]["median"] > 0 and one["artifact"]["accuracy"] > 0.9
    assert "<svg" in page.read_text() and "http" not in page.read_text().replace("http-equiv", "")
    assert "tinyvit_digits onnx-fp32" in table.read_text()
    assert json.loads(data.read_text())["profiles"][0]["artifact"] == one["artifact"]


def test_two_bundles_run_in_turns(server: Server, exported: Exported) -> None:
    found = cli_json(
        "compare", exported(), exported(target="litert"), "-d", server.uri, "--ssh-config", server.config,
        "--seconds", "1", "--threads", "1", "--allow-noisy",
    )["comparison"]  # fmt: skip
    assert found["low"] <= found["ratio"] <= found["high"]
    assert found["pairs"] >= 20 and found["ratio"] == pytest.approx(found["b_ms"] / found["a_ms"], rel=0.2)


def test_what_is_deployed_is_sent_once_and_can_be_removed(server: Server, exported: Exported) -> None:
    sent: list[str] = []
    for _ in range(2):
        device = open_device(server.uri, Reach(ssh_config=server.config, announce=sent.append))
        profile(read_bundle(exported()), device, QUICK)
        device.close()
    assert len([text for text in sent if text.startswith("sending")]) == 1
    names = sorted(path.name.partition("-")[2] for path in (server.own / "files").iterdir())
    assert names == ["inputs.safetensors", "runner.py", "tinyvit_digits.onnx"]
    done = cli("devices", server.uri, "--clean", "--ssh-config", server.config)
    assert done.returncode == 0 and "removed" in done.stdout and not server.own.exists()


def test_a_device_says_what_it_is(server: Server) -> None:
    found = cli_json("devices", server.uri, "--ssh-config", server.config)
    assert found["device"]["machine"] == os.uname().machine and found["device"]["emulator"] == ""
    assert "onnxruntime" in found["runtimes"]


def three_lines(text: str) -> None:
    lines = [line for line in text.splitlines() if line.strip()]
    assert len(lines) <= 3 and lines[0].startswith("error:") and "Traceback" not in text, text


@pytest.mark.parametrize(
    ("change", "said", "cure"),
    [
        ("unknown", "is not known yet", "accept it once: ssh -F"),
        ("changed", "has changed", "ssh-keygen -R '[127.0.0.1]:"),
        ("refused", "refused the login", "ssh-copy-id -F"),
        ("locked", "is protected by a passphrase, and no agent holds it", "ssh-add "),
        ("keyless", "this computer has no SSH key", "ssh-keygen -t ed25519"),
        ("open", "that others can read", "chmod 600 "),
        ("closed", "does not listen for SSH", "raspi-config"),
    ],
)
def test_a_refused_connection_says_why(server: Server, exported: Exported, change: str, said: str, cure: str) -> None:
    config, uri = server.config, server.uri
    if change == "unknown":
        (server.folder / "empty").write_text("")
        config = client_config(server.folder, known="empty")
    elif change == "changed":
        other = (server.folder / "other.pub").read_text()
        (server.folder / "old").write_text(f"[127.0.0.1]:{server.port} {other}")
        config = client_config(server.folder, known="old")
    elif change == "refused":
        config = client_config(server.folder, key="other")
    elif change == "locked":
        # the very key that is known there: nothing has to be copied
        subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", server.folder / "user"], check=True)
        cure = f"ssh-add {server.folder / 'user'}"
    elif change == "keyless":
        config = client_config(server.folder, key="nowhere")
    elif change == "open":
        (server.folder / "user").chmod(0o644)
        cure = f"chmod 600 {server.folder / 'user'}"
    else:
        uri = "ssh://127.0.0.1:1"
    done = cli("profile", exported(), "-d", uri, "--ssh-config", config)
    assert done.returncode == 6
    assert said in done.stderr and cure in done.stderr
    if change == "changed":
        assert f"-f {server.folder / 'old'}" in done.stderr, "where the old key is"
    three_lines(done.stderr)


def test_a_host_that_does_not_exist(exported: Exported) -> None:
    done = cli("profile", exported(), "-d", "ssh://pi@no-such-host.invalid")
    assert done.returncode == 6 and "there is no host" in done.stderr
    three_lines(done.stderr)


@pytest.mark.parametrize(
    "uri", ["ssh://", "ssh://-oProxyCommand=x", "ssh://-l@host", "ssh://a:b@host", "ssh://host/path", "ssh://h:99999"]
)
def test_a_bad_address_is_refused_before_ssh_sees_it(uri: str) -> None:
    with pytest.raises((UsageError, ValueError)):
        open_device(uri, Reach())
    assert cli("devices", uri).returncode == 2


def test_addresses() -> None:
    address = parse_address("ssh://pi@raspberrypi.local:2222")
    assert (address.target, address.port) == ("pi@raspberrypi.local", 2222)


def test_no_runtime_on_the_device(tmp_path: Path, exported: Exported) -> None:
    with sshd(tmp_path / "ssh", python="/usr/bin/python3") as server:
        found = cli("profile", exported(), "-d", server.uri, "--ssh-config", server.config)
    assert found.returncode == 6 and "cannot be imported" in found.stderr and "--install-runtime" in found.stderr


def test_a_runtime_is_installed_beside_the_devices_python(tmp_path: Path, exported: Exported) -> None:
    def packages() -> set[Path]:
        return set(Path("/usr/lib/python3/dist-packages").glob("*")) | set(Path("/usr/local/lib").glob("python3*/*/*"))

    before = packages()
    with sshd(tmp_path / "ssh", python="/usr/bin/python3") as server:
        found = cli_json(
            "profile", exported(), exported(target="executorch"), "-d", server.uri, "--ssh-config", server.config,
            "--install-runtime", "--seconds", "1", "--allow-noisy", "--per-op",
        )  # fmt: skip
        names = sorted(path.name for path in (server.own / "runtimes").iterdir())
        assert names == ["executorch", "onnxruntime"] and list((server.own / "files").glob("*.tar.gz")) == []
    for one in found["profiles"]:
        assert one["answers"]["equal"] and one["operators"]
    # ExecuTorch ran without torch: its process is a tenth of what the bindings need.
    assert found["profiles"][1]["memory"]["peak"] < 120e6
    assert packages() == before


def test_no_python_on_the_device(tmp_path: Path, exported: Exported) -> None:
    with sshd(tmp_path / "ssh", python="/nonexistent/python") as server:
        found = cli("profile", exported(), "-d", server.uri, "--ssh-config", server.config)
    assert found.returncode == 6 and "needs Python" in found.stderr


def test_a_runtime_that_is_too_old(server: Server, exported: Exported) -> None:
    plant(server.own, "slow", version="1.2.0")
    device = open_device(server.uri, reach(server))
    with pytest.raises(DeviceFailed, match=r"has onnxruntime 1\.2\.0; files of this kind need 1\.20"):
        profile(read_bundle(exported()), device, QUICK)
    device.close()
    assert eventually(lambda: not server.runners())


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("illegal", "instructions that the device's processor does not have"),
        ("killed", "most likely its memory was not enough"),
        ("crashing", r"crashed on the device \(SIGSEGV\)"),
        ("hungry", "not enough memory"),
        ("chatty", "ValueError: no"),
    ],
)
def test_a_runtime_that_fails(server: Server, exported: Exported, fault: str, said: str) -> None:
    error = faulty(server, exported(), fault)
    assert isinstance(error, DeviceFailed)
    assert pytest.importorskip("re").search(said, error.message), error


@pytest.mark.parametrize("fault", ["stuck", "stopped"])
def test_a_stuck_runner_is_killed_at_its_limit_on_the_device_too(
    server: Server, exported: Exported, fault: str
) -> None:
    start = time.monotonic()
    error = faulty(server, exported(), fault, Settings(**{**vars(QUICK), "deadline_s": 3.0}))
    assert "stopped on the device at its limit of 3 s" in error.message
    assert time.monotonic() - start < 30
    assert eventually(lambda: not server.runners())


@pytest.mark.parametrize("fault", ["illegal", "killed", "hungry", "chatty", "stuck"])
def test_a_fault_is_told_in_three_lines(server: Server, exported: Exported, fault: str) -> None:
    plant(server.own, fault)
    done = cli("profile", exported(), "-d", server.uri, "--ssh-config", server.config, "--deadline", "3", "-q")
    assert done.returncode == 6
    three_lines(done.stderr)


def test_wrong_answers_are_called_wrong(server: Server, exported: Exported) -> None:
    plant(server.own, "slow")
    done = cli(
        "profile", exported(), "-d", server.uri, "--ssh-config", server.config, "--seconds", "1", "--allow-noisy"
    )
    assert done.returncode == 3 and "the device computes something else" in done.stderr


def test_what_was_measured_is_kept_when_the_device_goes_away(server: Server, exported: Exported) -> None:
    device = open_device(server.uri, reach(server))

    batches: list[object] = []

    def pull_the_plug(event: dict[str, object]) -> None:
        batches.extend([event] if event["event"] == "runs" else [])
        if len(batches) == 3:
            for pid in server.sessions():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass

    settings = Settings(threads=1, runs=10**9, seconds=60, warmup_limit_s=3)
    found = profile(read_bundle(exported()), device, settings, listen=pull_the_plug)
    device.close()
    assert found.status == "partial" and "went away" in found.reasons[0]
    assert found.latency is not None and found.latency.runs > 10


def test_the_runner_dies_with_the_one_who_asked(server: Server, exported: Exported) -> None:
    command = [sys.executable, "-m", "edgevit.cli.app", "profile", str(exported()), "-d", server.uri]
    command += ["--ssh-config", str(server.config), "--seconds", "60", "--runs", "1000000000"]
    asking = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert eventually(server.runners, 30)
    finally:
        asking.kill()
        asking.wait()
    # The connection's master outlives it for a minute; the session it carried does not.
    assert eventually(lambda: not server.runners(), 20)


def test_no_space_left_on_the_device(tmp_path: Path, exported: Exported) -> None:
    home = tmp_path / "small"
    home.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", home], check=False)
    if mounted.returncode:
        pytest.skip("only root can mount a small file system")
    try:
        with sshd(tmp_path / "ssh", home=home) as server:
            done = cli("profile", exported(), "-d", server.uri, "--ssh-config", server.config)
            assert done.returncode == 6 and "no space left" in done.stderr and "--clean" in done.stderr
            assert [path for path in (server.own / "files").iterdir() if "onnx" in path.name] == []
    finally:
        subprocess.run(["umount", home], check=True)


def test_a_home_that_cannot_be_written(tmp_path: Path, exported: Exported) -> None:
    with sshd(tmp_path / "ssh", home=Path("/proc/self")) as server:
        done = cli("profile", exported(), "-d", server.uri, "--ssh-config", server.config)
    assert done.returncode == 6
    three_lines(done.stderr)


def test_one_bundle_that_fails_leaves_the_other(server: Server, exported: Exported, tmp_path: Path) -> None:
    plant(server.own, "hungry")
    done = cli(
        "profile", exported(), exported(target="litert"), "-d", server.uri, "--ssh-config", server.config,
        "--seconds", "1", "--json",
    )  # fmt: skip
    document = json.loads(done.stdout)
    assert done.returncode == 6
    assert [one["artifact"]["backend"] for one in document["profiles"]] == ["litert"]
    assert "not enough memory" in document["errors"][0]["message"]
    shutil.rmtree(server.own)


BANNERS = {
    "hi": "echo hi",
    "a banner": "printf '\\n  *** welcome ***\\n\\n'; echo '{\"event\": \"host\"}'",
    "no line break": "printf 'uptime 3 days'",
    "colours": "printf '\\033[31mLinux\\033[0m tools /root\\n'; echo Linux; echo tools; echo /root",
    "to standard error": "echo warning >&2",
}


@pytest.fixture
def greeting(server: Server) -> Iterator[object]:
    """Makes the login run lines first, as a ``.bashrc`` that prints does."""

    def change(lines: str) -> None:
        script = server.folder / "login"
        script.write_text(f'#!/bin/sh\n{lines}\nexec sh -c "$SSH_ORIGINAL_COMMAND"\n')
        script.chmod(0o755)
        key = (server.folder / "user.pub").read_text()
        (server.folder / "user.pub").write_text(f'command="{script}" {key}')

    yield change


@pytest.mark.parametrize("banner", BANNERS)
def test_a_login_that_greets_its_user_changes_nothing(
    server: Server, exported: Exported, greeting: object, banner: str
) -> None:
    greeting(BANNERS[banner])  # type: ignore[operator]
    device = open_device(server.uri, reach(server))
    found = profile(read_bundle(exported()), device, QUICK)
    size = device.clean()
    device.close()
    assert found.answers is not None and found.answers.equal
    assert size > 100_000


@pytest.mark.parametrize("lines", ["echo maintenance; exit 0", "echo maintenance >&2; exit 1"])
def test_a_login_that_runs_no_commands_is_named(server: Server, greeting: object, lines: str) -> None:
    greeting(lines)  # type: ignore[operator]
    done = cli("devices", server.uri, "--ssh-config", server.config)
    assert done.returncode == 6
    assert "does not run commands" in done.stderr and "maintenance" in done.stderr and ".bashrc" in done.stderr
    three_lines(done.stderr)


def leftovers(server: Server) -> list[str]:
    folder = server.own / "files"
    return [path.name for path in folder.iterdir() if ".part-" in path.name] if folder.is_dir() else []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_upload_that_is_broken_off_leaves_nothing(server: Server, tmp_path: Path, how: signal.Signals) -> None:
    large = tmp_path / "large.bin"
    with large.open("wb") as file:
        file.truncate(4 << 30)  # sparse: it takes no disk here, and long enough to be interrupted
    code = (
        "import sys; from pathlib import Path; from edgevit.devices.kinds import ssh; from edgevit.devices.shell import folder; from edgevit.devices.base import Reach\n"
        "folder.sha256_file = lambda path: '0' * 64\n"
        f"there = ssh.SSHTransport(ssh.parse_address({server.uri!r}), Reach(ssh_config=Path({str(server.config)!r})))\n"
        f"there.put(Path({str(large)!r}))\n"
    )
    asking = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        assert eventually(lambda: leftovers(server), 30)
        os.killpg(asking.pid, how)
        asking.wait(20)
        assert eventually(lambda: not leftovers(server), 20)
    finally:
        asking.kill()
        asking.wait()
    assert [path.name for path in (server.own / "files").iterdir()] == []


def test_what_a_lost_device_kept_is_removed_at_the_next_upload(server: Server, exported: Exported) -> None:
    files = server.own / "files"
    files.mkdir(parents=True)
    for name, minutes in (("0-a.onnx.part-00000000", 11), ("0-b.onnx.part-11111111", 1), ("0-c.onnx", 99)):
        (files / name).write_text("x")
        os.utime(files / name, (time.time() - 60 * minutes,) * 2)
    device = open_device(server.uri, reach(server))
    device.probe()
    device.close()
    names = {path.name for path in files.iterdir()}
    assert "0-a.onnx.part-00000000" not in names
    assert {"0-b.onnx.part-11111111", "0-c.onnx"} <= names, "another edgevit's, and a whole one"


def test_runtimes_in_edgevits_own_folder_are_listed_and_broken_ones_named(server: Server) -> None:
    plant(server.own, "slow")
    own = server.own / "runtimes/onnxruntime"
    (own / ".edgevit.json").write_text('{"version": "1.31.1"}')
    done = cli("devices", server.uri, "--ssh-config", server.config)
    assert "onnxruntime 1.31.1 (in edgevit's own folder)" in done.stdout and "none" not in done.stdout
    (own / "onnxruntime/__init__.py").write_text("raise ImportError('libatomic.so.1: cannot open shared object file')")
    said = cli_json("devices", server.uri, "--ssh-config", server.config)
    assert said["own_runtimes"] == {"onnxruntime": "1.31.1"}
    assert said["broken_runtimes"] == {"onnxruntime": "ImportError: libatomic.so.1: cannot open shared object file"}
