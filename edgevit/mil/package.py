"""Reads an .mlpackage: its model description and its ML Program."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgevit.core.binary import Buffer, fields, messages, string, string_map, varints
from edgevit.errors import BadFile, UsageError
from edgevit.mil.program import Function, read_function

_COLOURS = {10: "GRAYSCALE", 20: "RGB", 30: "BGR", 40: "GRAYSCALE_FLOAT16"}
_KINDS = {1: "int64", 2: "double", 3: "string", 4: "image", 5: "array", 6: "dictionary", 7: "sequence", 8: "state"}
_DESCRIPTION, _PROGRAM = 2, 502
_MODEL_PATH = "@model_path/"
MODULES = "edgevit_modules"
"""Metadata key of the map from module paths to names of results, as JSON."""


@dataclass(frozen=True)
class Feature:
    """One input or output in Core ML's model description.

    Attributes:
        name: of the feature.
        kind: ``image``, ``array``, ``string``, ``dictionary``, ...
        size: (height, width) of an image, otherwise None.
        colour: of an image: ``RGB``, ``BGR``, ``GRAYSCALE`` or ``GRAYSCALE_FLOAT16``.
        shape: of an array.
    """

    name: str
    kind: str
    size: tuple[int, int] | None = None
    colour: str = ""
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Package:
    """A Core ML package that holds an ML Program.

    Attributes:
        path: the package's folder.
        folder: the folder that ``@model_path`` stands for.
        inputs: as described.
        outputs: as described.
        label_output: name of the output that is the most likely class, or an empty string.
        probabilities_output: name of the classifier's dictionary of probabilities, or an empty string.
        metadata: user-defined texts.
        function: the program's function that a prediction runs.
    """

    path: Path
    folder: Path
    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    label_output: str
    probabilities_output: str
    metadata: dict[str, str]
    function: Function

    def only_input(self) -> Feature:
        """The single input of a classifier.

        Raises:
            UsageError: there are several, or none.
        """
        if len(self.inputs) != 1:
            names = ", ".join(one.name for one in self.inputs) or "none"
            raise UsageError(f"only models with one input are run, this one has: {names}", where=str(self.path))
        return self.inputs[0]

    def classes(self) -> tuple[str, ...]:
        """The class names of a classifier, in the order of its probabilities; empty for other models."""
        for operation in self.function.operations:
            if operation.type == "classify":
                listed = operation.inputs["classes"][0]
                return tuple(str(one) for one in listed) if isinstance(listed, list) else ()
        return ()

    def weight_file(self, name: str) -> Path:
        """The path of a weight file that the program names.

        Raises:
            BadFile: it is not inside the package.
        """
        return _inside(self.folder, name.removeprefix(_MODEL_PATH), self.path)


def _inside(folder: Path, relative: str, package: Path) -> Path:
    parts = PurePosixPath(relative)
    path = folder / parts
    if parts.is_absolute() or not relative or not path.resolve().is_relative_to(package.resolve()):
        raise BadFile(f"the package names the file {relative!r}, which is not inside it", where=str(package))
    return path


def model_file(path: Path) -> Path:
    """The path of the specification inside a package, from the package's Manifest.json.

    Raises:
        BadFile: it is no package, or its manifest is damaged.
    """
    listing = path / "Manifest.json"
    if not listing.is_file():
        raise BadFile("not a Core ML package", where=f"{path} has no Manifest.json")
    try:
        document = json.loads(listing.read_text("utf-8"))
        relative = document["itemInfoEntries"][document["rootModelIdentifier"]]["path"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadFile("the package's Manifest.json is damaged", where=str(listing)) from error
    file = _inside(path / "Data", str(relative), path)
    if not file.is_file():
        raise BadFile("the package has no specification", where=str(file))
    return file


def _feature(data: Buffer) -> Feature:
    name = string(data, 1)
    for number, value in fields(next(messages(data, 3), memoryview(b""))):
        if number not in _KINDS or not isinstance(value, memoryview):
            continue
        kind = _KINDS[number]
        if kind == "image":
            numbers = {n: v for n, v in fields(value) if isinstance(v, int)}
            size = (numbers.get(2, 0), numbers.get(1, 0))
            return Feature(name, kind, size, _COLOURS.get(numbers.get(3, 0), "unknown"))
        return Feature(name, kind, shape=tuple(varints(value, 1)) if kind == "array" else ())
    return Feature(name, "unknown")


def _specification(file: Path, path: Path) -> tuple[memoryview, memoryview]:
    """The ``ModelDescription`` and ``Program`` messages of a package's specification.

    Raises:
        BadFile: it is damaged, or holds another kind of model.
    """
    found = {number: value for number, value in fields(file.read_bytes()) if isinstance(value, memoryview)}
    if _PROGRAM not in found:
        raise BadFile(
            "the package holds no ML Program",
            where=str(path),
            cure="convert with convert_to='mlprogram'; neural networks and pipelines are not executed",
        )
    return found.get(_DESCRIPTION, memoryview(b"")), found[_PROGRAM]


def _metadata(description: Buffer) -> dict[str, str]:
    return {key: text for metadata in messages(description, 100) for key, text in string_map(metadata, 100).items()}


def read_metadata(path: Path) -> dict[str, str]:
    """The user-defined metadata of a package, without reading its program.

    Raises:
        BadFile: it is no package, is damaged, or holds another kind of model.
    """
    return _metadata(_specification(model_file(path), path)[0])


def read_package(path: Path) -> Package:
    """Read a package; weights stay in their file until they are needed.

    Raises:
        BadFile: it is no package, is damaged, or holds another kind of model.
    """
    file = model_file(path)
    description, program = _specification(file, path)
    return Package(
        path=path,
        folder=file.parent,
        inputs=tuple(_feature(one) for one in messages(description, 1)),
        outputs=tuple(_feature(one) for one in messages(description, 10)),
        label_output=string(description, 11),
        probabilities_output=string(description, 12),
        metadata=_metadata(description),
        function=read_function(program, string(description, 21) or "main"),
    )
