"""Profiles a bundle on a device: deploy, measure, compare the answers, judge the figures."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from importlib.metadata import version

import numpy as np

from edgevit.bundle.golden import FOLDER, read_golden
from edgevit.bundle.read import Bundle
from edgevit.devices.base import ConnectedDevice, MeasurementJob, RunnerEvent, prepare
from edgevit.errors import DeviceFailed, DeviceUnreachable, UsageError
from edgevit.profiling import collect
from edgevit.profiling.collect import Collected
from edgevit.profiling.contract import Settings
from edgevit.schema.profile import Answers, ArtifactInfo, Profile
from edgevit.schema.target import Runtime, engine_for, runtimes
from edgevit.verify.judge import judge

RunnerListener = Callable[[RunnerEvent], None]
_PARTIAL_LOSES = "the device went away before the end"


def ignore_event(event: RunnerEvent) -> None:
    """A listener that discards every event: the default where no progress is shown."""


def now() -> str:
    """The current time, UTC, to the second, as text."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def artifact_info(bundle: Bundle) -> ArtifactInfo:
    """The description of a bundle's file in a report."""
    manifest = bundle.manifest
    listed = [entry for entry in manifest.files or () if entry.path.startswith(manifest.entry)]
    return ArtifactInfo(
        model=manifest.model.name,
        bundle=bundle.path.name,
        backend=manifest.target.backend,
        precision=manifest.target.precision,
        entry_sha256=listed[0].sha256 if bundle.entry.is_file() else "",
        bytes=sum(entry.bytes for entry in listed),
    )


def runtime_for(bundle: Bundle, device: ConnectedDevice) -> Runtime:
    """The runtime that runs a bundle on a device of this kind.

    Raises:
        UsageError: no runtime does.
    """
    backend = bundle.manifest.target.backend
    found = engine_for(backend, device.kind)
    if found is None:
        kinds = sorted({kind for one in runtimes().values() if one.backend == backend for kind in one.reached_by})
        cure = f"{backend} files are measured on {', '.join(kinds)}: edgevit devices" if kinds else ""
        raise UsageError(f"{device.kind}: runs no {backend} files", where=str(bundle.path), cure=cure)
    return found


def job_for(bundle: Bundle, device: ConnectedDevice, settings: Settings, processors: int) -> MeasurementJob:
    """The measurement job for a device."""
    return MeasurementJob(
        model=bundle.entry,
        runtime=runtime_for(bundle, device).engine,
        inputs=bundle.path / FOLDER / "inputs.safetensors",
        settings={
            **settings.job(processors),
            "title": f"{bundle.manifest.model.name} {bundle.path.name}",
        },
        deadline_s=settings.limit_s(),
    )


def introduced(device: ConnectedDevice) -> Collected:
    """The device's own description, requested before there is a job."""
    found = Collected()
    for event in device.probe():
        if event["event"] in ("host", "details", "stamp"):
            found.take(event)
    return found


def profile(
    bundle: Bundle,
    device: ConnectedDevice,
    settings: Settings | None = None,
    *,
    listen: RunnerListener = ignore_event,
    evaluated: tuple[str, float] | None = None,
) -> Profile:
    """Measure a bundle.

    Args:
        bundle: opened with its files checked.
        device: connected.
        settings: of the noise contract; None: the contract as it stands.
        listen: called with every runner event.
        evaluated: a data set and the bundle's accuracy on it, for the report.

    Returns:
        The profile; ``partial`` if the device went away after runs had been measured.

    Raises:
        UsageError: the device runs no such files.
        DeviceUnreachable: it went away before there was a run, or cannot run the model.
    """
    settings = settings or Settings()
    wanted = runtime_for(bundle, device)
    prepare(device, wanted.engine)
    found = introduced(device)
    job = job_for(bundle, device, settings, found.processors)
    lost: DeviceUnreachable | None = None
    try:
        with closing(device.profile(job)) as events:
            for event in events:
                found.take(event)
                listen(event)
                if event["event"] == "loaded":
                    check_version(wanted, str(event["version"]))
    except DeviceUnreachable as error:
        if not found.runs_ns:
            raise
        lost = error
    if settings.per_op and lost is None:
        lost = _operators(device, replace(job, deadline_s=settings.limit_s()), found, listen)
    return report(bundle, device, settings, found, lost, evaluated)


def _operators(
    device: ConnectedDevice, job: MeasurementJob, found: Collected, listen: RunnerListener
) -> DeviceUnreachable | None:
    """Time the operators; a runtime without operator times loses the table, a lost device ends the profile."""
    try:
        with closing(device.operators(job)) as events:
            for event in events:
                if event["event"] == "operators":
                    found.take(event)
                listen(event)
    except DeviceFailed as error:
        found.details["operators"] = error.message
    except DeviceUnreachable as error:
        return error
    return None


def _numbers(text: str) -> tuple[int, ...]:
    parts = text.partition("+")[0].split(".")
    return tuple(int(part) for part in parts[:3] if part.isdigit())


def check_version(wanted: Runtime, found: str) -> None:
    """Refuse a runtime below its version floor.

    Raises:
        DeviceFailed: it is older than files of this backend need.
    """
    if _numbers(found) and _numbers(found) < _numbers(wanted.version):
        raise DeviceFailed(
            f"the device has {wanted.package} {found}; files of this kind need {wanted.version} or newer",
            cure="edgevit profile ... --install-runtime puts a good one into edgevit's own folder on the device",
        )


def answers(bundle: Bundle, found: Collected) -> Answers | None:
    """The verdict on the golden outputs that the device returned."""
    if found.outputs is None:
        return None
    golden = read_golden(bundle.path)
    verdict = judge(bundle.manifest, golden.outputs, np.asarray(found.outputs, np.float32), golden.exact)
    return Answers(
        equal=verdict.status == "passed",
        probes=len(golden.outputs),
        error=verdict.error,
        tolerance=verdict.tolerance,
        reasons=verdict.reasons,
    )


def report(
    bundle: Bundle,
    device: ConnectedDevice,
    settings: Settings,
    found: Collected,
    lost: DeviceUnreachable | None,
    evaluated: tuple[str, float] | None,
) -> Profile:
    """The profile document from the collected events."""
    contract = settings.contract()
    measured, samples = collect.latency(found.runs_ns, found.seconds) if found.runs_ns else (None, ())
    verdict = answers(bundle, found)
    reasons = collect.doubts(found, measured, contract)
    if lost is not None:
        reasons = [f"{_PARTIAL_LOSES}: {lost.message}", *reasons]
    if verdict is not None and not verdict.equal:
        reasons = [f"the device computes something else: {verdict.reasons[0]}", *reasons]
    info = artifact_info(bundle)
    if evaluated:
        info = info.model_copy(update={"accuracy_on": evaluated[0], "accuracy": evaluated[1]})
    machine = collect.device_info(device.uri, device.kind, found)
    return Profile(
        edgevit=version("edgevit"),
        created=now(),
        status=collect.status(
            reasons, done=found.done and lost is None, equal=None if verdict is None else verdict.equal
        ),
        reasons=tuple(reasons),
        notes=tuple(collect.remarks(found.conditions)),
        emulated=bool(machine.emulator),
        device=machine,
        artifact=info,
        runtime=collect.runtime_info(found),
        contract=contract,
        load_ms=found.loaded["ns"] / 1e6 if found.loaded else None,
        first_ms=None if found.first_ns is None else found.first_ns / 1e6,
        warmup=collect.warmup(found),
        latency=measured,
        memory=collect.memory(found),
        answers=verdict,
        conditions=tuple(found.conditions),
        operators=collect.operator_times(found),
        sustained=collect.sustained_windows(found),
        energy=collect.energy(found),
        samples_ms=samples,
    )
