"""An Android userland: C library and Python from Debian in one folder, since Android's C library runs no Linux wheels.

Its programs are started by its own dynamic linker, so nothing of the phone's system is used or changed, and neither
root nor the NDK is needed. CPU only: GPUs and NPUs are reached through Android's C library. It has been run in an
Android-shaped system on an emulated processor, not on a phone.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from edgevit.core.files import cache_folder, write_whole
from edgevit.devices.runner_process import runner_file
from edgevit.errors import EnvironmentIncomplete

LINKER = "lib/ld-linux-aarch64.so.1"
PYTHON = "bin/python3.11"
_LARGEST = 64 << 20
"""Bytes read of one package (64 MiB): a mirror cannot fill memory, and what is cut off fails the digest."""
_TIMEOUT_S = 120
"""Seconds for a mirror to answer or to send its next bytes, before the next mirror is tried."""
_HEADER, _MAGIC = 60, b"!<arch>\n"
_SKIPPED = ("test", "lib2to3", "idlelib", "tkinter", "ensurepip", "pydoc_data", "distutils")


@dataclass(frozen=True)
class UserlandRecipe:
    """The contents of the userland.

    Attributes:
        python: version of its Python.
        machine: processor name as ``uname -m`` says.
        mirrors: base URLs of Debian's archive; the first that has a file is used.
        packages: path in the archive and SHA-256 of each package.
    """

    python: str
    machine: str
    mirrors: tuple[str, ...]
    packages: tuple[tuple[str, str], ...]

    @property
    def digest(self) -> str:
        """Digest of all packages, which names the userland."""
        return hashlib.sha256("".join(sha for _, sha in self.packages).encode()).hexdigest()[:16]


@lru_cache(maxsize=1)
def recipe() -> UserlandRecipe:
    """The userland recipe that edgevit ships."""
    read = json.loads(runner_file("android", "capsule.json").read_text(encoding="utf-8"))
    packages = tuple((one["path"], one["sha256"]) for one in read["packages"])
    return UserlandRecipe(read["python"], read["machine"], tuple(read["mirrors"]), packages)


def capsule(announce: Callable[[str], None]) -> Path:
    """The userland as an archive, built once and cached.

    Raises:
        EnvironmentIncomplete: Debian's archive does not answer, or gives something else.
    """
    wanted = recipe()
    archive = cache_folder() / "runtimes" / f"capsule-{wanted.digest}.tar.gz"
    if archive.is_file():
        return archive
    announce("fetching a C library and Python for Android from Debian")
    packages = [fetch(wanted, path, sha) for path, sha in wanted.packages]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=4) as packed:
        for package in packages:
            for name, mode, content in wanted_files(package):
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(content), mode
                packed.addfile(entry, io.BytesIO(content))
    write_whole(archive, out.getvalue())
    return archive


def fetch(wanted: UserlandRecipe, path: str, sha: str) -> bytes:
    """The bytes of one Debian package, from the first mirror that has it with the expected SHA-256."""
    reason = ""
    for mirror in wanted.mirrors:
        try:
            with urllib.request.urlopen(f"{mirror}/{path}", timeout=_TIMEOUT_S) as answer:
                data = bytes(answer.read(_LARGEST))
        except (urllib.error.URLError, TimeoutError, OSError) as error:
            reason = f"{mirror}: {error}"
            continue
        if hashlib.sha256(data).hexdigest() == sha:
            return data
        reason = f"{mirror}: another file"
    name = PurePosixPath(path).name
    raise EnvironmentIncomplete(f"{name} could not be fetched", where=reason, cure="is Debian's archive reachable?")


def _data_archive(package: bytes) -> bytes:
    """The member ``data.tar.*`` of a Debian package, which is an `ar` archive."""
    if not package.startswith(_MAGIC):
        raise EnvironmentIncomplete("a package of Debian is not one")
    at = len(_MAGIC)
    while at + _HEADER <= len(package):
        header = package[at : at + _HEADER]
        name, size = header[:16].decode("ascii").strip().rstrip("/"), int(header[48:58])
        if name.startswith("data.tar"):
            return package[at + _HEADER : at + _HEADER + size]
        at += _HEADER + size + size % 2
    raise EnvironmentIncomplete("a package of Debian has no files")


def wanted_files(package: bytes) -> Iterator[tuple[str, int, bytes]]:
    """Libraries, Python and licences of a package, by their path in the userland; links are replaced by their
    targets.
    """
    with tarfile.open(fileobj=io.BytesIO(_data_archive(package))) as packed:
        members = {str(PurePosixPath(one.name)): one for one in packed}
        for name, member in members.items():
            place = _place(PurePosixPath(name))
            content = _content(packed, member) if place else None
            if content is not None:
                yield place, 0o755 if member.mode & 0o100 or ".so" in name else 0o644, content


def _content(packed: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | None:
    """The bytes of a file or of a link's target; None for a link out of the package."""
    if not (member.isfile() or member.issym()):
        return None
    try:
        file = packed.extractfile(member)
    except KeyError:
        return None
    return None if file is None else file.read()


def _place(path: PurePosixPath) -> str:
    """The path of a Debian file in the userland, or an empty string where it is not needed."""
    parts = path.parts
    if ".." in parts:
        return ""
    if ".so" in path.name and parts[-2:-1] == ("aarch64-linux-gnu",):
        return f"lib/{path.name}"
    if path.name == LINKER.rpartition("/")[2]:
        return LINKER
    if parts[:3] == ("usr", "lib", "python3.11") and not set(parts) & set(_SKIPPED):
        return str(PurePosixPath("py/lib/python3.11", *parts[3:]))
    if str(path) == f"usr/{PYTHON}":
        return f"py/{PYTHON}"
    if path.name == "copyright":
        return f"licences/{parts[-2]}"
    return ""
