"""Jobs on every executor: finished ones stay, killed ones go on, failed ones are reported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from edgevit.core.files import write_whole
from edgevit.errors import BadFile, EnvironmentIncomplete
from edgevit.split.jobs import Scratch, executor_for, run_jobs


@dataclass(frozen=True)
class Counting:
    """Writes its number, and a line in a log each time that it really ran."""

    store: str
    number: int
    log: str
    fails: bool = False
    steps: int = 1

    @property
    def title(self) -> str:
        return f"job {self.number}"

    @property
    def key(self) -> str:
        return f"count-{self.number}"

    def make(self, out: Path, scratch: Scratch) -> None:
        with Path(self.log).open("a") as log:
            log.write(f"{self.number}\n")
        if self.fails:
            raise BadFile("a job failed")
        at = scratch.folder / "at"
        start = int(at.read_text()) if at.exists() else 0
        for step in range(start, self.steps):
            time.sleep(0.05)
            write_whole(at, str(step + 1).encode())  # a kill may come at any moment
            scratch.tell("counting", step + 1, self.steps)
        (out / "number").write_text(f"{self.number} from {start}")


def jobs(tmp_path: Path, count: int, **further: object) -> list[Counting]:
    return [Counting(str(tmp_path / "store"), n, str(tmp_path / "log"), **further) for n in range(count)]  # type: ignore[arg-type]


def ran(tmp_path: Path) -> list[str]:
    return sorted((tmp_path / "log").read_text().split()) if (tmp_path / "log").exists() else []


def check(executor: Executor, tmp_path: Path) -> None:
    told = []
    found = run_jobs(jobs(tmp_path, 4), executor, lambda what, done, total: told.append(what))
    assert [(path / "number").read_text() for path in found] == [f"{n} from 0" for n in range(4)]
    assert {f"job {n}" for n in range(4)} <= set(told)
    assert run_jobs(jobs(tmp_path, 4), executor) == found
    assert ran(tmp_path) == ["0", "1", "2", "3"]
    assert not list((tmp_path / "store").glob(".*"))


@pytest.mark.parametrize("at_once", [1, 2])
def test_here_and_in_processes(at_once: int, tmp_path: Path) -> None:
    with executor_for(at_once) as executor:
        check(executor, tmp_path)


def test_on_a_dask_cluster(tmp_path: Path) -> None:
    from distributed import LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1") as cluster,
        executor_for(1, cluster.scheduler_address) as executor,
    ):
        check(executor, tmp_path)


def test_no_scheduler_says_so(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentIncomplete, match="no Dask scheduler"), executor_for(1, "tcp://127.0.0.1:9"):
        pass


def test_a_job_that_fails_stops_the_others_and_what_is_done_stays(tmp_path: Path) -> None:
    some = [*jobs(tmp_path, 1), Counting(str(tmp_path / "store"), 7, str(tmp_path / "log"), fails=True)]
    with ThreadPoolExecutor(1) as executor, pytest.raises(BadFile, match="a job failed"):
        run_jobs([*some, Counting(str(tmp_path / "store"), 8, str(tmp_path / "log"), steps=1000)], executor)
    assert (tmp_path / "store/count-0").exists()
    assert not (tmp_path / "store/count-7").exists()
    assert not (tmp_path / "store/count-8").exists()
    with ThreadPoolExecutor(1) as executor:
        run_jobs(jobs(tmp_path, 2), executor)
    assert ran(tmp_path).count("0") == 1


def test_a_run_that_was_killed_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); "
        "from tests.split.test_work import jobs; from edgevit.split.jobs import executor_for, run_jobs\n"
        "with executor_for(1) as e: run_jobs(jobs(Path(sys.argv[2]), 1, steps=400), e)"
    )
    root = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", code, str(root), str(tmp_path)], env={**os.environ})
    at = tmp_path / "store/.count-0.work/at"
    ends = time.monotonic() + 60
    while not (at.exists() and int(at.read_text()) > 3) and time.monotonic() < ends:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = int(at.read_text())
    with executor_for(1) as executor:
        found = run_jobs(jobs(tmp_path, 1, steps=done + 2), executor)
    assert (found[0] / "number").read_text() == f"0 from {done}"
    assert done > 3


class OfThisProcess(Counting):
    """As with another version: its key is another one in each process."""

    @property
    def key(self) -> str:
        return f"count-{self.number}-{os.getpid()}"


def test_a_worker_of_another_version_is_refused(tmp_path: Path) -> None:
    job = OfThisProcess(str(tmp_path / "store"), 0, str(tmp_path / "log"))
    with executor_for(2) as executor, pytest.raises(EnvironmentIncomplete, match="another version"):
        run_jobs([job], executor)
    assert ran(tmp_path) == []


def test_two_runs_that_want_the_same(tmp_path: Path) -> None:
    """It is made once, and the second run waits for it."""
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other, ThreadPoolExecutor(2) as runs:
        found = [runs.submit(run_jobs, jobs(tmp_path, 2, steps=10), executor) for executor in (one, other)]
        assert found[0].result() == found[1].result()
    assert ran(tmp_path) == ["0", "1"]


@pytest.mark.parametrize("count", [1, 2])
def test_workers_of_a_run_that_was_killed_end(tmp_path: Path, count: int) -> None:
    """One that trains, and one that waits."""
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); "
        "from tests.split.test_work import jobs; from edgevit.split.jobs import executor_for, run_jobs\n"
        "with executor_for(2) as e: run_jobs(jobs(Path(sys.argv[2]), int(sys.argv[3]), steps=100_000), e)"
    )
    given = [str(Path(__file__).parents[2]), str(tmp_path), str(count)]
    process = subprocess.Popen([sys.executable, "-c", code, *given])
    counters = [tmp_path / f"store/.count-{number}.work/at" for number in range(count)]
    assert _soon(lambda: all(one.exists() and one.read_text() not in ("", "1") for one in counters))
    workers = [one for one in psutil.Process(process.pid).children() if "LokyProcess" in " ".join(one.cmdline())]
    assert len(workers) == 2
    process.kill()
    process.wait()
    assert not psutil.wait_procs(workers, timeout=30)[1]


def _soon(what: Callable[[], bool]) -> bool:
    ends = time.monotonic() + 60
    while not what() and time.monotonic() < ends:
        time.sleep(0.1)
    return what()
