"""The process that lowers or runs one artifact: ``python -m edgevit.backends.process.worker JOB.json [MODULE...]``.

It imports the modules and waits for its job, if that is not there yet. A toolchain may crash, abort or
hang; in a process of its own it takes nothing with it. The worker ends when its standard input closes,
so that it never outlives whoever started it.
"""

from __future__ import annotations

import gc
import json
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
from typing import Any

from edgevit.backends.base import claim_process
from edgevit.core.disk import is_disk_full
from edgevit.errors import EnvironmentIncomplete

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


def _lower(job: dict[str, Any]) -> dict[str, Any]:
    import torch

    from edgevit.backends.base import LowerRequest, find_backend
    from edgevit.backends.process.lowering import chosen_rewrites
    from edgevit.backends.process.provenance import without_provenance
    from edgevit.graph.boundary import Interface
    from edgevit.graph.prepare import prepare
    from edgevit.graph.qdq.prepare import prepare_quantized
    from edgevit.schema.manifest import parse_manifest
    from edgevit.schema.recipe import read_recipe

    torch.set_num_threads(job["threads"])
    started = time.monotonic()
    manifest = parse_manifest(json.dumps(job["manifest"]), "job")
    given: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in job["interface"].items()}
    interface = Interface(**given)
    taps = job.get("taps", ())
    recipe = read_recipe(Path(job["recipe"])) if "recipe" in job else None
    chosen = chosen_rewrites(manifest, job["variant"], half=interface.half)
    backend = find_backend(manifest.target.backend)
    with without_provenance():
        program = torch.export.load(job["program"])
        if recipe is None:
            prepared = prepare(program, interface, chosen, taps)
        else:
            prepared = prepare_quantized(program, interface, recipe, chosen, backend.quantized_form(), taps)
        out = Path(job["out"])
        backend.lower(
            LowerRequest(prepared.program, manifest, job["variant"], job["version"], out, recipe, partial=bool(taps))
        )
    facts = {
        "seconds": round(time.monotonic() - started, 2),
        "peak_memory_bytes": _peak_memory(),
        "rewrites": prepared.rewrites,
    }
    placement = None if taps else backend.placement(out)
    if placement is not None:
        facts["delegated_share"] = placement.delegated_share
        if recipe is not None:
            facts["integer_share"] = placement.integer_share
    if "inputs" in job:
        _run({**job, "backend": manifest.target.backend, "file": job["out"]})
    return facts


def _run(job: dict[str, Any]) -> dict[str, Any]:
    import numpy as np
    from safetensors.numpy import load_file, save_file

    from edgevit.backends.base import find_backend

    run = find_backend(job["backend"]).load(Path(job["file"]))
    inputs = load_file(job["inputs"])["inputs"]
    started = time.monotonic()
    outputs = np.concatenate([run(inputs[index : index + 1]) for index in range(len(inputs))])
    save_file({"outputs": outputs}, job["outputs"])
    return {"seconds": round(time.monotonic() - started, 2)}


def _place(job: dict[str, Any]) -> dict[str, Any]:
    from edgevit.backends.base import find_backend

    found = find_backend(job["backend"]).placement(Path(job["file"]))
    return {"placement": found.to_dict() if found else None}


def _root_cause(error: BaseException) -> str:
    """The innermost error: toolchains wrap their errors several times, and the first one says what was wrong."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


JOBS = {"lower": _lower, "run": _run, "place": _place}


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
    job = json.loads(path.read_text(encoding="utf-8"))
    _keep_scratch_in(path.parent)
    try:
        result = {"ok": True, **JOBS[job["job"]](job)}
    except EnvironmentIncomplete as error:
        traceback.print_exc()
        incomplete = {"message": error.message, "where": error.where, "cure": error.cure}
        result = {"ok": False, "error": error.message, "incomplete": incomplete}
    except Exception as error:
        traceback.print_exc()
        result = {"ok": False, "error": _root_cause(error), "disk_full": is_disk_full(error)}
    path.with_suffix(".result").write_text(json.dumps(result), encoding="utf-8")
    sys.stdout.flush()
    os._exit(0 if result["ok"] else 1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
