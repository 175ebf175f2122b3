"""``adb://SERIAL``: an Android phone over adb, by adbutils. No root, no NDK, no app.

What runs is edgevit's Linux runner inside a capsule with a C library of its own, on the CPU. A runner dies with its
standard input, which closes when adb goes away; `timeout` on the phone is what stops it if it cannot even do that.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgevit.core.digest import sha256_file
from edgevit.devices.android import emulator_of, parse_battery, parse_properties, parse_thermal
from edgevit.devices.base import Event, Found, Job, Kind, Reach
from edgevit.devices.capsule import LINKER, PYTHON, capsule, recipe
from edgevit.devices.install import LIBRARY, MARKER, Installation, prepare
from edgevit.devices.runner import RunnerProcess, last_line
from edgevit.devices.shell import ShellDevice
from edgevit.errors import DeviceFailed, DeviceUnreachable, EdgevitError, MissingDependency, UsageError

FOLDER = "/data/local/tmp/edgevit"
_COMMAND_S = 120.0
_LARGE = 1 << 20
_KILL_AFTER_S, _LATER_S = 3, 5
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
    """The serial number that is meant.

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


class ADBTransport:
    """One device of adb's."""

    def __init__(self, serial: str, reach: Reach) -> None:
        self._adbutils = _adbutils()
        self._serial, self._announce = serial, reach.announce
        self._device = self._adbutils.AdbClient().device(serial)
        self._sent: dict[str, str] = {}

    def _gone(self, where: str) -> DeviceUnreachable:
        cure = "plug it in again: adb devices"
        return DeviceUnreachable(f"{self._serial} does not answer any more", where=where, cure=cure)

    def shell(self, command: str, limit_s: float = _COMMAND_S) -> str:
        """Run a command and give what it prints.

        Raises:
            DeviceUnreachable: the device went away.
            DeviceFailed: the command failed.
        """
        try:
            done = self._device.shell2(command, timeout=limit_s, v2=True)
        except (self._adbutils.AdbError, OSError) as error:
            raise self._gone(last_line(str(error))) from error
        if done.returncode != 0:
            raise self._failed(done.stderr + done.stdout)
        return str(done.stdout).rstrip("\n")

    def _failed(self, said: str) -> DeviceFailed:
        if re.search("No space left on device|ENOSPC", said):
            cure = f"free some there; this removes what edgevit put there: edgevit devices adb://{self._serial} --clean"
            return DeviceFailed("there is no space left on the device", where=FOLDER, cure=cure)
        if re.search("Read-only file system|Permission denied", said):
            return DeviceFailed("edgevit cannot write on the device", where=last_line(said))
        return DeviceFailed("a command failed on the device", where=last_line(said))

    def properties(self) -> dict[str, str]:
        """Android's properties; none where this is no Android."""
        return parse_properties(self.shell("getprop 2>/dev/null || true"))

    def put(self, path: Path) -> str:
        """Push a file unless one of the same content is there."""
        digest = sha256_file(path)
        plain = re.sub(r"[^A-Za-z0-9._-]", "_", path.name)[-80:]
        place = f"{FOLDER}/files/{digest[:16]}-{plain}"
        if self._sent.get(place) == digest:
            return place
        quoted, scratch = shlex.quote(place), f"{place}.part"
        if self.shell(f"mkdir -p {FOLDER}/files; [ -f {quoted} ] && echo there || true") != "there":
            size = path.stat().st_size
            if size > _LARGE:
                self._announce(f"sending {path.name}, {size / 1e6:.1f} MB")
            self._push(path, scratch)
            part = shlex.quote(scratch)
            self.shell(f"echo '{digest}  {scratch}' | sha256sum -c >/dev/null && mv {part} {quoted}")
        self._sent[place] = digest
        return place

    def _push(self, path: Path, place: str) -> None:
        """By adb's own program: adbutils does not say why a device refuses a file."""
        command = [self._adbutils.adb_path(), "-s", self._serial, "push", str(path), place]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        # A device that went away says so here.
        self.shell(f"rm -f {shlex.quote(place)}")
        raise self._failed(done.stderr + done.stdout)

    def start(self, runtime: str, arguments: list[str], deadline_s: float) -> RunnerProcess:
        """Start the capsule's Python."""
        if self.shell(f"[ -f {FOLDER}/capsule/{MARKER} ] && cat {FOLDER}/capsule/{MARKER} || true") != recipe().digest:
            raise DeviceFailed(
                "the phone has no Python that edgevit can run",
                cure="edgevit profile ... --install-runtime puts one into edgevit's own folder on the phone",
            )
        words = " ".join(shlex.quote(argument) for argument in arguments)
        own = f"{FOLDER}/runtimes/{runtime}" if runtime else ""
        script = (
            f"cd {FOLDER} && HOME={FOLDER} TMPDIR={FOLDER} ORT_DISABLE_TELEMETRY=1 PYTHONDONTWRITEBYTECODE=1 "
            f"PYTHONHOME={FOLDER}/capsule/py PYTHONPATH={own} "
            f"timeout -k {_KILL_AFTER_S} {int(deadline_s) + _LATER_S} capsule/{LINKER} --library-path "
            f"{FOLDER}/capsule/lib capsule/py/{PYTHON} {words}; exit $?"
        )
        command = [self._adbutils.adb_path(), "-s", self._serial, "shell", script]
        return RunnerProcess(command, deadline_s, self._explain)

    def _explain(self, code: int, said: str) -> EdgevitError | None:  # noqa: ARG002
        """adb gives 1 or 255 for a lost device, and so may a program: whether it still answers decides."""
        if code not in (1, 255):
            return None
        try:
            self.shell("true", limit_s=10)
        except DeviceUnreachable as gone:
            return gone
        return None

    def library(self, runtime: str) -> tuple[str, str]:
        """edgevit's library beside a runtime's own ones, and the runtime's version."""
        marker = self._marker(runtime)
        if not marker.get("library"):
            return "", ""
        return f"{FOLDER}/runtimes/{runtime}/{LIBRARY}", str(marker["version"])

    def _marker(self, runtime: str) -> dict[str, object]:
        text = self.shell(f"cat {FOLDER}/runtimes/{shlex.quote(runtime)}/{MARKER} 2>/dev/null || echo '{{}}'")
        try:
            found = json.loads(text)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def install(self, runtime: str, host: Event) -> None:  # noqa: ARG002  # the capsule's Python decides
        """Bring the capsule and a runtime."""
        wanted = recipe()
        machine = self.shell("uname -m")
        if machine != wanted.machine:
            raise DeviceFailed(f"edgevit's runtimes for Android are for {wanted.machine}, this phone is {machine}")
        self._unpack(capsule(self._announce), f"{FOLDER}/capsule", wanted.digest)
        chosen = Installation(runtime, wanted.machine, wanted.python)
        if self._marker(runtime) != chosen.marker():
            self._announce(f"fetching {runtime} for {chosen.machine}, Python {chosen.python}")
            self._unpack(prepare(chosen), f"{FOLDER}/runtimes/{runtime}", "")

    def _unpack(self, archive: Path, place: str, mark: str) -> None:
        if mark and self.shell(f"cat {place}/{MARKER} 2>/dev/null || true") == mark:
            return
        pushed = self.put(archive)
        write = f'printf %s {mark} >"$t"/{MARKER}; ' if mark else ""
        self.shell(
            f"set -e; mkdir -p {FOLDER}/runtimes; t={place}.part; rm -rf $t; mkdir $t; "
            f"tar -xzf {pushed} -C $t; {write}rm -rf {place}; mv $t {place}; rm -f {pushed}",
            limit_s=600,
        )
        self._sent.clear()

    def clean(self) -> int:
        """Remove edgevit's folder there."""
        size = self.shell(f"[ -d {FOLDER} ] && du -sk {FOLDER} | cut -f1 && rm -rf {FOLDER} || echo 0")
        self._sent.clear()
        return int(size.split()[0]) * 1024

    def close(self) -> None:
        """adb keeps its own connection."""


class AndroidDevice(ShellDevice):
    """An Android phone: Linux, and what Android adds to it on heat, battery and model."""

    def __init__(self, uri: str, transport: ADBTransport, reach: Reach) -> None:
        super().__init__(uri, "adb", transport, reach)
        self._adb = transport

    def probe(self, runtime: str = "") -> list[Event]:
        """What the runner says, or without a runner what Android says."""
        properties = self._adb.properties()
        try:
            said = super().probe(runtime)
        except DeviceFailed:
            said = [{"event": "host", "machine": self._adb.shell("uname -m"), "cpus": self._cores()}]
        return [self._named(event, properties) for event in said]

    def _cores(self) -> int:
        text = self._adb.shell("nproc 2>/dev/null || echo 1")
        return int(text) if text.isdigit() else 1

    def _named(self, event: Event, properties: dict[str, str]) -> Event:
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

    def profile(self, job: Job) -> Iterator[Event]:
        """Measure one model, with Android's own word on heat and battery."""
        properties = self._adb.properties()
        for event in super().profile(job):
            if event["event"] == "conditions" and event["phase"] in ("before", "after"):
                # A phone that went away may still have said something: the runner's own end will tell.
                with contextlib.suppress(DeviceUnreachable):
                    yield from self._warnings(event)
            yield self._named(event, properties)
        soc = " ".join(filter(None, (properties.get("ro.soc.manufacturer"), properties.get("ro.soc.model"))))
        if soc:
            yield {"event": "details", "values": {"SoC": soc, "build": properties.get("ro.build.fingerprint", "")}}

    def _warnings(self, event: Event) -> Iterator[Event]:
        """Add what Android knows to the runner's conditions; stamps for what voids them."""
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
    """Connect."""
    wanted = uri.removeprefix("adb:").strip("/")
    if wanted.startswith("-"):
        raise UsageError(f"{uri!r} is not a device: no serial number starts with a dash")
    return AndroidDevice(uri, ADBTransport(choose(wanted, _listed()), reach), reach)


def discover() -> list[Found]:
    """What adb sees; a server that does not run is not started just to look."""
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
