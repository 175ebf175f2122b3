"""Start a worker, keep its time and memory within limits, and understand how it ended."""

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from edgevit.errors import ConversionFailed

_POLL_SECONDS = 0.1
_ERROR_LINE = re.compile(r"(\w*(Error|Exception|Failure)\b.*|.*(abort|Aborted|Segmentation|LLVM ERROR|error:).*)")


@dataclass(frozen=True)
class Limits:
    """What one worker may use.

    Attributes:
        seconds: wall time.
        memory_bytes: resident memory.
        threads: for torch inside it.
    """

    seconds: float = 1800.0
    memory_bytes: int = 0
    threads: int = 1

    def memory(self) -> int:
        """The memory limit; without one, nine tenths of the machine."""
        return self.memory_bytes or int(psutil.virtual_memory().total * 0.9)


def run_job(
    job: dict[str, Any], folder: Path, log: Path, limits: Limits, stop: threading.Event | None = None
) -> dict[str, Any]:
    """Carry out one job in a process of its own.

    Args:
        job: for `edgevit.backends._worker`.
        folder: an existing scratch folder for the job and its result.
        log: gets everything that the process prints.
        limits: time and memory; a worker past either is ended.
        stop: when set, the worker is ended and `InterruptedError` raised.

    Returns:
        What the job returned.

    Raises:
        ConversionFailed: it failed, crashed, or went past a limit; names the log.
    """
    name = job["job"]
    request = folder / f"{name}.json"
    request.write_text(json.dumps({**job, "threads": limits.threads}), encoding="utf-8")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "edgevit.backends._worker", str(request)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(limits),
            start_new_session=True,
        )
        try:
            broken = _watch(process, limits, stop)
        finally:
            _end(process)
    result_file = request.with_suffix(".result")
    result = json.loads(result_file.read_text(encoding="utf-8")) if result_file.exists() else None
    if result and result["ok"]:
        return {key: value for key, value in result.items() if key != "ok"}
    raise ConversionFailed(
        broken or _reason(result, process.returncode, log),
        where=f"log: {log}",
        cure="read the log; edgevit doctor checks the toolchain's version",
    )


def _environment(limits: Limits) -> dict[str, str]:
    quiet = {"ORT_DISABLE_TELEMETRY": "1", "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONWARNINGS": "ignore"}
    package = str(Path(__file__).parents[2])
    path = os.pathsep.join(part for part in (package, os.environ.get("PYTHONPATH", "")) if part)
    return {**os.environ, **quiet, "OMP_NUM_THREADS": str(limits.threads), "PYTHONPATH": path}


def _watch(process: subprocess.Popen[bytes], limits: Limits, stop: threading.Event | None) -> str:
    """Wait for the end; the reason where the worker had to be ended."""
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


def _end(process: subprocess.Popen[bytes]) -> None:
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


def _one_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:300] if lines else "it failed without a message"


def _last_error(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").splitlines()[-200:]
    found = [line.strip() for line in lines if _ERROR_LINE.match(line.strip())]
    return found[-1][:200] if found else ""


def placement_apart(backend: str, path: Path) -> dict[str, Any] | None:
    """Where a file's operators run, as `edgevit.core.placement.Placement.to_dict` has it.

    A runtime may have to load the file to say so, and a damaged file may end its process: it is one of its own.

    Returns:
        None where the backend cannot tell on this machine, or the file cannot be loaded.
    """
    with tempfile.TemporaryDirectory() as folder:
        job = {"job": "place", "backend": backend, "file": str(path.resolve())}
        try:
            found: dict[str, Any] | None = run_job(job, Path(folder), Path(folder) / "log", Limits())["placement"]
        except ConversionFailed:
            return None
    return found
