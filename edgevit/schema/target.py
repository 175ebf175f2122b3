"""Targets: backends, runtimes and devices, read from TOML files."""

from __future__ import annotations

import os
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from edgevit.core.files import targets_folder
from edgevit.errors import BadFile, UnknownName, UsageError
from edgevit.schema.choices import Precision

ALIASES = {"tflite": "litert"}
T = TypeVar("T", bound=BaseModel)


class Runtime(BaseModel):
    """A backend with a version floor and what it can run: one file of ``targets/runtimes``.

    Attributes:
        name: file name without its suffix.
        backend: the backend that writes its format.
        title: for people.
        variant: which lowering of the backend, or an empty string for its plain one.
        version: version floor of the runtime, e.g. ``iOS17``.
        precisions: what it runs.
        runs_here: whether this format can be executed on a Linux or macOS host by its Python runtime.
        default: whether it is the runtime meant when only the backend is named.
        engine: what edgevit's runners call it; empty where none runs it.
        reached_by: kinds of device whose runner has this engine, e.g. ``ssh``.
        package: the package that brings it, from PyPI or npm.
        tested: the version of the package that edgevit is tested with, and installs when asked to.
        notes: limits worth knowing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    backend: str
    title: str
    variant: str = ""
    version: str
    precisions: tuple[Precision, ...]
    runs_here: bool
    default: bool = False
    engine: str = ""
    reached_by: tuple[str, ...] = ()
    package: str = ""
    tested: str = ""
    notes: str = ""


class Core(BaseModel):
    """Cores of one kind; ``ghz`` is the highest clock, 0 where it is not published."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    count: int
    name: str
    ghz: float = 0.0


class Device(BaseModel):
    """A place with runtimes: one file of ``targets/devices``.

    Attributes:
        name: file name without its suffix.
        title: for people.
        kind: what sort of machine.
        runtimes: names of runtimes, the preferred one first.
        compute: compute units.
        memory_mb: main memory in MiB, 0 where it depends.
        reach: how edgevit gets there, a URI pattern.
        machine: the processor's name in wheels, e.g. ``aarch64``; empty where no wheel is for it.
        cores: of the processor, the fastest first.
        instructions: extensions that decide how fast a model runs, as Linux names them.
        wheels: packages on PyPI with wheels for it, which ``--install-runtime`` can bring.
        sources: where each fact is from, an address by the name of the field.
        notes: limits worth knowing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    kind: Literal["host", "board", "phone", "browser"]
    runtimes: tuple[str, ...]
    compute: tuple[str, ...]
    memory_mb: int
    reach: str
    machine: str = ""
    cores: tuple[Core, ...] = ()
    instructions: tuple[str, ...] = ()
    wheels: tuple[str, ...] = ()
    sources: dict[str, str] = {}
    notes: str = ""


def _folders(kind: str) -> list[Path]:
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return [targets_folder() / kind, config / "edgevit" / "targets" / kind]


def _read_all(kind: str, model: type[T]) -> dict[str, T]:
    found: dict[str, T] = {}
    for folder in _folders(kind):
        for path in sorted(folder.glob("*.toml")) if folder.is_dir() else []:
            try:
                found[path.stem] = model.model_validate({"name": path.stem, **tomllib.loads(path.read_text("utf-8"))})
            except (ValidationError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
                raise BadFile(f"the target file is not valid: {error}", where=str(path)) from error
    return found


@lru_cache(maxsize=1)
def runtimes() -> dict[str, Runtime]:
    """All known runtimes by name; the user's own come after edgevit's."""
    return _read_all("runtimes", Runtime)


@lru_cache(maxsize=1)
def devices() -> dict[str, Device]:
    """All known devices by name."""
    return _read_all("devices", Device)


def default_runtime(backend: str) -> Runtime | None:
    """The runtime meant when only a backend is named."""
    return next((r for r in runtimes().values() if r.backend == backend and r.default), None)


def engine_for(backend: str, kind: str) -> Runtime | None:
    """The runtime that runs a backend's files on devices of a kind, or None."""
    return next((r for r in runtimes().values() if r.backend == backend and kind in r.reached_by), None)


def resolve_target(name: str) -> Runtime:
    """The runtime that ``--target NAME`` stands for.

    Args:
        name: a backend, a runtime or a device; ``tflite`` is accepted for ``litert``.

    Raises:
        UnknownName: no such target.
    """
    name = ALIASES.get(name, name)
    if name in runtimes():
        return runtimes()[name]
    if name in devices():
        return runtimes()[devices()[name].runtimes[0]]
    plain = default_runtime(name)
    if plain is None:
        known = [*{r.backend for r in runtimes().values()}, *runtimes(), *devices(), *ALIASES]
        raise UnknownName("target", name, known, listing="edgevit targets lists them all")
    return plain


def check_precision(runtime: Runtime, precision: Precision) -> None:
    """Refuse a precision that a runtime cannot execute.

    Raises:
        UsageError: it cannot.
    """
    if precision not in runtime.precisions:
        raise UsageError(
            f"{runtime.name} does not take {precision} here",
            cure=f"choose --precision {' or '.join(runtime.precisions)}",
        )


def folder_name(runtime: Runtime, precision: Precision) -> str:
    """The name of a bundle's folder: the backend for its default runtime, otherwise the runtime, and the precision."""
    return f"{runtime.backend if runtime.default else runtime.name}-{precision}"
