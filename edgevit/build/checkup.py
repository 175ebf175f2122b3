"""What this machine has and lacks for exporting and running."""

from __future__ import annotations

import shutil
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import psutil

from edgevit.backends.base import Backend, backends
from edgevit.core.digest import package_versions
from edgevit.core.folders import cache_folder
from edgevit.devices.base import Kind, kinds

_LEAST_DISK = 4 << 30
_LEAST_MEMORY = 4 << 30


@dataclass(frozen=True)
class Finding:
    """One check: its state, what was found, and the command that mends it."""

    name: str
    state: Literal["ok", "missing", "wrong"]
    found: str
    cure: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def checkup() -> list[Finding]:
    """All checks, cheap ones only: nothing heavy is imported."""
    return [
        Finding("edgevit", "ok", metadata.version("edgevit")),
        Finding("python", "ok", sys.version.split()[0]),
        _memory(),
        _disk(),
        _cache(),
        *(_export(backend) for backend in backends().values()),
        *(_run(backend) for backend in backends().values()),
        *(_reach(name, kind) for name, kind in kinds().items()),
    ]


def _memory() -> Finding:
    total = psutil.virtual_memory().total
    found = f"{total / 2**30:.1f} GiB, {psutil.cpu_count()} cores"
    if total < _LEAST_MEMORY:
        return Finding("memory", "wrong", found, "export on a machine with at least 4 GiB; bundles run on less")
    return Finding("memory", "ok", found)


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    state: Literal["ok", "wrong"] = "ok" if free >= _LEAST_DISK else "wrong"
    return Finding("free disk here", state, f"{free / 2**30:.1f} GiB", "" if state == "ok" else "edgevit cache clear")


def _cache() -> Finding:
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        return Finding("cache", "wrong", f"{folder}: {error.strerror}", "set EDGEVIT_CACHE to a writable folder")
    return Finding("cache", "ok", str(folder))


def _packages(name: str, packages: tuple[str, ...], extra: str) -> Finding:
    have = package_versions(packages)
    found = ", ".join(f"{package} {version}" for package, version in have.items()) or "nothing"
    missing = [package for package in packages if package not in have]
    if missing:
        return Finding(name, "missing", found, f"pip install 'edgevit[{extra}]'")
    return _right_versions(name, packages, found, extra)


def _right_versions(name: str, packages: tuple[str, ...], found: str, extra: str) -> Finding:
    """Compare installed versions with the ranges that edgevit's own metadata states."""
    try:
        from packaging.requirements import Requirement
        from packaging.specifiers import SpecifierSet
    except ImportError:
        return Finding(name, "ok", found)
    wanted: dict[str, SpecifierSet] = {}
    for line in metadata.requires("edgevit") or []:
        requirement = Requirement(line)
        if len(requirement.specifier):
            wanted.setdefault(requirement.name.lower(), requirement.specifier)
    for package, version in package_versions(packages).items():
        specifier = wanted.get(package.lower())
        if specifier is not None and not specifier.contains(version.partition("+")[0], prereleases=True):
            return Finding(
                name, "wrong", f"{package} {version}, tested with {specifier}", f"pip install 'edgevit[{extra}]'"
            )
    return Finding(name, "ok", found)


def _export(backend: Backend) -> Finding:
    return _packages(f"export to {backend.name}", (*backend.packages, "timm"), backend.extra)


def _reach(name: str, kind: Kind) -> Finding:
    """Whether devices of a kind can be reached; one that is there is enough."""
    found = kind.discover()
    ready = [one for one in found if one.state == "ready"]
    state: Literal["ok", "missing"] = "ok" if ready else "missing"
    first = (ready or found)[0]
    return Finding(f"devices by {name}", state, first.what, first.cure)


def _run(backend: Backend) -> Finding:
    reason = backend.available("")
    if reason:
        return Finding(f"run {backend.suffix}", "missing", reason, "copy the bundle to a Mac and run it there")
    return _packages(f"run {backend.suffix}", backend.runtime_packages, backend.extra)
