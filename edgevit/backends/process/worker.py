"""The process that lowers or runs one artifact: ``python -m edgevit.backends.process.worker JOB.json [MODULE...]``.

It imports the modules and waits for its job, if that is not there yet. A toolchain may crash, abort or
hang; in a process of its own it takes nothing with it. The worker ends when its standard input closes,
so that it never outlives whoever started it.
"""

from __future__ import annotations

import gc
import os
import resource
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from edgevit.backends.base import find_backend
from edgevit.backends.process.job import (
    JOB,
    Incomplete,
    Job,
    JobResult,
    LowerJob,
    PlaceFacts,
    PlaceJob,
    RunFacts,
    RunJob,
)
from edgevit.core.disk import is_disk_full
from edgevit.core.own_process import claim_process
from edgevit.errors import EnvironmentIncomplete
from edgevit.schema.manifest import Lowering

_POLL_SECONDS = 0.02
"""How often a waiting worker looks for its job; bounds the delay until the job starts."""


def _end_with_parent() -> None:
    def watch() -> None:
        while os.read(0, 1024):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _peak_memory() -> int:
    """Peak resident bytes of this process.

    Linux lets a process inherit the peak of whoever started it in `getrusage`, so there the
    kernel's own mark of this address space is read.
    """
    status = Path("/proc/self/status")
    if status.exists():
        mark = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(mark.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _lower(job: LowerJob) -> Lowering:
    import torch

    from edgevit.backends.base import LowerRequest
    from edgevit.backends.process.job import chosen_rewrites
    from edgevit.backends.process.provenance import without_provenance
    from edgevit.graph.prepare import prepare
    from edgevit.graph.qdq.prepare import prepare_quantized

    torch.set_num_threads(job.threads)
    started = time.monotonic()
    recipe = job.recipe
    chosen = chosen_rewrites(job.manifest, job.variant, half=job.interface.half)
    backend = find_backend(job.backend)
    with without_provenance():
        program = torch.export.load(str(job.program))
        if recipe is None:
            prepared = prepare(program, job.interface, chosen, job.taps)
        else:
            prepared = prepare_quantized(program, job.interface, recipe, chosen, backend.quantized_form(), job.taps)
        backend.lower(
            LowerRequest(
                prepared.program, job.manifest, job.variant, job.version, job.out, recipe, partial=bool(job.taps)
            )
        )
    seconds, memory = round(time.monotonic() - started, 2), _peak_memory()
    placement = None if job.taps else backend.placement(job.out)
    if job.exchange is not None:
        _run(RunJob(backend=job.backend, file=job.out, exchange=job.exchange))
    return Lowering(
        seconds=seconds,
        peak_memory_bytes=memory,
        rewrites=prepared.rewrites,
        delegated_share=placement.delegated_share if placement else None,
        integer_share=placement.integer_share if placement and recipe else None,
    )


def _run(job: RunJob) -> RunFacts:
    import numpy as np
    from safetensors.numpy import load_file, save_file

    run = find_backend(job.backend).load(job.file)
    inputs = load_file(job.exchange.inputs)["inputs"]
    started = time.monotonic()
    outputs = np.concatenate([run(inputs[index : index + 1]) for index in range(len(inputs))])
    save_file({"outputs": outputs}, job.exchange.outputs)
    return RunFacts(seconds=round(time.monotonic() - started, 2))


def _place(job: PlaceJob) -> PlaceFacts:
    found = find_backend(job.backend).placement(job.file)
    return PlaceFacts(placement=found.to_dict() if found else None)


def _carry_out(job: Job) -> Lowering | RunFacts | PlaceFacts:
    if isinstance(job, LowerJob):
        return _lower(job)
    return _run(job) if isinstance(job, RunJob) else _place(job)


def _root_cause(error: BaseException) -> str:
    """The innermost error: toolchains wrap their errors several times, and the first one says what was wrong."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


def _prepare(modules: Sequence[str]) -> None:
    """Import the modules that the job will need.

    A failed import is ignored here: it fails again, and is reported, when the job needs it.

    What a toolchain consists of is no garbage: looking through it again and again takes a tenth of a lowering's time.
    """
    gc.disable()
    with suppress(Exception):
        for module in modules:
            import_module(module)
    gc.freeze()
    gc.enable()


def _keep_scratch_in(folder: Path) -> None:
    """Keep the toolchain's temporary files, which have the model's size, in the job's folder, to be deleted with it."""
    scratch = folder / "tmp"
    scratch.mkdir(exist_ok=True)
    tempfile.tempdir = os.environ["TMPDIR"] = str(scratch)


def main(path: Path, modules: Sequence[str] = ()) -> int:
    """Carry out the job and write its result beside it; returns the exit status."""
    claim_process()
    _end_with_parent()
    _prepare(modules)
    while not path.exists():
        time.sleep(_POLL_SECONDS)
    job = JOB.validate_json(path.read_bytes())
    _keep_scratch_in(path.parent)
    try:
        result = JobResult(answer=_carry_out(job).model_dump(mode="json"))
    except EnvironmentIncomplete as error:
        traceback.print_exc()
        incomplete = Incomplete(message=error.message, where=error.where, cure=error.cure)
        result = JobResult(error=error.message, incomplete=incomplete)
    except Exception as error:
        traceback.print_exc()
        result = JobResult(error=_root_cause(error), disk_full=is_disk_full(error))
    path.with_suffix(".result").write_text(result.model_dump_json(), encoding="utf-8")
    sys.stdout.flush()
    os._exit(1 if result.answer is None else 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
