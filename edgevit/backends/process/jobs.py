"""Starts workers, enforces their time and memory limits, and explains how they ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil
from pydantic import JsonValue

from edgevit.backends.base import find_backend
from edgevit.backends.process.job import Job, JobResult, PlaceFacts, PlaceJob
from edgevit.core.disk import disk_full, has_no_space, says_disk_full
from edgevit.errors import ConversionFailed, EnvironmentIncomplete
from edgevit.schema.strict import Strict

_POLL_SECONDS = 0.1
"""How often a worker's time and memory are checked; bounds how late an overrun is noticed."""
_ERROR_LINE = re.compile(r"(\w*(Error|Exception|Failure)\b.*|.*(abort|Aborted|Segmentation|LLVM ERROR|error:).*)")


@dataclass(frozen=True)
class ProcessLimits:
    """Resource limits of one worker.

    Attributes:
        seconds: wall-clock time.
        memory_bytes: resident memory.
        threads: number of torch threads.
    """

    seconds: float = 1800.0
    memory_bytes: int = 0
    threads: int = 1

    def memory(self) -> int:
        """The memory limit in bytes; by default nine tenths of the machine's memory."""
        return self.memory_bytes or int(psutil.virtual_memory().total * 0.9)


@dataclass(frozen=True)
class Worker:
    """A process that imports a toolchain while it waits for its one job.

    Attributes:
        process: runs `edgevit.backends.process.worker`.
        request: path of the job file that it waits for.
        log: file that receives its output.
    """

    process: subprocess.Popen[bytes]
    request: Path
    log: Path


def start_worker(folder: Path, log: Path, limits: ProcessLimits, imports: Sequence[str] = ()) -> Worker:
    """Start a worker.

    Args:
        folder: an existing scratch folder, the worker's own, for the job and its result.
        log: gets everything that the process prints.
        limits: for its number of threads.
        imports: modules that its job will need.
    """
    request = folder / "job.json"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "edgevit.backends.process.worker", str(request), *imports],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(limits),
            start_new_session=True,
        )
    return Worker(process, request, log)


Facts = TypeVar("Facts", bound=Strict)


def run_job(
    job: Job,
    facts: type[Facts],
    folder: Path,
    log: Path,
    limits: ProcessLimits,
    stop: threading.Event | None = None,
    worker: Worker | None = None,
) -> Facts:
    """Carry out one job in a process of its own.

    Args:
        job: what to do.
        facts: the document that answers it.
        folder: an existing scratch folder; the job's own is made inside it.
        log: gets everything that the process prints.
        limits: time and memory; a worker past either is ended.
        stop: when set, the worker is ended and `InterruptedError` raised.
        worker: started before, in place of one that is started now.

    Returns:
        What the job is answered by.

    Raises:
        ConversionFailed: it failed, crashed, or went past a limit; names the log.
        EnvironmentIncomplete: a package that it needs is missing, or the disk is full.
    """
    if worker is None:
        worker = start_worker(Path(tempfile.mkdtemp(prefix="job-", dir=folder)), log, limits)
    written = worker.request.with_suffix(".part")
    threaded = job.model_copy(update={"threads": limits.threads})
    written.write_text(threaded.model_dump_json(exclude_none=True), encoding="utf-8")
    written.rename(worker.request)
    try:
        broken = _watch(worker.process, limits, stop)
    finally:
        end_worker(worker)
        _keep_log(worker, log)
    result = _read_result(worker.request.with_suffix(".result"))
    if result and result.answer is not None:
        return facts.model_validate(result.answer)
    if result and result.incomplete:
        missing = result.incomplete
        raise EnvironmentIncomplete(missing.message, where=missing.where, cure=missing.cure)
    if _ran_out_of_disk(result, folder, log):
        raise disk_full(folder.parent)
    cause = "" if broken else _cause(job, log)
    failed = ConversionFailed(
        broken or _reason(result, worker.process.returncode, log) + cause,
        where=f"log: {log}",
        cure="export to another target, whose runtime has kernels of its own"
        if cause
        else "read the log; edgevit doctor checks the toolchain's version",
    )
    failed.at_limit = bool(broken)
    raise failed


def _read_result(path: Path) -> JobResult | None:
    """What a worker left; None where it ended before, or could not write all of it."""
    try:
        return JobResult.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return None


def _ran_out_of_disk(result: JobResult | None, folder: Path, log: Path) -> bool:
    """Whether a job failed for want of disk: as it said, as its last lines say, or as the disk looks."""
    if result is not None and result.disk_full:
        return True
    with suppress(OSError):
        if says_disk_full("\n".join(log.read_text("utf-8", "replace").splitlines()[-50:])):
            return True
    return has_no_space(folder)


def _keep_log(worker: Worker, log: Path) -> None:
    """Append what a worker printed before it got its job to the job's log."""
    if worker.log != log:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as kept:
            kept.write(worker.log.read_bytes())


def _environment(limits: ProcessLimits) -> dict[str, str]:
    quiet = {"ORT_DISABLE_TELEMETRY": "1", "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONWARNINGS": "ignore"}
    package = str(Path(__file__).parents[3])
    path = os.pathsep.join(part for part in (package, os.environ.get("PYTHONPATH", "")) if part)
    return {**os.environ, **quiet, "OMP_NUM_THREADS": str(limits.threads), "PYTHONPATH": path}


def _watch(process: subprocess.Popen[bytes], limits: ProcessLimits, stop: threading.Event | None) -> str:
    """Wait for the worker's end; returns the reason where it had to be killed."""
    deadline, memory = time.monotonic() + limits.seconds, limits.memory()
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        if stop is not None and stop.is_set():
            raise InterruptedError
        if time.monotonic() > deadline:
            return f"it took longer than its limit of {limits.seconds:g} s"
        try:
            if watched.memory_info().rss > memory:
                return f"it needed more than its limit of {memory / 2**30:.1f} GiB of memory"
        except psutil.Error:
            continue
        time.sleep(_POLL_SECONDS)
    return ""


def end_worker(worker: Worker) -> None:
    """Kill a worker; one that has ended is left alone."""
    process = worker.process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin:
        process.stdin.close()


def _reason(result: JobResult | None, status: int, log: Path) -> str:
    if result:
        return _one_line(result.error)
    if status < 0:
        tail = _last_error(log)
        return f"the toolchain crashed with {signal.Signals(-status).name}" + (f": {tail}" if tail else "")
    return f"the toolchain ended with status {status}"


def _cause(job: Job, log: Path) -> str:
    """What the format's runtime printed of the cause, to follow the reason."""
    found = find_backend(job.backend).cause("\n".join(log.read_text("utf-8", "replace").splitlines()[-200:]))
    return f"; {found}" if found else ""


def _one_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:300] if lines else "it failed without a message"


def _last_error(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").splitlines()[-200:]
    found = [line.strip() for line in lines if _ERROR_LINE.match(line.strip())]
    return found[-1][:200] if found else ""


def placement_apart(backend: str, path: Path) -> dict[str, JsonValue] | None:
    """Where a file's operators run, as `edgevit.schema.placement.Placement.to_dict` has it.

    A runtime may have to load the file to say so, and a damaged file may end its process: it is one of its own.

    Returns:
        None where the backend cannot tell on this machine, or the file cannot be loaded.
    """
    with tempfile.TemporaryDirectory() as folder:
        job = PlaceJob(backend=backend, file=path.resolve())
        try:
            return run_job(job, PlaceFacts, Path(folder), Path(folder) / "log", ProcessLimits()).placement
        except ConversionFailed:
            return None
