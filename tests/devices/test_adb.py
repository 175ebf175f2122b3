"""adb: the real client against a phone that refuses, is full or goes away; the real adbd is in test_emulated.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgevit.devices.kinds.adb import FOLDER, choose
from edgevit.devices.runtimes.android_userland import recipe
from edgevit.errors import DeviceUnreachable, UsageError
from tests.conftest import Exported
from tests.devices.fake_adbd import FakePhone, Said
from tools.lab.emulated import adb, adb_environment, install

pytestmark = pytest.mark.system


@pytest.fixture
def server(tmp_path: Path) -> Iterator[dict[str, str]]:
    """adb's server, our own."""
    install("adb")
    environment = adb_environment(tmp_path / "adb")
    yield environment
    adb(environment, "kill-server")


def edgevit(server: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgevit.cli.app", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **server}, timeout=40, check=False
    )


def runner_says(*events: dict[str, object]) -> str:
    return "".join(json.dumps(event) + "\n" for event in events)


HOST = {"event": "host", "protocol": 1, "machine": "aarch64", "cpus": 8, "emulator": ""}


def capable(command: str) -> Said | None:
    """A phone on which the capsule is already there."""
    if "uname -m" in command:
        return Said("aarch64\n")
    if f"cat {FOLDER}/capsule/" in command:
        return Said(recipe().digest)
    if "runtimes/" in command and command.startswith("cat "):
        return Said("{}")
    if "runner.py" in command and '"probe"' in command:
        return Said(runner_says(HOST, {"event": "runtimes", "versions": {}}, {"event": "done"}))
    return None


def test_a_phone_that_has_not_accepted_this_computer(server: dict[str, str], exported: Exported) -> None:
    phone = FakePhone(authorised=False)
    adb(server, "connect", phone.serial)
    done = edgevit(server, "profile", exported(), "-d", f"adb://{phone.serial}")
    phone.close()
    assert done.returncode == 6
    assert "has not allowed this computer yet" in done.stderr and "accept the question" in done.stderr
    assert "unauthorized" in edgevit(server, "devices").stdout


def test_a_phone_that_is_full(server: dict[str, str], exported: Exported) -> None:
    phone = FakePhone(capable, refuse_files="couldn't create file: No space left on device")
    adb(server, "connect", phone.serial)
    done = edgevit(server, "profile", exported(), "-d", f"adb://{phone.serial}")
    phone.close()
    assert done.returncode == 6 and "no space left on the device" in done.stderr, done.stderr
    assert "--clean" in done.stderr and any("rm -f" in command for command in phone.commands)


def test_a_phone_that_is_unplugged_while_it_gets_a_file(server: dict[str, str], exported: Exported) -> None:
    phone = FakePhone(capable, unplug_at=10_000)
    adb(server, "connect", phone.serial)
    done = edgevit(server, "profile", exported(), "-d", f"adb://{phone.serial}")
    assert done.returncode == 6 and "does not answer any more" in done.stderr, done.stderr


def test_a_phone_that_is_unplugged_while_it_measures(server: dict[str, str], exported: Exported) -> None:
    measured = runner_says(
        HOST,
        {"event": "conditions", "phase": "before", "at_s": 0.0},
        {"event": "loaded", "ns": 5_000_000, "runtime": "onnxruntime", "version": "1.31.1", "threads": 4},
        {"event": "first", "ns": 9_000_000},
        {"event": "warmup", "runs": 30, "seconds": 1.5, "steady": True, "medians_ns": [5e6, 5e6, 5e6]},
        {"event": "runs", "at_s": 0.3, "ns": [5_000_000 + step for step in range(60)]},
    )

    def answer(command: str) -> Said | None:
        if "runner.py" in command and '"profile"' in command:
            return Said(measured, unplug=True)
        return capable(command)

    phone = FakePhone(answer)
    adb(server, "connect", phone.serial)
    done = edgevit(server, "profile", exported(), "-d", f"adb://{phone.serial}", "--json")
    assert done.returncode == 6, done.stderr
    one = json.loads(done.stdout)["profiles"][0]
    assert one["status"] == "partial" and one["latency"]["runs"] == 60 and "went away" in one["reasons"][0]


def test_without_the_capsule_the_cure_is_named(server: dict[str, str], exported: Exported) -> None:
    phone = FakePhone(lambda command: Said("aarch64\n") if "uname -m" in command else None)
    adb(server, "connect", phone.serial)
    done = edgevit(server, "profile", exported(), "-d", f"adb://{phone.serial}")
    phone.close()
    assert done.returncode == 6 and "no Python that edgevit can run" in done.stderr
    assert "--install-runtime" in done.stderr


def test_no_phone_and_another_phone(server: dict[str, str], exported: Exported) -> None:
    adb(server, "start-server")
    done = edgevit(server, "profile", exported(), "-d", "adb://nothing")
    assert done.returncode == 6 and "adb sees no device" in done.stderr


@pytest.mark.parametrize(
    ("wanted", "listed", "error"),
    [
        ("", [], DeviceUnreachable),
        ("", [("a", "device"), ("b", "device")], UsageError),
        ("c", [("a", "device")], DeviceUnreachable),
        ("a", [("a", "offline")], DeviceUnreachable),
        ("a", [("a", "no permissions")], DeviceUnreachable),
        ("a", [("a", "sideload")], DeviceUnreachable),
    ],
)
def test_which_device_is_meant(wanted: str, listed: list[tuple[str, str]], error: type[Exception]) -> None:
    with pytest.raises(error):
        choose(wanted, listed)


def test_the_only_device_needs_no_name() -> None:
    assert choose("", [("a", "device")]) == "a"
    assert choose("b", [("a", "device"), ("b", "device")]) == "b"
