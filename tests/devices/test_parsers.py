"""Golden texts of what devices print, and the runner's own readers."""

from __future__ import annotations

import base64
import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from edgevit.bundle.read import read_bundle
from edgevit.cli.devices import runtime_lines
from edgevit.devices import base
from edgevit.devices.base import Kind, Reach, RunnerEvent, kinds, open_device
from edgevit.devices.kinds import ios
from edgevit.devices.kinds.local import LocalTransport
from edgevit.devices.kinds.ssh import Address, SSHTransport
from edgevit.devices.runner_process import RunnerProcess, crashed, parse_line, refusal
from edgevit.devices.runtimes import wheels as install
from edgevit.devices.runtimes.android_userland import wanted_files
from edgevit.devices.runtimes.wheels import Installation, compiler, prepare
from edgevit.devices.shell.android_facts import emulator_of, parse_battery, parse_properties, parse_thermal
from edgevit.devices.shell.device import ShellDevice
from edgevit.errors import DeviceFailed, DeviceUnreachable, EnvironmentIncomplete, UsageError
from edgevit.profiling.contract import Settings
from edgevit.profiling.measure import profile
from tests.conftest import Exported, cli
from tests.profiling.synthetic import RUNNER

THERMAL = """IsStatusOverride: false
ThermalEventListeners:
	callbacks: 2
Thermal Status: 1
Cached temperatures:
	Temperature{mValue=0.0, mType=2, mName=SUBBAT, mStatus=0}
HAL Ready: true
Current temperatures from HAL:
	Temperature{mValue=45.1, mType=0, mName=BIG, mStatus=0}
	Temperature{mValue=39.5, mType=3, mName=VIRTUAL-SKIN, mStatus=1}
Current cooling devices from HAL:
	CoolingDevice{mValue=0, mType=3, mName=thermal-cpufreq-0}
Temperature static thresholds from HAL:
	TemperatureThreshold{mType=3, mName=VIRTUAL-SKIN, mHotThrottlingThresholds=[NaN, 39.0]}
"""
BATTERY = """Current Battery Service state:
  AC powered: false
  USB powered: true
  status: 2
  level: 38
  scale: 50
  temperature: 312
"""


def test_thermal() -> None:
    found = parse_thermal(THERMAL)
    assert found is not None and found.status == "light" and not found.overridden
    assert found.temperature_c == {"BIG": 45.1, "VIRTUAL-SKIN": 39.5}
    assert parse_thermal("Can't find service: thermalservice\n") is None
    overridden = parse_thermal(THERMAL.replace("Override: false", "Override: true"))
    assert overridden is not None and overridden.overridden


def test_battery() -> None:
    found = parse_battery(BATTERY)
    assert found is not None
    assert (found.level, found.temperature_c, found.state, found.plugged) == (76, 31.2, "charging", True)
    assert parse_battery("Can't find service: battery") is None


def test_properties() -> None:
    found = parse_properties("[ro.product.model]: [Pixel 8]\n[ro.kernel.qemu]: [1]\nnonsense\n[x]: []\n")
    assert found == {"ro.product.model": "Pixel 8", "ro.kernel.qemu": "1", "x": ""}
    assert emulator_of(found) == "Android Emulator" and emulator_of({}) == ""


DEVICECTL = {
    "info": {"outcome": "success"},
    "result": {
        "devices": [
            {
                "identifier": "A1-B2",
                "connectionProperties": {"tunnelState": "connected"},
                "deviceProperties": {"name": "Ada's", "osVersionNumber": "26.1", "developerModeStatus": "enabled"},
                "hardwareProperties": {"marketingName": "iPhone 17 Pro", "platform": "iOS", "udid": "0001"},
            },
            {
                "identifier": "C3",
                "connectionProperties": {"tunnelState": "unavailable"},
                "deviceProperties": {"name": "Old", "developerModeStatus": "disabled"},
                "hardwareProperties": {"productType": "iPhone12,1"},
            },
        ]
    },
}


def test_devicectl() -> None:
    first, second = ios.parse_devices(json.dumps(DEVICECTL))
    assert (first.model, first.system, first.connected, first.developer_mode) == (
        "iPhone 17 Pro",
        "iOS 26.1",
        True,
        True,
    )
    assert (second.model, second.connected, second.developer_mode) == ("iPhone12,1", False, False)
    assert ios.choose("Ada's", [first, second]) == first
    for wanted, error in (("", UsageError), ("C3", DeviceUnreachable), ("nobody", DeviceUnreachable)):
        with pytest.raises(error):
            ios.choose(wanted, [first, second])
    for text in ("", "{}", "[]", '{"result": {"devices": 3}}', '{"result": {"devices": [1]}}'):
        with pytest.raises(DeviceFailed):
            ios.parse_devices(text)


def test_ios_says_what_is_needed(tmp_path: Path) -> None:
    done = cli("devices", "ios:")
    assert done.returncode == 6 and "a Mac with Xcode" in done.stderr and "browser:" in done.stderr


PMIC = """   3V7_WL_SW_A current(0)=0.10000000A
     VDD_CORE_A current(7)=2.00000000A
    3V7_WL_SW_V volt(8)=3.70000000V
     VDD_CORE_V volt(15)=0.80000000V
        EXT5V_V volt(24)=5.10000000V
         BATT_V volt(25)=0.00000000V
"""


def test_the_raspberry_pi_5_is_its_own_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RUNNER, "command", lambda *words: PMIC if words == ("vcgencmd", "pmic_read_adc") else None)
    meter = RUNNER.find_meter()
    assert meter.name.startswith("Raspberry Pi 5") and meter.watts() == pytest.approx(1.97)
    events: list[dict[str, object]] = []
    RUNNER.measure_energy(lambda: None, {"energy_s": 0.5}, lambda **event: events.append(event))
    assert events[0]["busy_watts"] == pytest.approx(1.97) and events[0]["runs"] > 0


def test_without_a_meter_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RUNNER, "command", lambda *words: None)
    assert RUNNER.find_meter() is None
    RUNNER.measure_energy(lambda: None, {"energy_s": 1}, lambda **event: pytest.fail("there is no meter"))


@pytest.mark.parametrize(
    ("word", "now", "since"),
    [("0x0", [], []), ("0x50005", ["under-voltage", "throttled"], ["under-voltage", "throttled"]),
     ("0x80000", [], ["soft temperature limit"])],
)  # fmt: skip
def test_the_firmwares_word_on_throttling(
    word: str, now: list[str], since: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RUNNER, "command", lambda *words: f"throttled={word}")
    found = RUNNER.conditions("before", 0.0)
    assert found["throttled"] == now and found["throttled_since_boot"] == since


def test_a_model_larger_than_the_memory_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "large.onnx"
    with model.open("wb") as file:
        file.truncate(3 << 30)
    monkeypatch.setattr(RUNNER, "memory_bytes", lambda field, path="": 1 << 30)
    with pytest.raises(RUNNER.Refused, match="takes 3072 MB, 1024 MB of memory are free") as caught:
        RUNNER.load({"model": str(model), "runtime": "onnxruntime"}, print)
    assert caught.value.kind == "memory"


def test_the_runner_reads_safetensors_without_the_library(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    for kind in (np.uint8, np.float32):
        values = np.arange(24).reshape(2, 3, 4).astype(kind)
        save_file({"inputs": values, "more": np.zeros(3, np.float32)}, tmp_path / "x.safetensors")
        assert (RUNNER.golden_inputs(tmp_path / "x.safetensors") == values).all()


def test_telemetry_is_off_before_the_runtime_is_imported() -> None:
    import os

    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


@pytest.mark.parametrize("line", [b"", b"hello\n", b"[]\n", b'{"event": 3}\n', b"{" * 5000])
def test_a_line_that_is_no_event(line: bytes) -> None:
    with pytest.raises(DeviceFailed):
        parse_line(line)


@pytest.mark.parametrize(
    ("code", "said"),
    [(132, "SIGILL"), (-4, "SIGILL"), (137, "memory"), (139, "SIGSEGV"), (127, "Python"), (3, "early")],
)
def test_exit_statuses(code: int, said: str) -> None:
    assert said in crashed(code, "last words\n").message


def test_machines_without_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceFailed, match="no wheels"):
        prepare(Installation("litert", "riscv64", "3.11.2"))
    for machine in ("armv7l", "armv6l"):
        with pytest.raises(DeviceFailed, match="has a 32-bit system") as caught:
            prepare(Installation("litert", machine, "3.11.2"))
        assert "64-bit Raspberry Pi OS" in caught.value.cure
    transport = object.__new__(SSHTransport)  # 32-bit programs on a 64-bit kernel
    with pytest.raises(DeviceFailed, match="has a 32-bit system"):
        transport.install("litert", {"machine": "aarch64", "bits": 32, "python": "3.11.2"})
    monkeypatch.setattr(RUNNER, "BITS", 32)
    with pytest.raises(RUNNER.Refused, match="32-bit system") as refused:
        RUNNER.imported("no_such_runtime", "LiteRT")
    assert "64-bit Raspberry Pi OS" in refusal({"kind": refused.value.kind, "message": str(refused.value)}).cure
    none, *_ = runtime_lines({"bits": 32}, {"versions": {"numpy": "2.0"}})
    assert "none for a 32-bit system" in none
    with pytest.raises(EnvironmentIncomplete, match="needs a C\\+\\+ compiler"):
        compiler("riscv64")


def test_what_a_device_can_run_is_listed_with_what_cannot_be_imported() -> None:
    found = {"versions": {"numpy": "2.1", "onnxruntime": "1.20.0"}, "own": {"onnxruntime": "1.31.1"}, "broken": {}}
    assert runtime_lines({"bits": 64}, found) == ["runtimes: numpy 2.1, onnxruntime 1.31.1 (in edgevit's own folder)"]
    first, second = runtime_lines({}, {**found, "broken": {"onnxruntime": "ImportError: no libatomic"}})
    assert first.startswith("runtimes: none; --install-runtime")
    assert second == "onnxruntime is installed and cannot be imported: ImportError: no libatomic"


def test_why_a_module_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {
        "good": "",
        "broken": "raise AttributeError('_ARRAY_API not found')",
        "crashing": "import os, signal\nos.kill(os.getpid(), signal.SIGILL)",
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
    assert RUNNER.import_fault("good", str(tmp_path)) == ""
    assert RUNNER.import_fault("broken", str(tmp_path)) == "AttributeError: _ARRAY_API not found"
    assert RUNNER.import_fault("crashing", str(tmp_path)) == "the import ends with signal 4"
    monkeypatch.setattr(RUNNER.sys, "executable", "/nonexistent")
    assert RUNNER.import_fault("broken", str(tmp_path)) == "", "not this machine's way to start Python"
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RUNNER.Refused, match="cannot be imported: _ARRAY_API not found"):
        RUNNER.imported("broken", "LiteRT")


def started(script: str) -> RunnerProcess:
    return RunnerProcess(["sh", "-c", script], 5, lambda code, said: None, after="MARK")


def test_what_a_login_prints_before_the_runner_is_passed_over() -> None:
    runner = started("""printf 'hi\\n{"event": "done"}\\nno break'; echo MARK; echo '{"event": "done"}'""")
    assert [event["event"] for event in runner.events()] == ["done"]
    runner.close()
    runner = started("echo welcome; exit 0")
    with pytest.raises(DeviceFailed, match="does not run commands") as caught:
        list(runner.events())
    runner.close()
    assert "welcome" in caught.value.where and ".bashrc" in caught.value.cure


def test_here_a_missing_runtime_is_not_mended_by_an_option_for_other_computers() -> None:
    with pytest.raises(UsageError):
        LocalTransport().install("litert", {})
    runner = LocalTransport().start(
        "", ["-c", 'print(\'{"event": "error", "kind": "runtime-missing", "message": "x"}\')'], 5
    )
    with pytest.raises(DeviceFailed) as caught:
        list(runner.events())
    runner.close()
    assert "pip install 'edgevit[runtime]'" in caught.value.cure and "--install-runtime" not in caught.value.cure


@pytest.mark.parametrize(
    ("said", "message", "cure"),
    [
        ("pi@h: Permission denied (password).", "takes no keys, only passwords", "PubkeyAuthentication yes"),
        ("pi@h: Permission denied (password,keyboard-interactive).", "takes no keys", "ssh-copy-id -p 2222 pi@h"),
        ("Received disconnect from h: Too many authentication failures", "offered too many keys", "IdentitiesOnly"),
        ("ssh: connect to host h port 2222: Connection refused", "for SSH at port 2222", "raspi-config"),
        ("ssh: connect to host h port 2222: Connection timed out", "does not answer", "ssh -p 2222 pi@h"),
        ("ssh: connect to host h port 2222: No route to host", "no way from this computer", "same network"),
        ("ssh: Could not resolve hostname h: Name or service not known", "there is no host h", "address"),
        ("kex_exchange_identification: read: Connection reset by peer", "closed the connection before", "journalctl"),
        ("Unable to negotiate with h port 22: no matching host key type found.", "no method in common", "ssh -p"),
        ("/home/a/.ssh/config: line 3: Bad configuration option: foo", "its own configuration", "ssh -p"),
        ("Load key \"/home/a/k y\": bad permissions", "that others can read", "chmod 600 ~/.ssh/id_*"),
        ("Offending ED25519 key in /home/a/known:7\nREMOTE HOST IDENTIFICATION HAS CHANGED!", "has changed",
         "ssh-keygen -R '[h]:2222' -f /home/a/known"),
    ],
)  # fmt: skip
def test_what_ssh_says_is_told_with_its_cure(said: str, message: str, cure: str) -> None:
    transport = object.__new__(SSHTransport)
    transport._address, transport._where = Address("h", "pi", 2222), ["-p", "2222"]
    error = transport._refused(said)
    assert message in error.message and cure in error.cure
    assert error.where.startswith("ssh says: ")


def deb(files: dict[str, bytes], links: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:xz") as packed:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
        for name, target in links.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            packed.addfile(info)
    data = out.getvalue()
    parts = [b"!<arch>\n"]
    for name, content in (("debian-binary", b"2.0\n"), ("data.tar.xz", data)):
        parts.append(f"{name:<16}{0:<12}{0:<6}{0:<6}{644:<8}{len(content):<10}`\n".encode() + content)
        parts.append(b"\n" if len(content) % 2 else b"")
    return b"".join(parts)


def test_only_known_places_leave_a_package_of_debians() -> None:
    package = deb(
        {
            "./usr/lib/aarch64-linux-gnu/libx.so.1.2": b"library",
            "./usr/lib/python3.11/json/__init__.py": b"json",
            "./usr/lib/python3.11/test/x.py": b"not wanted",
            "./usr/lib/python3.11/../../../../etc/passwd": b"hostile",
            "./etc/cron.d/x": b"not wanted",
            "./usr/share/doc/libx/copyright": b"GPL",
        },
        {"./usr/lib/aarch64-linux-gnu/libx.so.1": "libx.so.1.2", "./usr/lib/aarch64-linux-gnu/liby.so": "/etc/passwd"},
    )
    found = {name: content for name, _, content in wanted_files(package)}
    assert found == {
        "lib/libx.so.1.2": b"library",
        "lib/libx.so.1": b"library",
        "py/lib/python3.11/json/__init__.py": b"json",
        "licences/libx": b"GPL",
    }
    with pytest.raises(EnvironmentIncomplete):
        list(wanted_files(b"not a package"))


def test_every_kind_of_device_is_found() -> None:
    assert {"local", "ssh", "adb", "browser", "ios"} <= set(kinds())
    for uri in ("", "local", "/dev/x", "nothing:there"):
        with pytest.raises(UsageError):
            open_device(uri, Reach())
    with pytest.raises(UsageError):
        open_device("local:elsewhere", Reach())


class Rack:
    """A device of another package: a transport is all that it has of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, path: Path) -> str:
        copy = self.folder / path.name
        copy.write_bytes(path.read_bytes())
        return str(copy)

    def start(self, runtime: str, arguments: list[str], deadline_s: float) -> RunnerProcess:
        return RunnerProcess([sys.executable, *arguments], deadline_s, lambda code, said: None)

    def library(self, runtime: str) -> tuple[str, str]:
        return "", ""

    def install(self, runtime: str, host: RunnerEvent) -> None:
        raise AssertionError

    def clean(self) -> int:
        return 0

    def close(self) -> None:
        (self.folder / "closed").touch()


def test_another_package_can_add_a_kind_of_device(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = Kind("A rack", "rack:SLOT", lambda uri, reach: ShellDevice(uri, "local", Rack(tmp_path), reach), list)
    monkeypatch.setattr(base, "kinds", lambda: {"rack": kind})
    device = open_device("rack:7", Reach())
    assert isinstance(device, base.ConnectedDevice)
    found = profile(
        read_bundle(exported()), device, Settings(threads=1, runs=20, seconds=1, least_seconds=0.2, warmup_limit_s=3)
    )
    device.close()
    assert found.device.uri == "rack:7" and found.answers is not None and found.answers.equal
    assert (tmp_path / "closed").exists()


def test_outputs_survive_their_journey() -> None:
    from edgevit.profiling.collect import Collected

    values = np.random.default_rng(0).standard_normal((3, 10)).astype(np.float32)
    found = Collected()
    found.take({"event": "outputs", "shape": [3, 10], "float32": base64.b64encode(values.tobytes()).decode()})
    assert found.outputs is not None and (found.outputs == values).all()
    for bad in (
        {"event": "outputs", "shape": [9, 9], "float32": ""},
        {"event": "runs"},
        {"event": "conditions", "phase": 1},
    ):
        with pytest.raises(DeviceFailed):
            found.take(bad)


@pytest.mark.parametrize(
    ("said", "message", "kind"),
    [
        ("ERROR: No matching distribution found for x==1", "there are no wheels of x", DeviceFailed),
        (
            "WARNING: Retrying ... NewConnectionError('Failed to establish a new connection')\n"
            "ERROR: No matching distribution found for x==1",
            "pip could not fetch x",
            EnvironmentIncomplete,
        ),
        ("/usr/bin/python3: No module named pip", "this Python has no pip", EnvironmentIncomplete),
    ],
)
def test_pip_without_a_network_is_not_taken_for_a_python_without_wheels(
    said: str, message: str, kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = install.subprocess.CompletedProcess([], 1, "", said)
    monkeypatch.setattr(install.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(kind, match=message):
        install._pip(Installation("litert", "aarch64", "3.11.2"), ["x"], tmp_path)


def test_a_mac_without_a_working_devicectl_or_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgevit.pipeline import doctor as checkup

    monkeypatch.setattr(ios, "missing", lambda: ("", ""))

    def hangs(command: list[str], **_: object) -> None:
        raise ios.subprocess.TimeoutExpired(command, 60)

    monkeypatch.setattr(ios.subprocess, "run", hangs)
    (found,) = ios.discover()
    assert found.state == "missing" and "devicectl" in found.what
    monkeypatch.setattr(ios, "_listed", list)
    (found,) = ios.discover()
    assert found.state == "none" and "cable" in found.cure
    nothing = Kind("Nothing", "nothing:", lambda uri, reach: pytest.fail("not opened"), list)
    assert checkup._reach("nothing", nothing).state == "missing"


def test_what_coremltools_raises_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    device = ios.IOSDevice("ios:", ios.parse_devices(json.dumps(DEVICECTL))[0])

    async def fails(error: Exception) -> list[RunnerEvent]:
        raise error

    with pytest.raises(DeviceFailed, match="could not measure on Ada's") as caught:
        device._driven(fails(RuntimeError("first\nThe device is locked.")))
    assert caught.value.where == "The device is locked."
    with pytest.raises(EnvironmentIncomplete, match="needs the package coremltools"):
        device._driven(fails(ImportError("no")))
    with pytest.raises(DeviceUnreachable, match="gone"):
        device._driven(fails(DeviceUnreachable("gone")))


@pytest.mark.parametrize(
    ("uri", "name"),
    [("local:", "local"), ("browser:", "browser"), ("adb://", "adb"), ("ssh://pi@h", "ssh://pi@h"), ("browser:8765", "browser:8765")],
)  # fmt: skip
def test_a_device_is_named_inside_a_sentence(uri: str, name: str) -> None:
    assert base.place_name(uri) == name


def test_profile_names_this_computer_without_its_colon(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgevit.cli import profile as command

    def fails(*_: object, **__: object) -> None:
        raise DeviceFailed("no", where="there")

    monkeypatch.setattr("edgevit.profiling.measure.profile", fails)
    _, (error,) = command._on_device("local:", Reach(), [read_bundle(exported())], [None], Settings(), True)
    assert error.where == "tinyvit_digits onnx-fp32 on local: there"
