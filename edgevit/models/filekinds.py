"""Recognises the kind of a weights file by its content; the suffix counts last.

Nothing here needs torch, and nothing is unpickled.
"""

from __future__ import annotations

import json
import re
import struct
import zipfile
from pathlib import Path
from typing import Final, Literal

from edgevit.errors import BadFile

WeightsFileKind = Literal["safetensors", "torch", "shards"]

_HEAD = 4096
"""Bytes read of a file to tell its kind."""
_GIVE_WEIGHTS: Final = "give --weights a file written by torch.save(model.state_dict(), FILE) or a .safetensors file"
_DOWNLOAD_AGAIN: Final = "copy or download the file again: it is truncated or damaged"

_COMPRESSED: Final = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!": "rar",
}
_FOREIGN_MAGIC: Final = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file (Keras weights)",
    b"\x93NUMPY": "a NumPy array",
    b"GGUF": "a GGUF file (quantized weights of llama.cpp)",
    b"%PDF": "a PDF document",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
}
_FOREIGN_TAG: Final = {
    b"TFL3": "a LiteRT (TFLite) model",
    b"ET12": "an ExecuTorch program",
    b"ET13": "an ExecuTorch program",
}
_FOREIGN_SUFFIX: Final = {
    ".onnx": "an ONNX model",
    ".pb": "a TensorFlow or ONNX graph",
    ".msgpack": "Flax weights",
    ".ckpt.index": "a TensorFlow checkpoint",
    ".engine": "a TensorRT engine",
    ".plan": "a TensorRT engine",
    ".mlmodel": "a Core ML model",
    ".xml": "an OpenVINO model",
    ".keras": "a Keras model",
}
_LFS: Final = b"version https://git-lfs.github.com/spec"
_SHARD: Final = re.compile(r"-(\d{5})-of-(\d{5})\.(safetensors|bin)$")
_TORCH_LEGACY: Final = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def file_kind(path: Path) -> WeightsFileKind:
    """The kind of a weights file: ``safetensors``, ``torch`` (zip or pickle) or ``shards`` (an index of several files).

    Raises:
        BadFile: missing, empty, cut off, or something else, told by its name.
    """
    if not path.is_file():
        raise BadFile(f"there is no weights file {path}", cure="give --weights an existing .safetensors or .pth file")
    size = path.stat().st_size
    if size == 0:
        raise BadFile("the weights file is empty", where=str(path), cure=_DOWNLOAD_AGAIN)
    with path.open("rb") as file:
        head = file.read(_HEAD)
    _refuse_texts(path, head)
    for magic, name in _COMPRESSED.items():
        if head.startswith(magic):
            raise BadFile(f"the weights file is compressed ({name})", where=str(path), cure="unpack it first")
    for magic, name in _FOREIGN_MAGIC.items():
        if head.startswith(magic):
            raise not_weights(path, name)
    if head.startswith(b"PK"):
        _check_zip(path)
        return "torch"
    if head[4:8] in _FOREIGN_TAG:
        raise not_weights(path, _FOREIGN_TAG[head[4:8]])
    if _is_safetensors(head, size):
        return "safetensors"
    if head[257:262] == b"ustar":
        raise BadFile("the weights file is a tar archive", where=str(path), cure=f"unpack it: tar -xf {path.name}")
    if head.startswith(b"\x80"):
        return "torch"
    if head.lstrip()[:1] == b"{" and _is_index(path):
        return "shards"
    foreign = next((name for suffix, name in _FOREIGN_SUFFIX.items() if path.name.lower().endswith(suffix)), None)
    if foreign is None and _is_onnx(head):
        foreign = "an ONNX model"
    if foreign:
        raise not_weights(path, foreign)
    if path.suffix == ".safetensors":
        raise BadFile("not a valid safetensors file", where=str(path), cure=_DOWNLOAD_AGAIN)
    raise not_a_checkpoint(path)


def not_a_checkpoint(path: Path) -> BadFile:
    """The error for a file of unknown content."""
    return BadFile("not a PyTorch checkpoint", where=str(path), cure=_GIVE_WEIGHTS)


def not_weights(path: Path, what: str) -> BadFile:
    """The error for a file of another known kind."""
    return BadFile(f"the weights file is {what}, not a PyTorch checkpoint", where=str(path), cure=_GIVE_WEIGHTS)


def damaged(path: Path, detail: str = "") -> BadFile:
    """The error for a truncated or damaged checkpoint."""
    where = f"{path}: {detail}" if detail else str(path)
    return BadFile("not a PyTorch checkpoint any more: it is cut off or damaged", where=where, cure=_DOWNLOAD_AGAIN)


def _refuse_texts(path: Path, head: bytes) -> None:
    if head.startswith(_LFS):
        raise BadFile(
            "the weights file is a Git LFS pointer: the weights themselves were not fetched",
            where=str(path),
            cure=f"in its repository: git lfs pull --include {path.name}",
        )
    if re.match(rb"\s*(<!doctype html|<html|<\?xml[^>]*>\s*<!doctype html)", head, re.IGNORECASE):
        raise BadFile(
            "the weights file is a web page: a login or a share page was saved in its place",
            where=str(path),
            cure="download the file itself, for example with curl -L and its direct link",
        )


def _is_safetensors(head: bytes, size: int) -> bool:
    """Whether a file begins like safetensors, or is named so and is damaged at its beginning or end."""
    if len(head) < 10 or head[8:9] != b"{":
        return False
    length: int = struct.unpack("<Q", head[:8])[0]
    return length <= size - 8 or re.match(rb'\{\s*("|\})', head[8:]) is not None


def _check_zip(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        raise damaged(path, "a zip archive without its end")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    leaves = {name.rpartition("/")[2] for name in names}
    if any(name.split("/")[1:2] == ["code"] for name in names) and "constants.pkl" in leaves:
        raise BadFile(
            "the weights file is a TorchScript program, not a checkpoint",
            where=str(path),
            cure="where it can be loaded: torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')",
        )
    if "serialized_exported_program.json" in leaves or any(
        "/models/" in name and name.endswith(".json") for name in names
    ):
        raise not_weights(path, "an exported program (torch.export)")
    if leaves and all(leaf.endswith(".npy") for leaf in leaves):
        raise not_weights(path, "a NumPy archive (npz), as JAX models are kept")
    if "model.weights.h5" in leaves:
        raise not_weights(path, "a Keras model")
    if "data.pkl" in leaves:
        return
    inside = [name for name in names if name.endswith((".pth", ".pt", ".bin", ".safetensors", ".ckpt", ".pkl"))]
    if inside:
        raise BadFile(
            f"the weights file is a zip archive that holds {inside[0]}", where=str(path), cure="unpack it first"
        )
    raise not_weights(path, "a zip archive")


def _is_onnx(head: bytes) -> bool:
    """A protobuf that begins with ONNX's IR version, followed by a producer, an opset or a graph."""
    return head[:1] == b"\x08" and 3 <= head[1] <= 20 and head[2:3] in (b"\x12", b"\x1a", b"\x3a", b"\x42")


def _is_index(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_bytes()).get("weight_map"), dict)
    except (ValueError, RecursionError, AttributeError):
        return False


def shards(index: Path) -> list[Path]:
    """The files that an index names, each once, in order; they are in the index's folder.

    Raises:
        BadFile: the index names a file in another folder, or one that is not there.
    """
    named = json.loads(index.read_bytes())["weight_map"].values()
    files = list(dict.fromkeys(str(name) for name in named))
    for name in files:
        if "/" in name or "\\" in name or name in ("", ".", ".."):
            raise BadFile(f"the index of the weights names a file in another folder: {name!r}", where=str(index))
        if not (index.parent / name).is_file():
            raise BadFile(
                f"a part of the weights is missing: {name}", where=str(index), cure="put every part beside the index"
            )
    if not files:
        raise BadFile("the index of the weights names no file", where=str(index))
    return [index.parent / name for name in files]


def refuse_lone_shard(path: Path) -> None:
    """Refuse one part of weights that are kept in several files.

    Raises:
        BadFile: the file's name says that there are others.
    """
    part = _SHARD.search(path.name)
    if part and int(part[2]) > 1:
        index = f"{path.name[: part.start()]}.{part[3]}.index.json"
        raise BadFile(
            f"the weights file is part {int(part[1])} of {int(part[2])}",
            where=str(path),
            cure=f"give the index of the parts: --weights {path.parent / index}",
        )


_PREFERRED = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "pytorch_model.pth",
    "model.pth",
)
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")


def weights_in(folder: Path) -> Path:
    """The weights file in a folder: by its usual name, or the only one.

    Raises:
        BadFile: there is none, or several.
    """
    for name in _PREFERRED:
        if (folder / name).is_file():
            return folder / name
    found = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in _SUFFIXES)
    if len(found) == 1:
        return found[0]
    if found:
        raise BadFile(
            f"{folder} is a folder with {len(found)} weights files",
            where=", ".join(path.name for path in found[:4]),
            cure=f"give one of them: --weights {found[0]}",
        )
    kind = "a TensorFlow SavedModel" if (folder / "saved_model.pb").is_file() else "a folder without weights"
    if any(folder.glob("*.distcp")):
        kind = "a distributed checkpoint"
    raise BadFile(f"{folder} is {kind}", cure="give --weights a .safetensors or .pth file")
