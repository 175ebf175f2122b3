"""Class names: ImageNet's from timm, the digits, the lines of a file, or plain numbers."""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from edgevit.data.digits import LABELS as DIGITS
from edgevit.errors import BadFile, UsageError
from edgevit.schema.strict import no_repeats

MAX_BYTES: Final = 16 << 20
"""Of a labels file: a hundred times what 21,843 names need."""

_ONE_A_LINE = "write one label a line"
_LINE_ENDS = re.compile(r"\r\n|\r|\n")
_INVISIBLE = "".join(char for char in map(chr, range(0x3001)) if char.isspace()) + "\u200b\u200e\u200f\u2060\ufeff"
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class Labels(tuple[str, ...]):
    """Class names in output order, with the name of the file that they were read from.

    Attributes:
        source: the file's name.
    """

    source: str = ""


def read_labels(path: Path) -> Labels:
    """The labels in a file: one a line, or a JSON list or index.

    Text is UTF-8, or UTF-16 or UTF-32 with a byte-order mark; lines end in any of the three ways. Blank lines at the
    end and space around a label are ignored. JSON is a list of names, or an object from index to name (``id2label``)
    or from name to index; of pairs of synset and name (``imagenet_class_index.json``) the name is taken.

    Raises:
        BadFile: missing, in another encoding, empty, or a label that is blank, repeated or longer than a line.
    """
    text = _decoded(_bytes(path), path)
    if text.lstrip()[:1] in ("[", "{") and (found := _from_json(text, path)) is not None:
        names = found
    else:
        lines = [line.strip(_INVISIBLE) for line in _LINE_ENDS.split(text)]
        while lines and not lines[-1]:
            lines.pop()
        names = lines
    labels = Labels(names)
    labels.source = path.name
    if not labels:
        raise BadFile("the labels file holds no label", where=str(path), cure=_ONE_A_LINE)
    if "" in labels:
        raise BadFile(
            f"label {labels.index('') + 1} of {len(labels)} in the labels file is empty",
            where=str(path),
            cure=_ONE_A_LINE,
        )
    if broken := [label for label in labels if _LINE_ENDS.search(label)]:
        raise BadFile(f"the label {broken[0]!r} is longer than one line", where=str(path), cure=_ONE_A_LINE)
    repeated = [label for label, count in Counter(labels).items() if count > 1]
    if repeated:
        raise BadFile(f"the labels file repeats {repeated[0]!r}", where=str(path), cure="make every label different")
    return labels


def _bytes(path: Path) -> bytes:
    try:
        if path.is_file() and path.stat().st_size > MAX_BYTES:
            raise BadFile(f"the labels file is larger than {MAX_BYTES >> 20} MiB", where=str(path), cure=_ONE_A_LINE)
        return path.read_bytes()
    except FileNotFoundError as error:
        raise BadFile(f"there is no labels file {path}", cure="give --labels an existing text file") from error
    except OSError as error:
        raise BadFile("the labels file cannot be read", where=f"{path}: {error.strerror}", cure=_ONE_A_LINE) from error


def _decoded(data: bytes, path: Path) -> str:
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = len(_LINE_ENDS.split(data[: error.start].decode(encoding, "replace")))
        raise BadFile(
            f"the labels file is not UTF-8 text (line {line})"
            if encoding == "utf-8"
            else f"the labels file is damaged: its mark says {encoding}, line {line} is not",
            where=str(path),
            cure=f"save it as UTF-8, for example: iconv -f WINDOWS-1252 -t UTF-8 {path.name} > utf8.txt",
        ) from error
    if "\0" in text:
        raise BadFile(
            "the labels file holds NUL bytes: it is no text, or UTF-16 without its mark",
            where=str(path),
            cure="save it as UTF-8, one label a line",
        )
    return text


def _from_json(text: str, path: Path) -> list[str] | None:
    """The names in a JSON document; None where the text is not JSON."""
    try:
        value = json.loads(text, object_pairs_hook=no_repeats)
    except (ValueError, RecursionError) as error:
        if path.suffix.lower() == ".json":
            raise BadFile("the labels file is not valid JSON", where=f"{path}: {error}", cure=_ONE_A_LINE) from error
        return None
    names = _names(value)
    if names is None:
        raise BadFile(
            "the labels file is JSON, but neither a list of names nor an object of index and name",
            where=str(path),
            cure='write ["cat", "dog"] or {"0": "cat", "1": "dog"}, or one label a line',
        )
    return names


def _names(value: Any) -> list[str] | None:
    if isinstance(value, list):
        return [name.strip(_INVISIBLE) for name in value] if all(isinstance(name, str) for name in value) else None
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("id2label"), dict):  # a transformers config.json
        return _names(value["id2label"])
    if all(type(index) is int for index in value.values()):
        value = {str(index): name for name, index in value.items()} if len(set(value.values())) == len(value) else {}
    if set(value) != {str(index) for index in range(len(value))}:
        return None
    ordered = [value[str(index)] for index in range(len(value))]
    if all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair) for pair in ordered
    ):
        return distinct([name for _, name in ordered], [synset for synset, _ in ordered])
    return _names(ordered)


def labels_for(kind: str, count: int, given: tuple[str, ...] | None) -> tuple[str, ...]:
    """The class names of a model: those given, or those that its spec refers to.

    Raises:
        UsageError: the number of labels is not the number of classes.
    """
    if given is not None:
        if len(given) != count:
            raise label_mismatch(given, f"the model has {count} classes")
        return given
    if kind == "digits" and count == len(DIGITS):
        return DIGITS
    if kind.startswith("imagenet-"):
        return _imagenet(kind)
    return tuple(f"class_{index}" for index in range(count))


def label_mismatch(given: tuple[str, ...], against: str) -> UsageError:
    """The error for another number of labels; names their file where they came from one."""
    source = getattr(given, "source", "")
    return UsageError(
        f"{source or 'the list of labels'} holds {len(given)} label{'' if len(given) == 1 else 's'}, {against}",
        cure="give one label a class, in the order of the model's outputs",
    )


def distinct(names: list[str], synsets: list[str]) -> list[str]:
    """Class names made unique: the synset is appended to names that stand for several classes."""
    count = Counter(names)
    return [f"{name} ({synset})" if count[name] > 1 else name for name, synset in zip(names, synsets, strict=True)]


@lru_cache(maxsize=2)
def _imagenet(kind: str) -> tuple[str, ...]:
    from edgevit.models.torchvision_fix import fix_torchvision_import

    fix_torchvision_import()
    from timm.data import ImageNetInfo

    info = ImageNetInfo(kind)
    names = [str(name).split(",")[0] for name in info.label_descriptions()]
    return tuple(distinct(names, [str(synset) for synset in info.label_names()]))
