"""Reads bundles from untrusted sources."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgevit.bundle.write import MANIFEST
from edgevit.core.digest import sha256_file
from edgevit.core.files import is_system_litter
from edgevit.errors import BadFile, CheckFailed
from edgevit.schema.manifest import MAX_BYTES, FileEntry, Manifest, parse_manifest


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk.

    Attributes:
        path: its folder.
        manifest: its description.
    """

    path: Path
    manifest: Manifest

    @property
    def entry(self) -> Path:
        """The model file or package."""
        return self.path / self.manifest.entry


def is_bundle(path: Path) -> bool:
    """Whether a path looks like a bundle."""
    return path.is_dir() and (path / MANIFEST).is_file()


def bundle_at(path: Path) -> Bundle | None:
    """The bundle at a path: a folder, or a model file inside one; None for a file without a bundle.

    Raises:
        BadFile: see `read_bundle`; a folder that is neither bundle nor package among them.
        CheckFailed: see `read_bundle`.
    """
    if is_bundle(path.parent) and not is_bundle(path):
        bundle = read_bundle(path.parent)
        return bundle if path.name == bundle.manifest.entry else None
    lone = path.is_file() or (path.is_dir() and bool(path.suffix) and not is_bundle(path))
    return None if lone else read_bundle(path)


def read_bundle(path: Path, *, check: bool = True) -> Bundle:
    """Open a bundle.

    Args:
        path: its folder.
        check: compare every file's size and SHA-256 with the manifest.

    Raises:
        BadFile: no bundle, an invalid manifest, or a path that leaves the bundle.
        CheckFailed: a file is missing, changed, or not listed.
    """
    manifest_path = path / MANIFEST
    if not path.is_dir():
        raise BadFile(f"there is no bundle {path}", cure="edgevit export MODEL -t TARGET writes one")
    if not manifest_path.is_file() or manifest_path.is_symlink():
        raise BadFile("the folder is not a bundle: it has no manifest.json", where=str(path))
    if manifest_path.stat().st_size > MAX_BYTES:
        raise BadFile("the manifest is larger than 4 MiB", where=str(manifest_path))
    manifest = parse_manifest(manifest_path.read_bytes(), str(manifest_path))
    if manifest.files is None:
        raise BadFile("the manifest lists no files", where=str(manifest_path))
    _check_paths(path, manifest)
    bundle = Bundle(path, manifest)
    if check:
        check_files(bundle)
    return bundle


def _safe(name: str) -> bool:
    parts = PurePosixPath(name)
    plain = name == parts.as_posix() and not parts.is_absolute()
    return plain and bool(name) and "\\" not in name and "\0" not in name and ".." not in parts.parts


def _check_paths(path: Path, manifest: Manifest) -> None:
    names = [entry.path for entry in manifest.files or ()]
    for name in [manifest.entry, *names]:
        if not _safe(name):
            raise BadFile(f"the manifest names a path outside the bundle: {name!r}", where=str(path))
    if len(set(names)) != len(names):
        raise BadFile("the manifest lists a file twice", where=str(path))
    if not any(name == manifest.entry or name.startswith(manifest.entry + "/") for name in names):
        raise BadFile("the manifest does not list the model file", where=str(path))


def check_files(bundle: Bundle) -> None:
    """Compare what is on disk with the manifest, file by file.

    Raises:
        BadFile: a symbolic link or special file.
        CheckFailed: a file is missing, changed or not listed.
    """
    listed = {entry.path: entry for entry in bundle.manifest.files or ()}
    found = set()
    for path in sorted(bundle.path.rglob("*")):
        mode, name = path.lstat().st_mode, path.relative_to(bundle.path).as_posix()
        if stat.S_ISDIR(mode) or name == MANIFEST:
            continue
        if stat.S_ISREG(mode) and name not in listed and is_system_litter(path.name):
            continue  # a Mac that showed the folder did that, nobody changed the bundle
        if not stat.S_ISREG(mode):
            raise BadFile(f"the bundle holds a symbolic link or special file: {name}", where=str(bundle.path))
        if name not in listed:
            raise _changed(bundle, f"{name} is not in the manifest")
        _check_file(bundle, path, listed[name])
        found.add(name)
    for name in listed:
        if name not in found:
            raise _changed(bundle, f"{name} is missing")


def _check_file(bundle: Bundle, path: Path, entry: FileEntry) -> None:
    if path.stat().st_size != entry.bytes or sha256_file(path) != entry.sha256:
        raise _changed(bundle, f"{entry.path} is not what the manifest says")


def _changed(bundle: Bundle, what: str) -> CheckFailed:
    return CheckFailed(
        f"the bundle was changed after it was written: {what}",
        where=str(bundle.path),
        cure="copy it again from where it came, or export it again",
    )
