"""``ios:``: an iPhone or iPad attached to this Mac, through devicectl and coremltools' own performance utilities.

Needs macOS, Xcode and an Apple development team to sign coremltools' runner app. None of that can be had on Linux:
the parser of devicectl's answer is tested on golden texts, what drives coremltools has not been run by us. It gives
times, not outputs, so a profile from here says nothing about the answers.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgevit.devices.base import Found, Kind, MeasurementJob, Reach, RunnerEvent, RunnerEvents, Turns
from edgevit.devices.runner_process import last_line
from edgevit.errors import DeviceFailed, DeviceUnreachable, EdgevitError, MissingDependency, UsageError

TEAM = "EDGEVIT_APPLE_TEAM"
_LIST_S = 60
"""Seconds that ``devicectl`` may take to list devices."""
_CHUNK = 20
"""Runs in one window of the warm-up."""
_WINDOWS = 3
"""Windows of the warm-up; their medians tell whether latency was steady, as in edgevit's own runner."""


@dataclass(frozen=True)
class AppleDevice:
    """One entry of ``devicectl list devices``.

    Attributes:
        identifier: devicectl's own.
        name: that its owner gave it.
        model: as sold, e.g. ``iPhone 17 Pro``.
        system: with its version.
        connected: whether it can be reached now.
        developer_mode: whether it runs apps from Xcode.
    """

    identifier: str
    name: str
    model: str
    system: str
    connected: bool
    developer_mode: bool


def parse_devices(text: str) -> list[AppleDevice]:
    """The JSON that ``xcrun devicectl list devices --json-output FILE`` writes.

    Raises:
        DeviceFailed: it is something else.
    """
    try:
        listed = json.loads(text)["result"]["devices"]
        return [_device(one) for one in listed if one.get("identifier")]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DeviceFailed("devicectl said what edgevit does not know", where=text[:120]) from error


def _device(entry: dict[str, Any]) -> AppleDevice:
    hardware, properties = entry.get("hardwareProperties", {}), entry.get("deviceProperties", {})
    tunnel = entry.get("connectionProperties", {}).get("tunnelState", "")
    platform_name = hardware.get("platform", "iOS")
    return AppleDevice(
        identifier=str(entry["identifier"]),
        name=str(properties.get("name", "")),
        model=str(hardware.get("marketingName") or hardware.get("productType", "")),
        system=f"{platform_name} {properties.get('osVersionNumber', '')}".strip(),
        connected=tunnel in ("connected", "disconnected"),
        developer_mode=properties.get("developerModeStatus") == "enabled",
    )


def _listed() -> list[AppleDevice]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "devices.json"
        command = ["xcrun", "devicectl", "list", "devices", "--json-output", str(out)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_LIST_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            cure = "unlock the devices; then, in a terminal: xcrun devicectl list devices"
            raise DeviceUnreachable("devicectl does not answer", where=last_line(str(error)), cure=cure) from error
        if done.returncode != 0 or not out.is_file():
            raise DeviceUnreachable(
                "devicectl does not list devices", where=last_line(done.stderr), cure="xcode-select -p"
            )
        return parse_devices(out.read_text(encoding="utf-8"))


def missing() -> tuple[str, str]:
    """What this computer lacks for iPhones, and what to do; two empty strings where nothing is missing."""
    if platform.system() != "Darwin":
        return "iPhones are measured from a Mac with Xcode, this is no Mac", "on any computer: -d browser: --lan"
    if shutil.which("xcrun") is None:
        return "Xcode is not installed", "xcode-select --install"
    if not os.environ.get(TEAM):
        return "no Apple development team signs the runner app", f"export {TEAM}=YOUR_TEAM_ID"
    return "", ""


class IOSDevice:
    """One attached iPhone or iPad.

    Attributes:
        uri: how it was named.
        kind: ``ios``.
    """

    kind = "ios"

    def __init__(self, uri: str, found: AppleDevice) -> None:
        self.uri, self._found = uri, found

    def probe(self) -> list[RunnerEvent]:
        """Model, system and Core ML version of the device, as ``devicectl`` lists them."""
        host = {"event": "host", "machine": "arm64", "model": self._found.model, "os": self._found.system, "cpus": 1}
        return [host, {"event": "runtimes", "versions": {"coreml": self._found.system}, "meter": ""}]

    def profile(self, job: MeasurementJob) -> RunnerEvents:
        """Times of loading and predicting on the device, from coremltools' benchmarker."""
        yield from self._driven(_measured(self._found.identifier, job, self._found.system))

    def operators(self, job: MeasurementJob) -> RunnerEvents:
        """Times of the model's operations, from coremltools' benchmarker."""
        yield from self._driven(_operations(self._found.identifier, job))

    def _driven(self, work: Coroutine[Any, Any, list[RunnerEvent]]) -> list[RunnerEvent]:
        """Events from what coremltools reports.

        Raises:
            MissingDependency: it is not installed.
            DeviceUnreachable: the device is gone, or coremltools failed, whatever it raises.
        """
        try:
            return asyncio.run(work)
        except ImportError as error:
            raise MissingDependency("coremltools", "devices attached to a Mac", extra="coreml") from error
        except EdgevitError:
            raise
        except Exception as error:
            message = last_line(str(error)) or type(error).__name__
            cure = "unlock it, keep its screen on, and look whether Xcode runs an app on it"
            raise DeviceFailed(
                f"coremltools could not measure on {self._found.name}", where=message, cure=cure
            ) from error

    def turns(self, job: MeasurementJob) -> Turns:  # noqa: ARG002
        """Refused: coremltools loads one model at a time."""
        raise UsageError("compare does not run on iOS", cure="profile both, or compare in Safari: -d browser: --lan")

    def clean(self) -> int:
        """Nothing to remove from here: coremltools' runner app stays until it is deleted by hand; 0 bytes."""
        return 0

    def close(self) -> None:
        """Does nothing: no connection is held between measurements."""


async def _benchmarker(identifier: str, job: MeasurementJob) -> Any:
    from coremltools.models import MLModel
    from coremltools.models.ml_program.experimental.perf_utils import MLModelBenchmarker
    from coremltools.models.ml_program.experimental.remote_device import AppSigningCredentials, Device

    device = next((one for one in Device.get_devices() if one.identifier == identifier), None)
    if device is None:
        raise DeviceUnreachable("the device is not attached any more", cure="attach it by cable and unlock it")
    ready = await device.prepare_for_model_debugging(AppSigningCredentials(development_team=os.environ[TEAM]))
    return MLModelBenchmarker(MLModel(str(job.model), skip_model_load=True), ready)


def _ns(milliseconds: list[float]) -> list[int]:
    return [round(one * 1e6) for one in milliseconds]


async def _measured(identifier: str, job: MeasurementJob, system: str) -> list[RunnerEvent]:
    bench = await _benchmarker(identifier, job)
    loaded = _ns((await bench.benchmark_load(iterations=1)).samples)[0]
    first = _ns((await bench.benchmark_predict(iterations=1)).samples)[0]
    windows = [_ns((await bench.benchmark_predict(iterations=_CHUNK)).samples) for _ in range(_WINDOWS)]
    runs = _ns((await bench.benchmark_predict(iterations=int(job.settings["runs"]))).samples)
    medians = [sorted(window)[len(window) // 2] for window in windows]
    steady = max(medians) <= min(medians) * (1 + float(job.settings["warmup_agree"]))
    spent = sum(map(sum, windows)) / 1e9
    return [
        {"event": "loaded", "ns": loaded, "runtime": "coreml", "version": system, "threads": 1, "accelerator": "all"},
        {"event": "first", "ns": first},
        {"event": "warmup", "runs": _CHUNK * _WINDOWS, "seconds": spent, "steady": steady, "medians_ns": medians},
        {"event": "runs", "at_s": sum(runs) / 1e9, "ns": runs},
        {"event": "details", "values": {"answers": "not compared: coremltools gives times only"}},
        {"event": "done"},
    ]


async def _operations(identifier: str, job: MeasurementJob) -> list[RunnerEvent]:
    bench = await _benchmarker(identifier, job)
    found = await bench.benchmark_operation_execution(iterations=int(job.settings["operator_runs"]))
    rows = []
    for path, measurement in found.items():
        if measurement.statistics is not None:
            name, micros = str(path), measurement.statistics.median * 1000
            rows.append({"name": name, "kind": name.rpartition("/")[2], "unit": "Core ML", "calls": 1, "us": micros})
    return [{"event": "operators", "runs": 1, "rows": sorted(rows, key=lambda row: -row["us"])}, {"event": "done"}]


def choose(wanted: str, listed: list[AppleDevice]) -> AppleDevice:
    """The requested device, or the only one.

    Raises:
        DeviceUnreachable: it is not there or not ready.
        UsageError: there are several, and none was named.
    """
    known = [one for one in listed if wanted in ("", one.identifier, one.name)]
    if not known:
        raise DeviceUnreachable("no such device is attached", cure="attach it by cable, unlock it and trust this Mac")
    if len(known) > 1:
        raise UsageError(
            "there are several devices", where=", ".join(one.name for one in known), cure="ios://IDENTIFIER"
        )
    if not known[0].developer_mode:
        cure = "Settings, Privacy & Security, Developer Mode"
        raise DeviceUnreachable(f"{known[0].name} does not run apps from Xcode", cure=cure)
    if not known[0].connected:
        raise DeviceUnreachable(f"{known[0].name} is not connected", cure="attach it by cable and unlock it")
    return known[0]


def open_ios(uri: str, reach: Reach) -> IOSDevice:  # noqa: ARG001
    """Find the iOS device of a URI ``ios:NAME`` among those attached to this Mac."""
    lacking, cure = missing()
    if lacking:
        raise DeviceUnreachable(lacking, cure=cure)
    return IOSDevice(uri, choose(uri.removeprefix("ios:").strip("/"), _listed()))


def discover() -> list[Found]:
    """The devices that devicectl lists, or what this computer lacks."""
    lacking, cure = missing()
    if lacking:
        return [Found("ios:", "missing", lacking, cure)]
    try:
        listed = _listed()
    except DeviceUnreachable as error:
        return [Found("ios:", "missing", error.message, error.cure)]
    found = [
        Found(f"ios://{one.identifier}", "ready" if one.connected else "away", f"{one.name}, {one.model}, {one.system}")
        for one in listed
    ]
    return found or [
        Found("ios:", "none", "no iPhone or iPad is known here", "attach one by cable, and trust this Mac")
    ]


KIND = Kind("iPhone and iPad attached to this Mac", "ios://IDENTIFIER", open_ios, discover)
