"""``adb://SERIAL``: an Android phone over adb, by adbutils. No root, no NDK, no app.

What runs is edgevit's Linux runner inside a capsule with a C library of its own, on the CPU. A runner dies with its
standard input, which closes when adb goes away; `timeout` on the phone is what stops it if it cannot even do that.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import subprocess
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from edgevit.devices.base import Found, Kind, MeasurementJob, Reach, RunnerEvent, RunnerEvents
from edgevit.devices.runner_process import RunnerProcess, last_line
from edgevit.devices.runtimes.android_userland import LINKER, PYTHON, capsule, recipe
from edgevit.devices.runtimes.wheels import MARKER, Installation
from edgevit.devices.shell.android_facts import emulator_of, parse_battery, parse_properties, parse_thermal
from edgevit.devices.shell.device import ShellDevice
from edgevit.devices.shell.folder import COMMAND_S, KILL_AFTER_S, LATER_S, DeviceFolder
from edgevit.errors import DeviceFailed, DeviceUnreachable, EdgevitError, MissingDependency, UsageError

FOLDER = "/data/local/tmp/edgevit"
_STATES = {
    "unauthorized": ("has not allowed this computer yet", "unlock the phone and accept the question on its screen"),
    "offline": ("is offline", "unplug it and plug it in again; adb reconnect offline"),
    "no permissions": ("cannot be opened by this user", "see developer.android.com/tools/device on udev rules"),
}


def _adbutils() -> Any:
    try:
        import adbutils
    except ImportError as error:
        raise MissingDependency("adbutils", "devices over adb", extra="android") from error
    return adbutils


def _listed() -> list[tuple[str, str]]:
    """Serial number and state of every device that adb knows.

    Raises:
        DeviceUnreachable: adb's server cannot be started.
    """
    adbutils = _adbutils()
    try:
        return [(one.serial, one.state) for one in adbutils.AdbClient().list()]
    except (adbutils.AdbError, OSError, RuntimeError) as error:
        raise DeviceUnreachable("adb does not answer", where=str(error), cure="adb start-server") from error


def _server_runs() -> bool:
    port = os.environ.get("ANDROID_ADB_SERVER_PORT", "5037")
    try:
        socket.create_connection(("127.0.0.1", int(port)), timeout=1).close()
    except (OSError, ValueError):
        return False
    return True


def choose(wanted: str, listed: list[tuple[str, str]]) -> str:
    """The serial number of the requested device, or of the only one.

    Raises:
        DeviceUnreachable: there is no such device, or it cannot be used now.
        UsageError: there are several, and none was named.
    """
    if not listed:
        cure = "switch on USB debugging in the phone's developer options, and plug it in"
        raise DeviceUnreachable("adb sees no device", cure=cure)
    if not wanted and len(listed) > 1:
        serials = ", ".join(serial for serial, _ in listed)
        raise UsageError("there are several devices", where=serials, cure=f"say which: adb://{listed[0][0]}")
    state = dict(listed).get(wanted) if wanted else listed[0][1]
    serial = wanted or listed[0][0]
    if state is None:
        known = ", ".join(serial for serial, _ in listed)
        raise DeviceUnreachable(f"adb sees no device {serial}", where=f"it sees {known}", cure="adb devices")
    if state != "device":
        message, cure = _STATES.get(state, (f"is in the state {state}", "adb devices -l"))
        raise DeviceUnreachable(f"{serial} {message}", cure=cure)
    return serial


class ADBTransport(DeviceFolder):
    """Files and commands over adb for one device."""

    def __init__(self, serial: str, reach: Reach) -> None:
        self._adbutils = _adbutils()
        super().__init__(FOLDER, f"adb://{serial}", reach.announce)
        self._serial = serial
        self._device = self._adbutils.AdbClient().device(serial)

    def _gone(self, where: str) -> DeviceUnreachable:
        cure = "plug it in again: adb devices"
        return DeviceUnreachable(f"{self._serial} does not answer any more", where=where, cure=cure)

    def shell(self, command: str, *, limit_s: float = COMMAND_S) -> str:
        """Run a command on the device and return its output."""
        try:
            done = self._device.shell2(command, timeout=limit_s, v2=True)
        except (self._adbutils.AdbError, OSError) as error:
            raise self._gone(last_line(str(error))) from error
        if done.returncode != 0:
            raise self.failed(done.stderr + done.stdout)
        return str(done.stdout).rstrip("\n")

    @cached_property
    def properties(self) -> dict[str, str]:
        """Android's system properties; empty where the device is no Android."""
        return parse_properties(self.shell("getprop 2>/dev/null || true"))

    def send(self, path: Path, place: str, finish: str) -> None:
        """Push a file, by adb's own program: adbutils does not say why a device refuses it."""
        command = [self._adbutils.adb_path(), "-s", self._serial, "push", str(path), place]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            self.shell("true")  # a device that went away says so here
            raise self.failed(done.stderr + done.stdout)
        self.shell(finish)

    def start(self, runtime: str, arguments: list[str], deadline_s: float) -> RunnerProcess:
        """Start Python from the userland on the device."""
        if self._capsule() != recipe().digest:
            raise DeviceFailed(
                "the phone has no Python that edgevit can run",
                cure="edgevit profile ... --install-runtime puts one into edgevit's own folder on the phone",
            )
        words = " ".join(shlex.quote(argument) for argument in arguments)
        own = self.runtime_folder(runtime) if runtime else ""
        script = (
            f"cd {FOLDER} && HOME={FOLDER} TMPDIR={FOLDER} ORT_DISABLE_TELEMETRY=1 PYTHONDONTWRITEBYTECODE=1 "
            f"PYTHONHOME={FOLDER}/capsule/py PYTHONPATH={own} "
            f"timeout -k {KILL_AFTER_S} {int(deadline_s) + LATER_S} capsule/{LINKER} --library-path "
            f"{FOLDER}/capsule/lib capsule/py/{PYTHON} {words}; exit $?"
        )
        command = [self._adbutils.adb_path(), "-s", self._serial, "shell", script]
        return RunnerProcess(command, deadline_s, self._explain)

    def _explain(self, code: int, output: str) -> EdgevitError | None:  # noqa: ARG002
        """Tell a lost device from a failed program: adb exits with 1 or 255 for both, so the device is asked again."""
        if code not in (1, 255):
            return None
        try:
            self.shell("true", limit_s=10)
        except DeviceUnreachable as gone:
            return gone
        return None

    def install(self, runtime: str, host: RunnerEvent) -> None:  # noqa: ARG002  # the capsule's Python decides
        """Copy the userland and a runtime to the device."""
        wanted = recipe()
        machine = self.shell("uname -m")
        if machine != wanted.machine:
            raise DeviceFailed(f"edgevit's runtimes for Android are for {wanted.machine}, this phone is {machine}")
        if self._capsule() != wanted.digest:
            self.unpack(capsule(self._announce), f"{FOLDER}/capsule", wanted.digest)
        self.bring(Installation(runtime, wanted.machine, wanted.python))

    def _capsule(self) -> str:
        return self.shell(f"if [ -f {FOLDER}/capsule/{MARKER} ]; then cat {FOLDER}/capsule/{MARKER}; fi")

    def close(self) -> None:
        """Does nothing: the adb server keeps the connection."""


class AndroidDevice(ShellDevice):
    """An Android phone: a Linux device, with Android's facts on temperature, battery and model."""

    def __init__(self, uri: str, transport: ADBTransport, reach: Reach) -> None:
        super().__init__(uri, "adb", transport, reach)
        self._adb = transport

    def probe(self, runtime: str = "", *, imports: bool = False) -> list[RunnerEvent]:
        """The runner's events, or without a runner those made from Android's properties."""
        properties = self._adb.properties
        try:
            events = super().probe(runtime, imports=imports)
        except DeviceFailed:
            events = [{"event": "host", "machine": self._adb.shell("uname -m"), "cpus": self._cores()}]
        return [self._named(event, properties) for event in events]

    def _cores(self) -> int:
        text = self._adb.shell("nproc 2>/dev/null || echo 1")
        return int(text) if text.isdigit() else 1

    def _named(self, event: RunnerEvent, properties: dict[str, str]) -> RunnerEvent:
        if event["event"] != "host":
            return event
        names = (properties.get("ro.product.manufacturer", ""), properties.get("ro.product.model", ""))
        release = properties.get("ro.build.version.release")
        known = {
            "model": " ".join(filter(None, names)),
            "os": f"Android {release}" if release else "",
            "emulator": emulator_of(properties),
        }
        return {**event, **{key: value for key, value in known.items() if value}}

    def profile(self, job: MeasurementJob) -> RunnerEvents:
        """Measure one model, with Android's own record of temperature and battery."""
        properties = self._adb.properties
        for event in super().profile(job):
            if event["event"] == "conditions" and event["phase"] in ("before", "after"):
                # A phone that went away may still have said something: the runner's own end will tell.
                with contextlib.suppress(DeviceUnreachable):
                    yield from self._warnings(event)
            yield self._named(event, properties)
        soc = " ".join(filter(None, (properties.get("ro.soc.manufacturer"), properties.get("ro.soc.model"))))
        if soc:
            yield {"event": "details", "values": {"SoC": soc, "build": properties.get("ro.build.fingerprint", "")}}

    def _warnings(self, event: RunnerEvent) -> Iterator[RunnerEvent]:
        """Add Android's facts to the runner's conditions, and warnings about those that spoil a measurement."""
        thermal = parse_thermal(self._adb.shell("dumpsys thermalservice 2>/dev/null || true"))
        battery = parse_battery(self._adb.shell("dumpsys battery 2>/dev/null || true"))
        if thermal is not None:
            event["temperature_c"] = {**event.get("temperature_c", {}), **thermal.temperature_c}
            if thermal.status != "none":
                event["throttled"] = [*event.get("throttled", []), f"Android's thermal status is {thermal.status}"]
            if thermal.overridden:
                yield {"event": "stamp", "reason": "the phone's thermal status was set by hand"}
        if battery is not None:
            event["battery"] = {"level": f"{battery.level} %", "state": battery.state}
            if battery.temperature_c is not None:
                event["temperature_c"] = {**event.get("temperature_c", {}), "battery": battery.temperature_c}
        if self._adb.shell("settings get global low_power 2>/dev/null || true") == "1":
            yield {"event": "stamp", "reason": "the phone saves its battery"}


def open_adb(uri: str, reach: Reach) -> AndroidDevice:
    """Connect to an Android device by its URI ``adb:SERIAL``, or ``adb:`` where only one is attached."""
    wanted = uri.removeprefix("adb:").strip("/")
    if wanted.startswith("-"):
        raise UsageError(f"{uri!r} is not a device: no serial number starts with a dash")
    return AndroidDevice(uri, ADBTransport(choose(wanted, _listed()), reach), reach)


def discover() -> list[Found]:
    """The devices that adb lists; an adb server that does not run is not started for this."""
    if not _server_runs():
        return [Found("adb://SERIAL", "none", "adb's server does not run", "adb start-server")]
    try:
        listed = _listed()
    except MissingDependency as error:
        return [Found("adb://SERIAL", "missing", "Android phones", error.cure)]
    except DeviceUnreachable as error:
        return [Found("adb://SERIAL", "missing", error.where or error.message, error.cure)]
    found = []
    for serial, state in listed:
        message, cure = _STATES.get(state, ("an Android device", ""))
        found.append(Found(f"adb://{serial}", "ready" if state == "device" else state, message, cure))
    cure = "switch on USB debugging, and plug the phone in"
    return found or [Found("adb://SERIAL", "none", "adb sees no Android device", cure)]


KIND = Kind("Android over adb", "adb://SERIAL", open_adb, discover)
