"""The documents that cross to a process of its own and back: what to lower, run or place, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, JsonValue, TypeAdapter

from edgevit.backends.base import find_backend
from edgevit.schema.interface import Interface
from edgevit.schema.manifest import Manifest
from edgevit.schema.recipe import Recipe
from edgevit.schema.strict import Strict
from edgevit.schema.target import Runtime

if TYPE_CHECKING:
    from edgevit.graph.rewrites import Rewrite


class ExchangeFiles(Strict):
    """The files through which tensors reach a process and come back.

    Attributes:
        inputs: safetensors with ``inputs``: [N, ...], one model input after the other.
        outputs: safetensors with ``outputs``: float32 [N, classes], written by the process.
    """

    inputs: Path
    outputs: Path


class LowerJob(Strict):
    """Write one model file and, where tensors are given, run it once; answered by `edgevit.schema.manifest.Lowering`.

    Attributes:
        program: as captured, saved by `torch.export.save`.
        manifest: what will be embedded in the file, and what the file takes and gives.
        interface: of the program that is lowered.
        variant: of the runtime.
        version: of the runtime.
        out: the file or package to write.
        recipe: that the program is quantized by.
        taps: names of intermediate values to answer with in place of the logits.
        exchange: tensors of a first run.
        threads: of the toolchain.
    """

    job: Literal["lower"] = "lower"
    program: Path
    manifest: Manifest
    interface: Interface
    variant: str
    version: str
    out: Path
    recipe: Recipe | None = None
    taps: tuple[str, ...] = ()
    exchange: ExchangeFiles | None = None
    threads: int = 1

    @property
    def backend(self) -> str:
        """Name of the backend that lowers."""
        return self.manifest.target.backend


class RunJob(Strict):
    """Run a model file once for each input; answered by `RunFacts`."""

    job: Literal["run"] = "run"
    backend: str
    file: Path
    exchange: ExchangeFiles
    threads: int = 1


class PlaceJob(Strict):
    """Say where a model file's operators run; answered by `PlaceFacts`."""

    job: Literal["place"] = "place"
    backend: str
    file: Path
    threads: int = 1


Job = LowerJob | RunJob | PlaceJob
"""What a process of its own can be asked to do."""
JOB: TypeAdapter[Job] = TypeAdapter(Annotated[Job, Field(discriminator="job")])
"""Reads a job's document."""


class RunFacts(Strict):
    """What a run took, in seconds, without loading the file."""

    seconds: float


class PlaceFacts(Strict):
    """`edgevit.schema.placement.Placement.to_dict`, or None where the backend cannot tell on this machine."""

    placement: dict[str, JsonValue] | None


class Incomplete(Strict):
    """An `edgevit.errors.EnvironmentIncomplete` on its way back: what is missing, where, and the cure."""

    message: str
    where: str
    cure: str


class JobResult(Strict):
    """How a job ended.

    Attributes:
        answer: the facts, of the job's own kind; None where it failed.
        error: the innermost error, ``TYPE: message``.
        incomplete: set where something has to be installed first.
        disk_full: the disk was full.
    """

    answer: dict[str, JsonValue] | None = None
    error: str = ""
    incomplete: Incomplete | None = None
    disk_full: bool = False


def interface_of(manifest: Manifest, runtime: Runtime) -> Interface:
    """What the program of an artifact takes and gives."""
    backend = find_backend(runtime.backend)
    return Interface(
        layout=backend.layout(runtime.variant) if manifest.input.kind == "image" else "tensor",
        size=manifest.preprocess.size,
        mean=manifest.preprocess.mean,
        std=manifest.preprocess.std,
        probabilities=manifest.output.kind == "probabilities",
        half=manifest.target.precision == "fp16" and backend.half_program(runtime.variant),
        keep_fp32=manifest.target.keep_fp32,
    )


def chosen_rewrites(manifest: Manifest, variant: str, *, half: bool) -> tuple[Rewrite, ...]:
    """The rewrites of one lowering: those asked for, or the choice for the model's family and the backend."""
    from edgevit.graph.rewrites import rewrites_for

    target = manifest.target
    return rewrites_for(target.backend, variant, family=manifest.model.family, half=half, asked=target.rewrites)


def lowered_with(manifest: Manifest, runtime: Runtime) -> tuple[Rewrite, ...]:
    """The rewrites that the lowering of an artifact for a runtime applies."""
    return chosen_rewrites(manifest, runtime.variant, half=interface_of(manifest, runtime).half)


def lower_job(
    program: Path,
    manifest: Manifest,
    runtime: Runtime,
    out: Path,
    *,
    recipe: Recipe | None = None,
    taps: Sequence[str] = (),
    exchange: ExchangeFiles | None = None,
) -> LowerJob:
    """The job that writes one model file for a runtime; arguments as the fields of `LowerJob`."""
    return LowerJob(
        program=program,
        manifest=manifest,
        interface=interface_of(manifest, runtime),
        variant=runtime.variant,
        version=runtime.version,
        out=out,
        recipe=recipe,
        taps=tuple(taps),
        exchange=exchange,
    )
