"""Class names: ImageNet's from timm, the digits, a file's lines, or plain numbers."""

from __future__ import annotations

from pathlib import Path

from edgevit.data.digits import LABELS as DIGITS
from edgevit.errors import BadFile, UsageError


def read_labels(path: Path) -> tuple[str, ...]:
    """One label a line, blank lines at the end ignored.

    Raises:
        BadFile: missing, not UTF-8, empty, or a blank or repeated label.
    """
    try:
        lines = path.read_text(encoding="utf-8").rstrip().splitlines()
    except FileNotFoundError as error:
        raise BadFile(f"there is no labels file {path}") from error
    except (UnicodeDecodeError, OSError) as error:
        raise BadFile("the labels file is not readable UTF-8 text", where=str(path)) from error
    labels = tuple(line.strip() for line in lines)
    if not labels or "" in labels:
        raise BadFile(
            "the labels file has an empty line or none at all", where=str(path), cure="write one label a line"
        )
    repeated = sorted({label for label in labels if labels.count(label) > 1})
    if repeated:
        raise BadFile(f"the labels file repeats {repeated[0]!r}", where=str(path), cure="make every label different")
    return labels


def labels_for(kind: str, count: int, given: tuple[str, ...] | None) -> tuple[str, ...]:
    """The labels of a model: those given, or the ones its spec names.

    Raises:
        UsageError: the number of labels is not the number of classes.
    """
    if given is not None:
        if len(given) != count:
            raise UsageError(
                f"{len(given)} labels for {count} classes",
                cure="give one label a class, in the order of the model's outputs",
            )
        return given
    if kind == "digits" and count == len(DIGITS):
        return DIGITS
    if kind == "imagenet-1k":
        return _imagenet()
    return tuple(f"class_{index}" for index in range(count))


def _imagenet() -> tuple[str, ...]:
    """ImageNet-1k names; the two names that stand for two synsets each get the synset appended."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    names = [str(info.index_to_description(index)).split(",")[0] for index in range(info.num_classes())]
    return tuple(
        f"{name} ({info.index_to_label_name(index)})" if names.count(name) > 1 else name
        for index, name in enumerate(names)
    )
