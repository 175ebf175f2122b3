"""Finds the first operator at which an artifact departs from PyTorch.

The program is lowered again with intermediate values as its output, a few evenly spaced ones at
first, then those between the last right and the first wrong one, until a single operator is left.
What is found is therefore a fault of the conversion or the runtime. Where every operator of the
fresh lowering is right, the fault is in the file itself: it was damaged or edited.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgevit.backends.base import find_backend
from edgevit.backends.process.job import interface_of, lower_job, lowered_with
from edgevit.backends.process.jobs import ProcessLimits, run_job
from edgevit.schema.manifest import Lowering, Manifest
from edgevit.schema.recipe import RECIPE, Recipe, read_recipe
from edgevit.schema.target import Runtime, runtimes
from edgevit.verify.compare import tolerance_of
from edgevit.verify.judge import run_artifact

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from edgevit.bundle.read import Bundle
    from edgevit.graph.taps import Tap
    from edgevit.models.load import LoadedModel

_TAPS = 16
"""Most values that one lowering returns."""
_MOST_NUMBERS = 4_000_000
"""Elements that one lowering returns for a picture, 16 MB of float32."""


@dataclass(frozen=True)
class Departure:
    """The place where an artifact departs from PyTorch.

    Attributes:
        tap: the first wrong value, or None where all are right.
        error: its largest difference from PyTorch, as a share of its range.
        before: the last right value, or None.
        lowerings: how many lowerings were needed.
    """

    tap: Tap | None
    error: float
    before: Tap | None
    lowerings: int

    def sentence(self) -> str:
        """One line that says where the artifact departs."""
        if self.tap is None:
            return "a fresh lowering is right at every operator: the file was damaged or edited after it was made"
        place = f" in {self.tap.module}" if self.tap.module else ""
        size = f"off by {self.error:.2g} of its range" if np.isfinite(self.error) else "not finite"
        return f"first departure: {self.tap.operator} ({self.tap.node}){place}, {size}"


@dataclass(frozen=True)
class _Search:
    program: Path
    manifest: Manifest
    runtime: Runtime
    inputs: NDArray[Any]
    scratch: Path
    log: Path
    limits: ProcessLimits
    recipe: Recipe | None = None


def bisect(
    program: Path,
    manifest: Manifest,
    runtime: Runtime,
    inputs: NDArray[Any],
    scratch: Path,
    log: Path,
    limits: ProcessLimits,
    recipe: Recipe | None = None,
) -> Departure:
    """Bisect a captured program on one runtime.

    Args:
        program: as captured, saved by `torch.export.save`.
        manifest: of the artifact that failed.
        runtime: where it failed.
        inputs: golden inputs; the first two are used.
        scratch: an existing folder.
        log: gets what the toolchain prints.
        limits: of each process.
        recipe: how the program is quantized.
    """
    from edgevit.graph.taps import tappable

    search = _Search(program, manifest, runtime, inputs[:2], scratch, log, limits, recipe)
    taps = tappable(_core(search))
    good, bad, error, lowerings = -1, len(taps), 0.0, 0
    while bad - good > 1:
        chosen = _spaced(taps, good, bad)
        errors = _errors(search, [taps[index] for index in chosen])
        lowerings += 1
        for index, (found, limit) in zip(chosen, errors, strict=True):
            if found > limit:
                bad, error = index, found
                break
            good = index
    wrong = taps[bad] if bad < len(taps) else None
    return Departure(wrong, error, taps[good] if good >= 0 else None, lowerings)


def _spaced(taps: Sequence[Tap], good: int, bad: int) -> list[int]:
    """Up to `_TAPS` indices strictly between ``good`` and ``bad``, evenly spaced, within a budget of elements."""
    count = min(_TAPS, bad - good - 1)
    wanted = sorted({good + 1 + round(step * (bad - good - 2) / max(1, count - 1)) for step in range(count)})
    kept: list[int] = []
    for index in reversed(wanted):
        if not kept or sum(taps[i].numel for i in kept) + taps[index].numel <= _MOST_NUMBERS:
            kept.append(index)
    return kept[::-1]


def _errors(search: _Search, chosen: list[Tap]) -> list[tuple[float, float]]:
    """For each value its error and the error that is allowed by its own rounding noise, as in a verdict."""
    names = [tap.node for tap in chosen]
    expected = _reference(search, names)
    found = _artifact(search, names, expected.shape[1])
    precision = search.manifest.target.precision
    exact = _reference(search, names, exact=True) if precision == "fp32" and search.recipe is None else None
    errors = []
    for start, stop in pairwise(np.cumsum([0, *(tap.numel for tap in chosen)])):
        wanted = expected[:, start:stop]
        noise = None if exact is None else _departure(wanted, exact[:, start:stop])
        errors.append((_departure(wanted, found[:, start:stop]), tolerance_of(precision, noise)))
    return errors


def _departure(expected: NDArray[np.floating[Any]], found: NDArray[np.floating[Any]]) -> float:
    if not np.isfinite(found).all():
        return float("inf")
    spread = float(expected.max() - expected.min()) or 1.0
    return float(np.abs(expected - found).max()) / spread


def _core(search: _Search) -> GraphModule:
    """The graph that is lowered, executable in PyTorch."""
    from edgevit.graph.prepare import rewritten_core
    from edgevit.graph.qdq.prepare import rewritten_quantized

    chosen = lowered_with(search.manifest, search.runtime)
    if search.recipe is None:
        return rewritten_core(search.program, chosen)
    form = find_backend(search.manifest.target.backend).quantized_form()
    return rewritten_quantized(search.program, search.recipe, chosen, form)


def _reference(search: _Search, names: list[str], *, exact: bool = False) -> NDArray[np.floating[Any]]:
    """The values in PyTorch, in float32 or, exactly, in float64."""
    import torch

    from edgevit.graph.boundary import Wrapped
    from edgevit.graph.noise import exact_graph
    from edgevit.graph.taps import tap

    core = _core(search)
    tap(core, names)
    interface = interface_of(search.manifest, search.runtime).model_copy(update={"probabilities": False, "half": False})
    wrapped = Wrapped(core, interface, {})
    pictures = torch.from_numpy(search.inputs)
    if interface.layout == "image_nchw_float" and search.manifest.input.layout == "NHWC":
        pictures = pictures.permute(0, 3, 1, 2).float()  # Core ML takes an image, its program a tensor
    with torch.no_grad():
        if exact:
            run = exact_graph(core)
            return torch.cat([run(wrapped.normalise(one[None])) for one in pictures]).numpy()
        return torch.cat([wrapped(one[None]) for one in pictures]).numpy()


def _artifact(search: _Search, names: list[str], numbers: int) -> NDArray[np.float32]:
    """The values in a fresh lowering on the runtime."""
    output = search.manifest.output.model_copy(update={"kind": "logits", "name": "taps", "classes": numbers})
    manifest = search.manifest.model_copy(update={"output": output, "labels": (), "lowering": None, "verdict": None})
    file = search.scratch / f"taps{find_backend(manifest.target.backend).suffix}"
    job = lower_job(search.program, manifest, search.runtime, file, taps=names, recipe=search.recipe)
    run_job(job, Lowering, search.scratch, search.log, search.limits)
    return run_artifact(manifest.target.backend, file, search.inputs, search.scratch, search.log, search.limits)


def bisect_bundle(bundle: Bundle, loaded: LoadedModel) -> Departure:
    """Bisect a bundle that failed, from the PyTorch model that it was made of.

    Raises:
        ConversionFailed: the model cannot be lowered again.
    """
    import torch

    from edgevit.bundle.golden import read_golden
    from edgevit.graph.capture import capture

    inputs = read_golden(bundle.path).inputs
    manifest = bundle.manifest
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        held = io.BytesIO()  # torch's own writer ends the process where the disk is full
        torch.export.save(capture(loaded.module, manifest.preprocess.size), held)
        (scratch / "program.pt2").write_bytes(held.getbuffer())
        runtime = runtimes()[manifest.target.runtime]
        recipe = read_recipe(bundle.path / RECIPE) if manifest.quantization else None
        return bisect(
            scratch / "program.pt2", manifest, runtime, inputs, scratch, scratch / "log", ProcessLimits(), recipe
        )
