"""Derives the interface of another tool's model file from the name, type and shape of its one input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgevit.backends.base import FileInterface
from edgevit.errors import UsageError
from edgevit.schema.manifest import InputInfo


def described(
    path: Path, name: str, dtype: str, shape: Sequence[int], *, half: bool = False, dynamic: bool = False
) -> FileInterface:
    """The interface of a classifier's file.

    Args:
        path: the file, for messages.
        name: of the input.
        dtype: ``uint8``, ``float32``, ``float16``, or another, which is refused.
        shape: of the input; 0 stands for a side that is not fixed.
        half: the file computes or stores fp16.
        dynamic: whether height and width need not be fixed.

    Raises:
        UsageError: it takes no picture, or several at once, or numbers of another type.
    """
    found = f"{dtype} {[side or '?' for side in shape]}"
    if dtype not in ("uint8", "float32", "float16"):
        raise UsageError(
            f"the input {name!r} takes {found}, not uint8 or float32",
            where=str(path),
            cure="convert it again with a float input",
        )
    channels = [at for at in (1, 3) if len(shape) == 4 and shape[at] == 3]
    if not channels:
        raise UsageError(
            f"the input {name!r} takes {found}, not one RGB picture [1, 3, H, W] or [1, H, W, 3]", where=str(path)
        )
    layout = "NCHW" if channels[0] == 1 else "NHWC"
    if shape[0] > 1:
        raise UsageError(
            f"the input {name!r} takes {shape[0]} pictures at once", where=str(path), cure="convert it for a batch of 1"
        )
    sides = shape[2:] if layout == "NCHW" else shape[1:3]
    if not all(sides) and not dynamic:
        raise UsageError(
            f"the input {name!r} takes {found}: its height and width are not fixed",
            where=str(path),
            cure="convert it for one size",
        )
    image = dtype == "uint8"
    info = InputInfo.model_validate(
        {
            "name": name,
            "kind": "image" if image else "tensor",
            "layout": layout,
            "dtype": "uint8" if image else "float32",
            "shape": (1, *shape[1:]),
            "values": "0..255" if image else "normalised",
        }
    )
    return FileInterface(info, "", "fp16" if half or dtype == "float16" else "fp32")


def only(path: Path, what: str, names: Sequence[str]) -> None:
    """Refuse a file that does not have exactly one input (or output).

    Raises:
        UsageError: names those that it has.
    """
    if len(names) != 1:
        raise UsageError(
            f"the file has {len(names)} {what}s: {', '.join(names) or 'none'}",
            where=str(path),
            cure=f"only models with one {what} are verified; convert it with that one alone",
        )
