"""The description of a backend, and the registry that finds installed ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgevit.core.digest import package_versions
from edgevit.core.plugins import announced
from edgevit.errors import BadFile, UnknownName
from edgevit.schema.interface import InputLayout
from edgevit.schema.manifest import InputInfo, Manifest
from edgevit.schema.placement import Placement
from edgevit.schema.recipe import Recipe

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from edgevit.graph.qdq.prepare import Form

Runner = Callable[[NDArray[Any]], NDArray[np.float32]]
"""From one input, batch 1, to the output: a copy that is the caller's own. Any number of threads may call it."""
GROUP = "edgevit.backends"


@dataclass(frozen=True)
class LowerRequest:
    """Everything that one lowering needs.

    Attributes:
        program: maps the input that ``manifest`` describes to float32 [1, classes].
        manifest: what will be embedded in the file.
        variant: of the runtime, e.g. ``coreml`` for ExecuTorch's Core ML delegate.
        version: the runtime's version floor.
        out: the file or package to write.
        recipe: how the program was quantized, or None.
        partial: whether the program ends early, to return intermediate values: what the manifest names may be missing.
    """

    program: ExportedProgram
    manifest: Manifest
    variant: str
    version: str
    out: Path
    recipe: Recipe | None = None
    partial: bool = False


@dataclass(frozen=True)
class FileInterface:
    """The interface of a model file without a manifest, as the file describes it.

    Attributes:
        input: its one input.
        output: ``probabilities``, ``logits``, or an empty string where the file does not say.
        precision: ``fp16`` if any of it is computed in fp16, otherwise ``fp32``.
    """

    input: InputInfo
    output: str
    precision: str


def no_placement(path: Path) -> Placement | None:  # noqa: ARG001
    """None: the placement of runtimes that assign operators when they load a file on the device."""
    return None


def no_description(path: Path) -> FileInterface | None:  # noqa: ARG001
    """None: the description from backends that do not describe files of other tools."""
    return None


def usual_form() -> Form:
    """The default form of a quantized program: Q/DQ nodes throughout, integers propagated by this package, also through
    concatenations.
    """
    from edgevit.graph.qdq.prepare import Form

    return Form()


@dataclass(frozen=True)
class Backend:
    """The code that writes, runs and inspects one format.

    Attributes:
        name: as in ``--target``.
        suffix: of the model file, with its dot.
        extra: the pip extra that installs its toolchain.
        packages: distributions whose versions decide the result; all are needed to lower.
        runtime_packages: the one distribution that running needs.
        layout: of an image input, by variant: see `edgevit.schema.interface.Interface`.
        half_program: whether fp16 is a half-precision program, or the toolchain's own option.
        input_name: of the model's input.
        output_name: of the model's output.
        opset: what the file format's operator set is called in messages.
        lower: writes the file.
        load: returns a function from one input to one output, both batch 1; see `Runner`.
        operators: how often each operator occurs in a file.
        read_embedded: the manifest text inside a file, or None.
        available: why files cannot be run on this machine, or an empty string.
        engine: what runs files here, where the packages' names do not say it.
        keeps_fp32: whether single operations of an fp16 program can stay in fp32, by variant.
        half: what an fp16 file stores in half precision: every value, or the weights alone.
        quantized_form: how a quantized program is lowered, a function since it takes torch to say.
        describe: what a file of another tool takes and gives, or None.
        cause: of a runtime's log after a run that failed, the operator and what it says, or an empty string.
        placement: which operators of a file its accelerated part executes, or None where that cannot be told here.
        effort: seconds to lower a model of 5 M parameters, roughly; the longest lowerings start first.
        imports: modules that lowering needs; they are imported while the model is captured.
    """

    name: str
    suffix: str
    extra: str
    packages: tuple[str, ...]
    runtime_packages: tuple[str, ...]
    layout: Callable[[str], InputLayout]
    half_program: Callable[[str], bool]
    input_name: str
    output_name: str
    opset: str
    lower: Callable[[LowerRequest], None]
    load: Callable[[Path], Runner]
    operators: Callable[[Path], Mapping[str, int]]
    read_embedded: Callable[[Path], str | None]
    available: Callable[[str], str]
    engine: str = ""
    keeps_fp32: Callable[[str], bool] = lambda variant: False
    half: Literal["values", "weights"] = "values"
    quantized_form: Callable[[], Form] = usual_form
    describe: Callable[[Path], FileInterface | None] = no_description
    cause: Callable[[str], str] = lambda log: ""
    placement: Callable[[Path], Placement | None] = no_placement
    effort: int = 0
    imports: tuple[str, ...] = ()

    def runs_with(self) -> str:
        """The runtime that executes files on this machine, with its version, as shown in messages."""
        versions = [f"{name} {version}" for name, version in package_versions(self.runtime_packages).items()]
        return ", ".join(part for part in (self.engine, *versions) if part)


@lru_cache(maxsize=1)
def backends() -> dict[str, Backend]:
    """All installed backends, edgevit's own and those of other packages."""
    return announced(GROUP)


def find_backend(name: str) -> Backend:
    """The backend of that name.

    Raises:
        UnknownName: it is not installed.
    """
    known = backends()
    if name not in known:
        raise UnknownName("backend", name, known)
    return known[name]


def backend_of(path: Path) -> Backend:
    """The backend that writes files with this suffix.

    Raises:
        BadFile: no backend does, or there is no such file.
    """
    if not path.exists():
        raise BadFile(f"there is no file {path}")
    for backend in backends().values():
        if path.name.endswith(backend.suffix):
            return backend
    suffixes = ", ".join(sorted(backend.suffix for backend in backends().values()))
    raise BadFile(f"{path.name} is not a model file that edgevit knows", cure=f"known suffixes: {suffixes}")


def one_at_a_time(run: Runner) -> Runner:
    """A runner for a runtime that must not be entered twice: threads wait for each other.

    The output is copied before the next thread may enter, since a runtime may hand out its own memory.
    """
    lock = threading.Lock()

    def locked(inputs: NDArray[Any]) -> NDArray[np.float32]:
        with lock:
            return np.array(run(inputs), dtype=np.float32, copy=True)

    return locked


def labels_text(labels: tuple[str, ...]) -> str:
    """The class labels as a text, one on each line."""
    return "\n".join(labels) + "\n"
