"""npm packages for the browser's page: fetched on request, checked against their pinned digest."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from edgevit.core.files import cache_folder, write_whole
from edgevit.devices.runner_process import runner_file
from edgevit.errors import DeviceFailed, EnvironmentIncomplete

_LARGEST = 256 << 20
"""Bytes of the largest accepted package (256 MiB), so that a registry cannot fill memory."""
_TIMEOUT_S = 120
"""Seconds for the registry to answer or to send its next bytes."""


@dataclass(frozen=True)
class NpmPackage:
    """One pinned package of the npm registry.

    Attributes:
        name: with its scope, e.g. ``@scope/name``.
        version: the exact version.
        integrity: the digest as npm writes it, ``sha512-`` and base64.
        files: by the name that the page asks for, the path in the package.
    """

    name: str
    version: str
    integrity: str
    files: dict[str, str]

    @property
    def folder(self) -> Path:
        """The cache folder of its files."""
        return cache_folder() / "web" / f"{self.name.replace('/', '+')}-{self.version}"


@lru_cache(maxsize=1)
def packages() -> dict[str, tuple[NpmPackage, ...]]:
    """The npm packages of each runtime of the page."""
    listed = json.loads(runner_file("browser", "packages.json").read_text(encoding="utf-8"))
    return {runtime: tuple(NpmPackage(**one) for one in found) for runtime, found in listed.items()}


def fetched(runtime: str) -> dict[str, Path] | None:
    """Files of a runtime by the name the page asks for, or None where they are not in the cache."""
    found = {name: one.folder / name for one in packages()[runtime] for name in one.files}
    return found if all(path.is_file() for path in found.values()) else None


def web_files(runtime: str, *, install: bool, announce: Callable[[str], None]) -> dict[str, Path]:
    """Files of a runtime by the name the page asks for, fetched if that is allowed.

    Raises:
        DeviceFailed: they are not in the cache, and may not be fetched.
        EnvironmentIncomplete: the registry does not answer, or gives something else.
    """
    found = fetched(runtime)
    if found is None and install:
        for package in packages()[runtime]:
            announce(f"fetching {package.name} {package.version} from the npm registry")
            _fetch(package)
        found = fetched(runtime)
    if found is None:
        raise DeviceFailed(
            f"{runtime} is not here yet: the page gets it from this computer",
            cure="edgevit profile ... --install-runtime fetches it once from the npm registry, digest checked",
        )
    return found


def _address(package: NpmPackage) -> str:
    base = package.name.rpartition("/")[2]
    return f"{_registry()}/{package.name}/-/{base}-{package.version}.tgz"


def _registry() -> str:
    """The registry that npm is configured to use on this computer."""
    found = os.environ.get("NPM_CONFIG_REGISTRY", "")
    if not found and shutil.which("npm"):
        command = ["npm", "config", "get", "registry"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        found = done.stdout.strip()
    if not found.startswith(("http://", "https://")):
        cure = "install npm, or set NPM_CONFIG_REGISTRY to a registry's address"
        raise EnvironmentIncomplete("nothing says where the npm registry is", cure=cure)
    return found.rstrip("/")


def _fetch(package: NpmPackage) -> None:
    address = _address(package)
    try:
        with urllib.request.urlopen(address, timeout=_TIMEOUT_S) as answer:
            data = answer.read(_LARGEST + 1)
    except (urllib.error.URLError, TimeoutError, ValueError) as error:
        raise EnvironmentIncomplete(
            f"{package.name} could not be fetched: {error}", where=address, cure="is the npm registry reachable?"
        ) from error
    unpack(package, data, address)


def unpack(package: NpmPackage, data: bytes, where: str) -> None:
    """Write a package's wanted files, if the whole package has the pinned digest.

    Raises:
        EnvironmentIncomplete: it is another file than the pinned one.
    """
    digest = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
    if digest != package.integrity:
        raise EnvironmentIncomplete(f"{package.name} {package.version} is not the file that edgevit knows", where=where)
    wanted = {f"package/{inside}": name for name, inside in package.files.items()}
    with tarfile.open(fileobj=io.BytesIO(data)) as packed:
        for member in packed:
            name = wanted.get(member.name)
            content = packed.extractfile(member) if name and member.isfile() else None
            if name and content:
                write_whole(package.folder / name, content.read())
