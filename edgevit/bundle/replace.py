"""Decides what an output may replace: an unchanged bundle or plan of edgevit's own, and nothing else."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from edgevit.backends.base import find_backend
from edgevit.bundle.read import read_bundle
from edgevit.bundle.write import MANIFEST
from edgevit.core.digest import sha256_file
from edgevit.core.files import is_system_litter
from edgevit.errors import EdgevitError, UsageError
from edgevit.schema.manifest import Manifest, parse_manifest
from edgevit.schema.plan import FLEET, FUSION, PLAN, read_fleet, read_plan

Check = Callable[[Path], None]
_AFTER_S = 2.0
"""A plan's files are written within a moment; one that is younger than the plan by more was edited."""


def check_bundle_replaceable(destination: Path) -> None:
    """Refuse to replace anything but an unchanged bundle.

    That is a file, a link, another folder, or a bundle into which a file was put.

    Args:
        destination: where a bundle is to be written; what is not there, or an empty folder, is fine.

    Raises:
        UsageError: names what would be lost.
    """
    if _is_free(destination):
        return
    strange = _strange_in_bundle(destination)
    if strange:
        raise _kept(destination, strange)


def check_plan_replaceable(destination: Path) -> None:
    """Refuse to replace anything but an unchanged plan folder, as `edgevit split` writes it.

    Raises:
        UsageError: names what would be lost.
    """
    if _is_free(destination):
        return
    try:
        plan = read_plan(destination, head=False)
    except EdgevitError:
        raise _kept(destination, _first_foreign(destination)) from None
    bundles = [destination / one.bundle for one in plan.sub_models]
    for path in _files(destination):
        name = path.relative_to(destination).as_posix()
        if not any(path.is_relative_to(bundle) for bundle in bundles) and name not in (PLAN, FLEET, FUSION):
            raise _kept(destination, f"it holds {name}, which edgevit did not write")
    if (destination / FUSION).is_file() and sha256_file(destination / FUSION) != plan.fusion.sha256:
        raise _kept(destination, f"its {FUSION} was changed after it was written")
    if (destination / FLEET).is_file() and _was_edited(destination):
        raise _kept(destination, f"its {FLEET} was changed after it was written")
    for bundle in bundles:
        strange = "" if _is_free(bundle) else _strange_in_bundle(bundle)
        if strange:
            raise _kept(bundle, strange)


def _was_edited(plan: Path) -> bool:
    """Whether a plan's fleet.toml is not as `edgevit split` wrote it: later than the plan, or in another form."""
    path = plan / FLEET
    if path.stat().st_mtime > (plan / PLAN).stat().st_mtime + _AFTER_S:
        return True
    try:
        return read_fleet(path).to_toml() != path.read_text(encoding="utf-8")
    except (EdgevitError, UnicodeDecodeError):
        return True


def _is_free(destination: Path) -> bool:
    if destination.is_symlink():
        raise _kept(destination, "it is a symbolic link")
    if not destination.exists():
        return True
    if not destination.is_dir():
        raise _kept(destination, "it is a file")
    return not any(_files(destination))


def _files(folder: Path) -> Iterator[Path]:
    """Every file below a folder but what operating systems leave there."""
    for path in sorted(folder.rglob("*")):
        if not stat.S_ISDIR(path.lstat().st_mode) and not is_system_litter(path.name):
            yield path


def _first_foreign(folder: Path) -> str:
    name = next(_files(folder)).relative_to(folder).as_posix()
    return f"it holds {name}, which edgevit did not write"


def _strange_in_bundle(folder: Path) -> str:
    """The files in a folder that are not part of an unchanged bundle."""
    try:
        manifest = read_bundle(folder, check=False).manifest
    except EdgevitError as error:
        named = (folder / MANIFEST).exists()
        return f"its {MANIFEST} is not edgevit's: {error.message}" if named else _first_foreign(folder)
    listed = {entry.path: entry for entry in manifest.files or ()}
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        if name == MANIFEST and not path.is_symlink():
            continue
        if name not in listed or path.is_symlink() or not path.is_file():
            return f"it holds {name}, which is not the bundle's"
        if path.stat().st_size != listed[name].bytes or sha256_file(path) != listed[name].sha256:
            return f"its {name} was changed after it was written"
    return "" if _agrees_with_its_file(folder / manifest.entry, manifest) else f"its {MANIFEST} was changed"


def _agrees_with_its_file(entry: Path, manifest: Manifest) -> bool:
    """Whether the manifest inside the model file is the one beside it, which no digest covers."""
    try:
        inside = find_backend(manifest.target.backend).read_embedded(entry) if entry.exists() else None
        return inside is None or parse_manifest(inside, str(entry)).embedded() == manifest.embedded()
    except EdgevitError:  # of a backend that is no longer installed
        return True


def _kept(destination: Path, why: str) -> UsageError:
    return UsageError(
        f"{destination.name} is not replaced: {why}",
        where=str(destination),
        cure=f"mv {destination} elsewhere, or choose another -o DIR",
    )
