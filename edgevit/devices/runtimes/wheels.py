"""A runtime for another machine as one archive: wheels unpacked for its Python and processor, without running them."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgevit.core.digest import sha256_file
from edgevit.core.files import cache_folder
from edgevit.devices.runner_process import last_line, runner_file
from edgevit.errors import DeviceFailed, EnvironmentIncomplete
from edgevit.schema.target import Runtime, runtimes

MARKER = ".edgevit.json"
LIBRARY = "libedgevit_executorch.so"
_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
_MACHINES = ("aarch64", "x86_64")
_PIP_S = 900
"""Seconds for pip to download and unpack a runtime's wheels."""
_NATIVE = "executorch"
"""The runtime that is linked to, not imported: its Python bindings need torch."""
_LINKED = ("backend_xnnpack", "kernels_optimized", "kernels_quantized", "threadpool")


@dataclass(frozen=True)
class Installation:
    """A runtime for one machine and Python version.

    Attributes:
        runtime: its name in runners, e.g. ``litert``.
        machine: processor name as ``uname -m`` says.
        python: version of the device's Python.
    """

    runtime: str
    machine: str
    python: str

    @property
    def source(self) -> Runtime:
        """The runtime's package and the version that edgevit is tested with."""
        return next(one for one in runtimes().values() if one.engine == self.runtime)

    @property
    def tag(self) -> str:
        """Python's version as wheels write it, e.g. ``313``."""
        return "".join(self.python.split(".")[:2])

    def marker(self) -> dict[str, object]:
        """The content of the marker file that identifies the installation."""
        native = {"library": sha256_file(_source())} if self.runtime == _NATIVE else {}
        return {"version": self.source.tested, "python": self.tag, "machine": self.machine, **native}


def _source() -> Path:
    return runner_file("linux", "executorch.cpp")


def only_64_bit(runtime: str) -> DeviceFailed:
    """The error for a 32-bit system, whose kernel may well be a 64-bit one."""
    return DeviceFailed(
        f"the device has a 32-bit system, and there are no wheels of {runtime} for any",
        cure="a 64-bit system is needed: on a Raspberry Pi 3, 4, 5 or Zero 2 W the 64-bit Raspberry Pi OS",
    )


def prepare(wanted: Installation) -> Path:
    """The runtime's folder as an archive, cached.

    Raises:
        DeviceFailed: there are no wheels for that machine.
        EnvironmentIncomplete: they cannot be fetched, or there is no compiler for it here.
    """
    if wanted.machine.startswith("arm") and wanted.machine not in ("arm64",):
        raise only_64_bit(wanted.runtime)
    if wanted.machine not in _MACHINES or not wanted.tag.isdigit():
        raise DeviceFailed(
            f"there are no wheels of {wanted.runtime} for {wanted.machine or 'this machine'}",
            cure="a 64-bit system is needed: on a Raspberry Pi, the 64-bit Raspberry Pi OS",
        )
    marker = json.dumps(wanted.marker(), sort_keys=True)
    name = f"{wanted.runtime}-{wanted.source.tested}-cp{wanted.tag}-{wanted.machine}"
    archive = cache_folder() / "runtimes" / f"{name}.tar.gz"
    note = archive.with_suffix(".json")
    if archive.is_file() and note.is_file() and note.read_text(encoding="utf-8") == marker:
        return archive
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent) as scratch:
        folder = Path(scratch) / "runtime"
        if wanted.runtime == _NATIVE:
            _pip(wanted, ["numpy"], folder)
            _native(wanted, Path(scratch), folder)
        else:
            _pip(wanted, [f"{wanted.source.package}=={wanted.source.tested}"], folder)
        (folder / MARKER).write_text(marker, encoding="utf-8")
        packed = Path(scratch) / "packed.tar.gz"
        with tarfile.open(packed, "w:gz", compresslevel=4) as tar:
            tar.add(folder, arcname=".", filter=_without_owner)
        packed.replace(archive)
    note.write_text(marker, encoding="utf-8")
    return archive


def _without_owner(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """An archive entry without names and numbers of this computer's users."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def _pip(wanted: Installation, packages: list[str], folder: Path, *, fetch: bool = False) -> None:
    """Unpack wheels for another machine into a folder, or only download them."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download" if fetch else "install"]
    command += ["--no-deps", "--dest", str(folder)] if fetch else ["--no-compile", "--target", str(folder)]
    command += ["--quiet", "--only-binary=:all:", "--implementation", "cp", "--python-version", wanted.tag]
    command += [part for name in _PLATFORMS for part in ("--platform", f"{name}_{wanted.machine}")]
    try:
        done = subprocess.run([*command, *packages], capture_output=True, text=True, timeout=_PIP_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise EnvironmentIncomplete(
            "pip did not finish in 15 minutes", cure="is the package index reachable?"
        ) from error
    if done.returncode == 0:
        return
    if "No module named pip" in done.stderr:
        cure = f"{sys.executable} -m ensurepip"
        raise EnvironmentIncomplete("this Python has no pip, which fetches the runtime", cure=cure)
    # Without a network pip says in the end that there is no such distribution, too.
    offline = re.search("NewConnectionError|Failed to establish|ConnectTimeout|Temporary failure", done.stderr)
    if "No matching distribution" in done.stderr and not offline:
        raise DeviceFailed(
            f"there are no wheels of {' '.join(packages)} for {wanted.machine}, Python {wanted.python}",
            where=last_line(done.stderr),
            cure="install a Python between 3.11 and 3.13 on the device",
        )
    raise EnvironmentIncomplete(
        f"pip could not fetch {' '.join(packages)}",
        where=last_line(offline.string[offline.start() :].partition("\n")[0]) if offline else last_line(done.stderr),
        cure="is the package index reachable?",
    )


def compiler(machine: str) -> str:
    """The C++ compiler on this computer that builds programs for another machine.

    Raises:
        EnvironmentIncomplete: there is none.
    """
    own = ("c++", "g++") if platform.machine() == machine and platform.system() == "Linux" else ()
    for name in (f"{machine}-linux-gnu-g++", *own):
        if shutil.which(name):
            return name
    raise EnvironmentIncomplete(
        f"ExecuTorch on {machine} needs a C++ compiler for it here",
        cure=f"sudo apt install g++-{machine.replace('_', '-')}-linux-gnu",
    )


def _native(wanted: Installation, scratch: Path, folder: Path) -> None:
    """ExecuTorch's native libraries from its wheel, and edgevit's C interface linked to them."""
    program = compiler(wanted.machine)
    _pip(wanted, [f"{wanted.source.package}=={wanted.source.tested}"], scratch / "wheels", fetch=True)
    wheel = next((scratch / "wheels").glob("*.whl"))
    parts = scratch / "parts"
    _unpack(wheel, parts, ("executorch/lib/", "executorch/include/"))
    include, lib = parts / "executorch/include", parts / "executorch/lib"
    command = [program, "-std=c++17", "-O2", "-s", "-fPIC", "-shared", "-w"]
    command += ["-DC10_USING_CUSTOM_GENERATED_MACROS", "-DET_EVENT_TRACER_ENABLED", f"-I{include}"]
    command += [f"-I{include}/executorch/runtime/core/portable_type/c10", str(_source()), "-o", str(folder / LIBRARY)]
    command += [f"-L{lib}", "-Wl,--no-as-needed", *(f"-lexecutorch_{name}" for name in _LINKED), "-lexecutorch"]
    command += ["-Wl,--as-needed", "-Wl,-rpath,$ORIGIN", "-Wl,--allow-shlib-undefined", "-lpthread"]
    env = {key: value for key, value in os.environ.items() if key not in ("CPATH", "LIBRARY_PATH")}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if done.returncode != 0:
        raise EnvironmentIncomplete(f"{program} could not build {LIBRARY}", where=last_line(done.stderr))
    for name in (*_LINKED, ""):
        file = f"libexecutorch{'_' + name if name else ''}.so"
        shutil.copy(lib / file, folder / file)


def _unpack(wheel: Path, folder: Path, wanted: tuple[str, ...]) -> None:
    """Unpack some folders of a wheel, never outside the destination."""
    with zipfile.ZipFile(wheel) as packed:
        for name in packed.namelist():
            if name.startswith(wanted) and ".." not in PurePosixPath(name).parts and not name.endswith("/"):
                packed.extract(name, folder)
