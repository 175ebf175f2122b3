"""Batch jobs with cached results: each a pure function of content-addressed inputs, on any executor.

A job's result is a folder in the store, named by the digest of everything that went into it. A finished folder is
never made again, so a run that was killed goes on where it stopped; inside a job, `Scratch` keeps checkpoints.
Jobs run in this process, in processes of their own (loky), or on a Dask cluster whose workers see the same store.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from edgevit.core.files import write_whole
from edgevit.errors import EnvironmentIncomplete, MissingDependency

Progress = Callable[[str, int, int], None]
"""What is being done, how far, of how much (0: unknown)."""
_POLL_S = 0.3
"""Seconds between two looks at locks, finished jobs and the parent process."""
_STOPPED = ".stop"


class Job(Protocol):
    """A unit of work that fills a result folder; it can be pickled.

    Attributes:
        title: what it does, as shown in progress messages.
        key: digest of everything that decides the result.
        store: where results live.
    """

    @property
    def title(self) -> str:
        """What the job does, as shown in progress messages."""

    @property
    def key(self) -> str:
        """Digest of everything that decides the result."""

    @property
    def store(self) -> str:
        """Folder of all results."""

    def make(self, out: Path, scratch: Scratch) -> None:
        """Write the result into an empty folder."""


@dataclass(frozen=True)
class Scratch:
    """A job's working folder: checkpoints and progress reports.

    Attributes:
        folder: survives a job that is killed, and is removed when the job has finished.
        run: token of the run that the job belongs to.
    """

    folder: Path
    run: str

    def tell(self, what: str, done: int, total: int) -> None:
        """Say how far the job is; raises `InterruptedError` where the run was stopped."""
        write_whole(self.folder / "progress", f"{what}\t{done}\t{total}".encode())
        self.check()

    def check(self) -> None:
        """Raise `InterruptedError` where the run was stopped."""
        if (self.folder.parent / f"{self.run}{_STOPPED}").exists():
            raise InterruptedError("stopped")


def _paths(job: Job) -> tuple[Path, Path]:
    return Path(job.store) / job.key, Path(job.store) / f".{job.key}.work"


def _carry_out(job: Job, key: str, run: str) -> None:
    """Run one job; this is the function that executors call."""
    if job.key != key:
        raise EnvironmentIncomplete(
            f"a worker would compute something else as {job.title}: its edgevit or torch is another version",
            cure="give all workers the version that asks",
        )
    done, work = _paths(job)
    if done.exists():
        return
    if not done.parent.is_dir():
        raise EnvironmentIncomplete(
            "this worker does not see the store", where=job.store, cure="give all Dask workers the same EDGEVIT_CACHE"
        )
    scratch = Scratch(work, run)
    with _alone(work, scratch):
        if done.exists():
            return
        out = work / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        job.make(out, scratch)
        out.rename(done)
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _alone(work: Path, scratch: Scratch) -> Iterator[None]:
    """Hold the lock of one result, waiting for another run that is computing the same."""
    path = work.with_suffix(".lock")
    lock = FileLock(path)
    while not lock.is_locked:
        try:
            lock.acquire(timeout=_POLL_S)
        except Timeout:
            scratch.check()
    try:
        yield
        path.unlink(missing_ok=True)  # who still waits for it finds the result
    finally:
        lock.release()


def run_jobs(
    jobs: Sequence[Job], executor: Executor, progress: Progress = lambda what, done, total: None
) -> list[Path]:
    """Compute the results of some jobs, in their order; existing results are reused.

    Args:
        jobs: to do.
        executor: any; shut down by who made it.
        progress: called for each job, from this thread.

    Raises:
        EdgevitError: what the first job raised; the others are stopped, and their checkpoints kept.
        KeyboardInterrupt: likewise.
    """
    run = f"run-{os.getpid()}-{time.monotonic_ns()}"
    for store in {job.store for job in jobs}:
        Path(store).mkdir(parents=True, exist_ok=True)
    missing = [job for job in jobs if not _paths(job)[0].exists()]
    waiting: dict[Future[None], Job] = {executor.submit(_carry_out, job, job.key, run): job for job in missing}
    try:
        _follow(waiting, progress)
    except BaseException:
        stops = [Path(store) / f"{run}{_STOPPED}" for store in {job.store for job in jobs}]
        for stop in stops:
            stop.touch()
        for future in waiting:
            future.cancel()
        wait(waiting, timeout=30)
        for stop in stops:
            stop.unlink(missing_ok=True)
        raise
    return [_paths(job)[0] for job in jobs]


def _follow(waiting: dict[Future[None], Job], progress: Progress) -> None:
    left = set(waiting)
    while left:
        finished, left = wait(left, timeout=_POLL_S, return_when=FIRST_COMPLETED)
        for future in finished:
            future.result()
            progress(waiting[future].title, 1, 1)
        for future in left:
            told = _paths(waiting[future])[1] / "progress"
            try:
                what, done, total = told.read_text().split("\t")
            except (OSError, ValueError):
                continue
            progress(f"{waiting[future].title}: {what}", int(done), int(total))


@contextmanager
def executor_for(jobs: int, dask: str | None = None) -> Iterator[Executor]:
    """An executor: one thread of this process, loky's processes, or a Dask cluster.

    Args:
        jobs: how many run at once; 1 stays in this process.
        dask: address of a scheduler, e.g. ``tcp://10.0.0.5:8786``.

    Raises:
        MissingDependency: loky or distributed is not installed.
        EnvironmentIncomplete: nothing answers at the address.
    """
    if dask:
        with _dask(dask) as found:
            yield found
    elif jobs == 1:
        with ThreadPoolExecutor(1) as threads:
            yield threads
    else:
        with _loky(jobs) as found:
            yield found


class _Here(Executor):
    """An executor that runs each job at once, in the calling thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run the job and return a finished future."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


@contextmanager
def here() -> Iterator[Executor]:
    """An executor that runs a single job in the calling thread."""
    yield _Here()


def _end_with(parent: int) -> None:
    """Exit this worker when its parent process dies, whether it trains or waits."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _loky(jobs: int) -> Iterator[Executor]:
    try:
        from loky import ProcessPoolExecutor
    except ImportError as error:
        raise MissingDependency("loky", "several jobs at once", extra="split") from error
    pool = ProcessPoolExecutor(jobs, initializer=_end_with, initargs=(os.getpid(),))
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=True, kill_workers=True)
        raise
    pool.shutdown()


@contextmanager
def _dask(address: str) -> Iterator[Executor]:
    try:
        from distributed import Client
    except ImportError as error:
        raise MissingDependency("distributed", "work on a Dask cluster", extra="dask") from error
    try:
        client: Any = Client(address, timeout=10)
    except (OSError, ValueError, TimeoutError) as error:
        raise EnvironmentIncomplete(
            f"no Dask scheduler answers at {address}", where=str(error)[:300], cure="dask scheduler starts one"
        ) from error
    with client:
        yield client.get_executor()
