"""Folders of pictures, and labelled folders with one sub-folder for each class."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.core.files import is_system_litter
from edgevit.data.pixels import PICTURE_SUFFIXES, read_picture, readable_suffixes
from edgevit.errors import BadFile

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Skip = Callable[[str, BadFile], None]
"""Is told the name of a picture that is left out, and why."""
Synsets = Callable[[tuple[str, ...]], dict[str, int]]
"""From a model's labels to the class index of each of ImageNet's synsets, or to nothing."""

_LITTER = frozenset({"__macosx", "@eadir", "$recycle.bin", "system volume information"})
"""Folders that macOS, Windows and network drives leave behind, in lower case."""
_SYNSET = re.compile(r"n\d{8}")
_UNNAMED = re.compile(r"class_\d+")


def is_litter(name: str) -> bool:
    """Whether a file or folder is the operating system's own (``.DS_Store``, ``._x.jpg``, ``__MACOSX``) or hidden."""
    return name.startswith(".") or is_system_litter(name) or name.lower() in _LITTER


def refuse(name: str, error: BadFile) -> None:  # noqa: ARG001
    """A `Skip` that raises the error, so that no picture is left out."""
    raise error


def _no_synsets(labels: tuple[str, ...]) -> dict[str, int]:  # noqa: ARG001
    """The `Synsets` of models without ImageNet's classes: none."""
    return {}


def picture_paths(folder: Path) -> list[Path]:
    """All files below a folder that have a picture's suffix, in order.

    That takes in pictures that cannot be decoded on this machine: reading them says so. Hidden files and folders, and
    what operating systems leave behind, are left out.

    Raises:
        BadFile: there is no such folder or it has no pictures.
    """
    if not folder.is_dir():
        raise BadFile(f"there is no folder {folder}")
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in PICTURE_SUFFIXES
        and not any(is_litter(part) for part in path.relative_to(folder).parts)
        and path.is_file()
    )
    if not found:
        raise BadFile(
            "the folder has no pictures",
            where=str(folder),
            cure=f"put {', '.join(sorted(readable_suffixes()))} files in it",
        )
    return found


def ignore(name: str, error: BadFile) -> None:
    """A `Skip` that does nothing."""


def readable_pictures(folder: Path, skip: Skip = refuse) -> Iterator[tuple[Path, Picture]]:
    """The pictures below a folder that can be read, upright and in RGB.

    Args:
        folder: searched with its sub-folders.
        skip: called for the others.

    Raises:
        BadFile: there is no such folder, or not one picture in it can be read.
    """
    none, last = True, None
    for path in picture_paths(folder):
        try:
            picture = read_picture(path)
        except BadFile as error:
            skip(str(path), error)
            last = error
            continue
        none = False
        yield path, picture
    if none and last is not None:
        raise BadFile("no picture in the folder can be read", where=f"{folder}: {last.message}", cure=last.cure)


def labelled_folder(
    folder: Path, labels: tuple[str, ...], skip: Skip = refuse, synsets: Synsets = _no_synsets
) -> Iterator[tuple[Path, int]]:
    """The pictures of a folder with one sub-folder a class, with class indices.

    All sub-folders are named alike: by the labels (capitals, spaces, underscores and Unicode forms do not matter), by
    indices from 0, or by ImageNet's synsets (``n01440764``) where the labels are ImageNet's. Only where the model has
    no names for its classes (``class_0``) and there are as many sub-folders is their sorted order that of the classes.

    Args:
        folder: hidden sub-folders are none.
        labels: the model's.
        skip: called for pictures that lie beside the sub-folders, and so are of no class.
        synsets: asked where all sub-folders are named by synsets.

    Raises:
        BadFile: a sub-folder that stands for no class, or one without pictures.
    """
    if not folder.is_dir():
        raise BadFile(f"there is no folder {folder}")
    names = sorted(child.name for child in folder.iterdir() if child.is_dir() and not is_litter(child.name))
    if not names:
        raise BadFile(
            "the folder has no sub-folders",
            where=str(folder),
            cure="put the pictures of each class in a sub-folder of its own",
        )
    classes = _class_of(names, labels, folder, synsets)
    pictures = {name: picture_paths(folder / name) for name in names}
    for child in sorted(folder.iterdir()):
        if child.suffix.lower() in PICTURE_SUFFIXES and not is_litter(child.name) and child.is_file():
            skip(str(child), BadFile("the picture lies in no class's folder", where=str(child)))
    for name in names:
        for path in pictures[name]:
            yield path, classes[name]


def _class_of(names: Sequence[str], labels: tuple[str, ...], folder: Path, synsets: Synsets) -> dict[str, int]:
    """The class index of each sub-folder by its name; see `labelled_folder`."""
    by_label = _by_label(names, labels)
    if len(by_label) == len(names):
        return by_label
    by_index = {name: int(name) for name in names if name.isascii() and name.isdecimal() and int(name) < len(labels)}
    if len(by_index) == len(names) == len(set(by_index.values())):
        return by_index
    unnamed = all(_UNNAMED.fullmatch(label) for label in labels)
    if all(_SYNSET.fullmatch(name) for name in names):
        known = synsets(labels)
        if all(name in known for name in names):
            return {name: known[name] for name in names}
    numbers = any(name.isdecimal() for name in names)
    if unnamed and not by_label and not numbers and len(names) == len(labels):
        return {name: index for index, name in enumerate(names)}
    raise _stranger(names, labels, folder, by_label, by_index)


def _plain(name: str) -> str:
    """A name without case, Unicode form, spaces and punctuation, for comparison."""
    plain = unicodedata.normalize("NFKC", name).casefold()
    return re.sub(r"[\W_]+", " ", plain).strip() or plain


def _by_label(names: Sequence[str], labels: tuple[str, ...]) -> dict[str, int]:
    exact = {label: index for index, label in enumerate(labels)}
    alike: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        alike.setdefault(_plain(label), []).append(index)
    found = {}
    for name in names:
        near = alike.get(_plain(name), [])
        if name in exact:
            found[name] = exact[name]
        elif len(near) == 1:
            found[name] = near[0]
    return found


def _stranger(
    names: Sequence[str], labels: tuple[str, ...], folder: Path, by_label: dict[str, int], by_index: dict[str, int]
) -> BadFile:
    """The error that names the sub-folder that fits least with the others."""
    known = by_index if len(by_index) > len(by_label) else by_label
    strangers = [name for name in names if name not in known]
    if not strangers:  # 1 and 01 are one index
        return BadFile(
            "two sub-folders stand for the same class", where=str(folder), cure="write every index in one way, from 0"
        )
    name = strangers[0]
    inside = [child.name for child in (folder / name).iterdir() if child.is_dir()] if (folder / name).is_dir() else []
    near = get_close_matches(_plain(name), [_plain(label) for label in labels], n=1, cutoff=0.6)
    if inside and len(_by_label(inside, labels)) == len(inside):
        cure = f"its own sub-folders are classes: give {folder / name}"
    elif near:
        cure = f"did you mean {next(label for label in labels if _plain(label) == near[0])!r}?"
    else:
        cure = f"name each sub-folder by a label ({', '.join(labels[:3])}, ...) or by a class index from 0"
    more = f" (and {len(strangers) - 1} more)" if len(strangers) > 1 else ""
    return BadFile(f"the sub-folder {name!r} stands for no class of the model{more}", where=str(folder), cure=cure)
