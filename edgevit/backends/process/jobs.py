"""Starts workers, enforces their time and memory limits, and explains how they ended."""

from __future__ import annotations

import json
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
from typing import Any

import psutil

from edgevit.core.disk import disk_full, has_no_space, says_disk_full
from edgevit.errors import ConversionFailed, EnvironmentIncomplete

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


def run_job(
    job: dict[str, Any],
    folder: Path,
    log: Path,
    limits: ProcessLimits,
    stop: threading.Event | None = None,
    worker: Worker | None = None,
) -> dict[str, Any]:
    """Carry out one job in a separate process.

    Args:
        job: for `edgevit.backends.process.worker`.
        folder: an existing scratch folder; the job's own is made inside it.
        log: gets everything that the process prints.
        limits: time and memory; a worker past either is ended.
        stop: when set, the worker is ended and `InterruptedError` raised.
        worker: started before, in place of one that is started now.

    Returns:
        What the job returned.

    Raises:
        ConversionFailed: it failed, crashed, or went past a limit; names the log.
        EnvironmentIncomplete: a package that it needs is missing, or the disk is full.
    """
    if worker is None:
        worker = start_worker(Path(tempfile.mkdtemp(prefix="job-", dir=folder)), log, limits)
    written = worker.request.with_suffix(".part")
    written.write_text(json.dumps({**job, "threads": limits.threads}), encoding="utf-8")
    written.rename(worker.request)
    try:
        broken = _watch(worker.process, limits, stop)
    finally:
        end_worker(worker)
        _keep_log(worker, log)
    result = _read_result(worker.request.with_suffix(".result"))
    if result and result["ok"]:
        return {key: value for key, value in result.items() if key != "ok"}
    if result and "incomplete" in result:
        raise EnvironmentIncomplete(**result["incomplete"])
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


def _read_result(path: Path) -> dict[str, Any] | None:
    """The result that a worker wrote; None where it ended before, or could not write all of it."""
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return result


def _ran_out_of_disk(result: dict[str, Any] | None, folder: Path, log: Path) -> bool:
    """Whether a job failed for lack of disk space: by its own error, its last lines, or the free space now."""
    if result is not None and result.get("disk_full"):
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


def _reason(result: dict[str, Any] | None, status: int, log: Path) -> str:
    if result:
        return _one_line(result["error"])
    if status < 0:
        tail = _last_error(log)
        return f"the toolchain crashed with {signal.Signals(-status).name}" + (f": {tail}" if tail else "")
    return f"the toolchain ended with status {status}"


def _cause(job: dict[str, Any], log: Path) -> str:
    """The cause that the format's runtime printed, to be appended to the reason."""
    from edgevit.backends.base import find_backend

    target = job.get("manifest", {}).get("target", job)
    if "backend" not in target:
        return ""
    found = find_backend(target["backend"]).cause("\n".join(log.read_text("utf-8", "replace").splitlines()[-200:]))
    return f"; {found}" if found else ""


def _one_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:300] if lines else "it failed without a message"


def _last_error(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").splitlines()[-200:]
    found = [line.strip() for line in lines if _ERROR_LINE.match(line.strip())]
    return found[-1][:200] if found else ""


def placement_apart(backend: str, path: Path) -> dict[str, Any] | None:
    """Where a file's operators run, as `edgevit.schema.placement.Placement.to_dict` has it.

    A runtime may have to load the file to say so, and a damaged file may end its process: it is one of its own.

    Returns:
        None where the backend cannot tell on this machine, or the file cannot be loaded.
    """
    with tempfile.TemporaryDirectory() as folder:
        job = {"job": "place", "backend": backend, "file": str(path.resolve())}
        try:
            found: dict[str, Any] | None = run_job(job, Path(folder), Path(folder) / "log", ProcessLimits())[
                "placement"
            ]
        except ConversionFailed:
            return None
    return found
