"""Checks what this machine has and lacks for exporting and running."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import psutil

from edgevit.backends.base import Backend, backends
from edgevit.core.digest import package_versions
from edgevit.core.files import cache_folder
from edgevit.devices.base import Kind, kinds

_LEAST_DISK, _LEAST_DISK_TO_RUN = 4 << 30, 256 << 20
"""Free bytes required to export, and to run bundles only."""
_LEAST_MEMORY = 4 << 30
"""Bytes that exporting takes, the same as `edgevit.pipeline.export` reserves for one lowering."""
_IMPORT_S = 60.0
"""Seconds for importing one package in a process of its own."""
_MODULES = {"onnxruntime": "onnxruntime", "ai-edge-litert": "ai_edge_litert.interpreter"}
"""What is imported, in a process of its own, to see that a runtime works; others would import torch, for seconds."""
CheckState = Literal["ok", "untested", "missing", "wrong"]


@dataclass(frozen=True)
class CheckResult:
    """The result of one check.

    Attributes:
        name: of what was checked.
        state: ``ok``; ``untested``, newer than what edgevit is tested with; ``missing``; ``wrong``.
        found: what was found.
        cure: the command that mends it, or empty.
    """

    name: str
    state: CheckState
    found: str
    cure: str = ""

    @property
    def usable(self) -> bool:
        """Whether the checked item can be used."""
        return self.state in ("ok", "untested")

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary, for ``--json``."""
        return asdict(self)


def checkup() -> list[CheckResult]:
    """Results of all checks; nothing heavy is imported into this process."""
    exports = [_export(backend) for backend in backends().values()]
    # Only where something of a toolchain is installed is this a machine that exports.
    exporting = "torch" in package_versions(("torch",))
    with ThreadPoolExecutor() as pool:
        runs = list(pool.map(_run, backends().values()))
    return [
        CheckResult("edgevit", "ok", metadata.version("edgevit")),
        CheckResult("python", "ok", sys.version.split()[0]),
        _system(sys.maxsize > 1 << 32),
        _memory(psutil.virtual_memory().total, exporting),
        _disk(shutil.disk_usage(Path.cwd()).free, exporting),
        _cache(),
        *exports,
        *runs,
        *(_reach(name, kind) for name, kind in kinds().items()),
    ]


def useful(findings: Sequence[CheckResult]) -> bool:
    """Whether bundles can be exported or run here; Core ML files off macOS are only evaluated, for verification."""
    counted = [one for one in findings if one.name.startswith("export to")]
    counted += [one for one in findings if one.name.startswith("run ") and not _only_evaluated(one)]
    return any(one.usable for one in counted)


def _only_evaluated(finding: CheckResult) -> bool:
    return finding.name == "run .mlpackage" and sys.platform != "darwin"


def _system(is_64_bit: bool) -> CheckResult:
    if is_64_bit:
        return CheckResult("system", "ok", f"{platform.system()} {platform.machine()}, 64-bit")
    found = f"{platform.system()} {platform.machine()}, 32-bit: no runtime has packages for it"
    return CheckResult(
        "system", "wrong", found, "install a 64-bit system, on a Raspberry Pi the 64-bit Raspberry Pi OS"
    )


def _memory(total: int, exporting: bool) -> CheckResult:
    found = f"{total / 2**30:.1f} GiB, {psutil.cpu_count()} cores"
    if total >= _LEAST_MEMORY:
        return CheckResult("memory", "ok", found)
    if not exporting:
        return CheckResult("memory", "ok", f"{found}: enough to run bundles, exporting takes 4 GiB")
    return CheckResult("memory", "wrong", found, "export on a machine with at least 4 GiB; bundles run on less")


def _disk(free: int, exporting: bool) -> CheckResult:
    least = _LEAST_DISK if exporting else _LEAST_DISK_TO_RUN
    found = f"{free / 2**30:.1f} GiB"
    return (
        CheckResult("free disk here", "ok", found)
        if free >= least
        else CheckResult("free disk here", "wrong", found, "edgevit cache clear")
    )


def _cache() -> CheckResult:
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        return CheckResult("cache", "wrong", f"{folder}: {error.strerror}", "set EDGEVIT_CACHE to a writable folder")
    return CheckResult("cache", "ok", str(folder))


def _packages(name: str, packages: tuple[str, ...], extra: str) -> CheckResult:
    have = package_versions(packages)
    found = ", ".join(f"{package} {version}" for package, version in have.items()) or "nothing"
    cure = f"pip install 'edgevit[{extra}]'"
    if any(package not in have for package in packages):
        return CheckResult(name, "missing", found, cure)
    for package, version in have.items():
        state, tested = _compared(version, requirements(extra).get(canonical(package), ""))
        if state != "ok":
            cause = "older than edgevit needs" if state == "wrong" else "newer than edgevit is tested with"
            return CheckResult(name, state, f"{package} {version}, {cause}: {tested}", cure if state == "wrong" else "")
    return CheckResult(name, "ok", found)


def canonical(name: str) -> str:
    """A distribution's name in canonical form, for comparison."""
    return re.sub(r"[-_.]+", "-", name).lower()


@lru_cache(maxsize=16)
def requirements(extra: str) -> Mapping[str, str]:
    """Packages that an extra of edgevit brings, with their versions, from edgevit's own metadata.

    Empty where the package `packaging`, which every runtime brings, is not installed.
    """
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return {}
    found: dict[str, str] = {}
    for line in metadata.requires("edgevit") or []:
        one = Requirement(line)
        if one.marker is None or not one.marker.evaluate({"extra": extra}) or one.marker.evaluate({"extra": ""}):
            continue
        if canonical(one.name) == "edgevit":
            for inner in one.extras:
                found = {**requirements(inner), **found}
        else:
            found[canonical(one.name)] = str(one.specifier)
    return found


def _compared(version: str, tested: str) -> tuple[CheckState, str]:
    """The state of a version relative to the tested range: in range, above or below."""
    try:
        from packaging.specifiers import SpecifierSet
        from packaging.version import Version
    except ImportError:
        return "ok", tested
    release = Version(version.partition("+")[0])
    if SpecifierSet(tested).contains(release, prereleases=True):
        return "ok", tested
    floors = [one for one in SpecifierSet(tested) if one.operator in (">=", ">", "==", "~=")]
    below = any(release < Version(one.version.removesuffix(".*")) for one in floors)
    return ("wrong" if below else "untested"), tested


def _export(backend: Backend) -> CheckResult:
    return _packages(f"export to {backend.name}", (*backend.packages, "timm"), backend.extra)


def _reach(name: str, kind: Kind) -> CheckResult:
    """Whether devices of a kind can be reached; one that is there is enough."""
    found = kind.discover()
    if not found:
        return CheckResult(f"devices by {name}", "missing", f"no device: {kind.title}")
    ready = [one for one in found if one.state == "ready"]
    state: Literal["ok", "missing"] = "ok" if ready else "missing"
    first = (ready or found)[0]
    return CheckResult(f"devices by {name}", state, first.what, first.cure)


def _run(backend: Backend) -> CheckResult:
    name = f"run {backend.suffix}"
    reason = backend.available("")
    if reason:
        return CheckResult(name, "missing", reason, "copy the bundle to a Mac and run it there")
    extra = smallest_extra(backend)
    found = _packages(name, backend.runtime_packages, extra)
    if not found.usable:
        return found
    for package in backend.runtime_packages:
        fault = import_fault(_MODULES[package]) if package in _MODULES else ""
        if fault:
            cure = f"pip install --force-reinstall {package}"
            return CheckResult(name, "wrong", f"{found.found} is installed and cannot be imported: {fault}", cure)
    return found


def smallest_extra(backend: Backend) -> str:
    """The extra of edgevit that installs a backend's runtime with the fewest other packages."""
    for extra in ("runtime", "torch"):
        if all(canonical(package) in requirements(extra) for package in backend.runtime_packages):
            return extra
    # Without `packaging` nothing is known of extras, and none of the runtimes that bring it is installed.
    light = all(package in _MODULES for package in backend.runtime_packages)
    return "runtime" if light else backend.extra


def import_fault(module: str) -> str:
    """The reason why a module cannot be imported, tried in a separate process since some crash; empty where it can."""
    env = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"import {module}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_IMPORT_S,
            env=env,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return type(error).__name__
    if done.returncode < 0:
        return f"the import ends with signal {-done.returncode}"
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return "" if done.returncode == 0 else (lines[-1][:300] if lines else f"exit status {done.returncode}")
