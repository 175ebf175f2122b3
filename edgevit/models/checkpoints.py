"""Reads the tensors of a checkpoint without ever running code from it.

Checkpoints are kept in many ways: plain, inside a dictionary of what training needs (`_WRAPPERS`), with a second,
averaged copy of the weights (`_AVERAGED`), in several files. What was taken is said in `Checkpoint.taken`.
"""

from __future__ import annotations

import pickle
import re
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgevit.core.digest import sha256_file, sha256_value
from edgevit.errors import BadFile
from edgevit.models.filekinds import (
    damaged,
    file_kind,
    not_a_checkpoint,
    refuse_lone_shard,
    shards,
    weights_in,
)

if TYPE_CHECKING:
    import torch

StateDict = dict[str, "torch.Tensor"]

_ALLOWING = threading.Lock()
"""torch keeps the types that a safe read allows in one list of the process."""

_AVERAGED: Final = re.compile(r"(?:^|[._])(?:ema|swa|averaged)(?:[._]|$)")
_WRAPPERS: Final = (
    "teacher",
    "target_encoder",
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "module",
    "net",
    "network",
    "params",
    "weights",
    "shadow",
    "student",
)
_TRAINING: Final = re.compile(
    r"optim|sched|scaler|^callbacks$|^loops$|rng_state|^args$|config|hyper_?param|hparams|criterion|loss|metric"
)
_DEPTH: Final = 6
"""How deep wrappers are looked into: three are seen in the wild (``ema`` / ``module`` / ``state_dict``)."""


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a weights file.

    Attributes:
        tensors: by key, on the CPU.
        taken: the key that they were under, such as ``state_dict_ema``; empty for the whole file.
        averaged: whether these are averaged (EMA or SWA) weights.
    """

    tensors: StateDict
    taken: str = ""
    averaged: bool = False


def weights_file(path: Path) -> Path:
    """The path of a weights file: as given, or the only one in a folder.

    Raises:
        BadFile: the folder holds none, or several.
    """
    return weights_in(path) if path.is_dir() else path


def weights_digest(path: Path) -> str:
    """SHA-256 of a weights file; for weights in several files, of their digests by name.

    Raises:
        BadFile: there is no such file, or it is no checkpoint.
    """
    file = weights_file(path)
    if file_kind(file) == "shards":
        return sha256_value({part.name: sha256_file(part) for part in [file, *shards(file)]})
    return sha256_file(file)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the tensors of a safetensors or torch file, of weights in several files, or of a folder.

    A torch file is read with ``weights_only=True``: one that carries anything but tensors, plain containers and the
    settings named in `_harmless_globals` is refused, never executed.

    Args:
        path: told by its content, whatever its suffix; or a folder, or the ``.index.json`` of several files.

    Raises:
        BadFile: missing, empty, truncated, not a checkpoint, or one that would run code.
    """
    file = weights_file(path)
    kind = file_kind(file)
    if kind == "shards":
        tensors: StateDict = {}
        for part in shards(file):
            tensors |= _read(part).tensors
        return Checkpoint(tensors)
    refuse_lone_shard(file)
    return _read(file)


def _read(path: Path) -> Checkpoint:
    if file_kind(path) == "safetensors":
        return Checkpoint(_read_safetensors(path))
    return _unwrap(_read_torch(path), path)


def _read_safetensors(path: Path) -> StateDict:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise BadFile(
            "not a valid safetensors file",
            where=f"{path}: {error}",
            cure="copy or download the file again: it is truncated or damaged",
        ) from error
    if not tensors:
        raise BadFile("the weights file holds no tensors", where=str(path))
    return tensors


def _read_torch(path: Path) -> Any:
    import torch

    try:
        with _ALLOWING:
            known = torch.serialization.get_safe_globals()  # leaving the block removes what was there before, too
            added = [kind for kind in _harmless_globals() if kind not in known]
            # opened here: by its name torch would take the suffix for the format
            with torch.serialization.safe_globals(added), path.open("rb") as file:
                return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused(path, str(error)) from error
    except Exception as error:  # on bytes that are no pickle torch's unpickler fails in any way
        text = str(error)
        if "legacy .tar" in text:
            raise BadFile(
                "the checkpoint is in PyTorch's old tar format, which cannot be read safely",
                where=str(path),
                cure="save it again with a newer PyTorch: torch.save(model.state_dict(), FILE)",
            ) from error
        raise (damaged(path) if _begins_like_torch(path) else not_a_checkpoint(path)) from error


def _begins_like_torch(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(16)
    return head.startswith((b"PK", b"\x80\x02\x8a\nl\xfc\x9cF"))


def _no_settings(*_: Any) -> dict[str, Any]:
    """An empty replacement for classes whose values are not needed."""
    return {}


def _harmless_globals() -> list[Any]:
    """Types of settings that training scripts put beside the weights, each of which only holds values.

    Where the type belongs to another package, a plain dictionary stands for it: nothing of that package is imported.
    """
    import argparse
    import datetime
    import pathlib
    import types

    import numpy as np

    numbers = [getattr(np.dtypes, name) for name in np.dtypes.__all__ if name not in ("ObjectDType", "VoidDType")]
    scalar = np.float64(0).__reduce__()[0]
    rebuild = np.zeros(0).__reduce__()[0]
    settings = (
        "yacs.config.CfgNode",
        "fvcore.common.config.CfgNode",
        "detectron2.config.config.CfgNode",
        "easydict.EasyDict",
        "addict.addict.Dict",
        "mmengine.config.config.ConfigDict",
        "mmcv.utils.config.ConfigDict",
        "ml_collections.config_dict.config_dict.ConfigDict",
        "lightning_fabric.utilities.data.AttributeDict",
        "lightning.fabric.utilities.data.AttributeDict",
        "pytorch_lightning.utilities.parsing.AttributeDict",
        "lightning.pytorch.utilities.parsing.AttributeDict",
        "box.box.Box",
    )
    numpy_names = [
        (function, f"numpy.{module}.multiarray.{name}")
        for function, name in ((scalar, "scalar"), (rebuild, "_reconstruct"))
        for module in ("core", "_core")
    ]
    return [
        argparse.Namespace,
        types.SimpleNamespace,
        (pathlib.PurePosixPath, "pathlib.PosixPath"),
        (pathlib.PurePosixPath, "pathlib._local.PosixPath"),
        (pathlib.PurePosixPath, "pathlib.PurePosixPath"),
        (pathlib.PureWindowsPath, "pathlib.WindowsPath"),
        (pathlib.PureWindowsPath, "pathlib._local.WindowsPath"),
        (pathlib.PureWindowsPath, "pathlib.PureWindowsPath"),
        datetime.datetime,
        datetime.date,
        datetime.timedelta,
        np.ndarray,
        np.dtype,
        *numbers,
        *numpy_names,
        (_no_settings, "collections.defaultdict"),
        *((kind, f"builtins.{kind.__name__}") for kind in (list, dict, int, float, str, bool, tuple, frozenset)),
        (str, "torch.torch_version.TorchVersion"),
        *((OrderedDict, name) for name in settings),
    ]


def _refused(path: Path, text: str) -> BadFile:
    """The error for a file that torch's safe reader refuses."""
    if not any(word in text for word in ("Unsupported global", "Unsupported class", "GLOBAL", "allowlisted", "reduce")):
        return damaged(path) if _begins_like_torch(path) else not_a_checkpoint(path)
    names = _foreign_names(path, text)
    if _is_module(path):
        return BadFile(
            "the file is a whole model, pickled: reading it would run code; it was not loaded",
            where=f"{path}: {', '.join(names[:2])}",
            cure="where it was trained: torch.save(model.state_dict(), 'weights.pth')",
        )
    return BadFile(
        "the checkpoint holds more than tensors and would run code when loaded; it was not loaded",
        where=f"{path}: {', '.join(names[:4]) or _culprit(text)}",
        cure="save only the tensors: torch.save(model.state_dict(), FILE), or use safetensors",
    )


_MODULE_PARTS: Final = (b"_parameters", b"_buffers", b"_modules")
"""What every pickled `torch.nn.Module` has among its attributes."""


def _is_module(path: Path) -> bool:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            record = next((name for name in archive.namelist() if name.endswith("data.pkl")), None)
            pickled = archive.read(record) if record else b""
    else:
        with path.open("rb") as file:
            pickled = file.read(_PICKLE_HEAD)
    return all(part in pickled for part in _MODULE_PARTS)


_PICKLE_HEAD: Final = 1 << 20
"""Bytes of an old file, in which the objects come before the tensors' values."""


def _foreign_names(path: Path, text: str) -> list[str]:
    """The classes and functions in a file that are refused; for an old pickle only the first."""
    import torch

    try:
        with path.open("rb") as file:
            names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except Exception:  # not a zip archive, or one that is damaged
        names = re.findall(r"GLOBAL ([\w.]+)", text)
    harmless = {
        kind[1] if isinstance(kind, tuple) else f"{kind.__module__}.{kind.__qualname__}" for kind in _harmless_globals()
    }
    return sorted(set(names) - harmless, key=lambda name: (name.startswith("torch."), name))


def _culprit(text: str) -> str:
    for line in text.splitlines():
        if "GLOBAL" in line or "Unsupported" in line:
            return line.strip()[:200]
    return "an object of a class"


def _unwrap(loaded: Any, path: Path) -> Checkpoint:
    if not isinstance(loaded, Mapping):
        raise not_a_checkpoint(path)
    found = dict(_states(loaded))
    ranked = sorted((rank, name) for name in found if (rank := _rank(name)) is not None)
    if ranked:
        name = ranked[0][1]
    elif "" in found:
        name = ""
    elif len(found) == 1:
        name = next(iter(found))
    elif found and set(found) <= _PART_NAMES:
        raise BadFile(
            f"the checkpoint keeps the model in parts: {', '.join(sorted(found))}",
            where=str(path),
            cure="save the whole model: torch.save(model.state_dict(), FILE)",
        )
    elif found:
        raise BadFile(
            f"the checkpoint holds {len(found)} sets of weights: {', '.join(sorted(found)[:6])}",
            where=str(path),
            cure="save the one that is meant: torch.save(checkpoint[NAME], FILE)",
        )
    elif _TRAINING_STATE & loaded.keys():
        raise BadFile(
            "the file is the state of an optimizer: it holds no weights",
            where=str(path),
            cure="give the checkpoint of the model that lies beside it",
        )
    else:
        raise not_a_checkpoint(path)
    return Checkpoint(found[name], name, is_averaged(name) or (not name and "n_averaged" in found[name]))


_TRAINING_STATE: Final = frozenset({"param_groups", "optimizer", "optimizer_state_dict", "optimizer_states"})
_PART_NAMES: Final = frozenset({"backbone", "encoder", "head", "classifier", "fc", "neck", "decoder"})


def _states(loaded: Mapping[Any, Any], name: str = "", depth: int = 0) -> Iterator[tuple[str, StateDict]]:
    """Every dictionary of tensors inside a checkpoint, by its path; optimizer states and the like are left out."""
    import torch

    tensors = {str(key): value for key, value in loaded.items() if isinstance(value, torch.Tensor)}
    if tensors and any(isinstance(key, str) for key in loaded):
        yield name, tensors
    if depth == _DEPTH or "param_groups" in loaded:
        return
    for key, value in loaded.items():
        if isinstance(key, str) and isinstance(value, Mapping) and not _TRAINING.search(key):
            yield from _states(value, f"{name}.{key}" if name else key, depth + 1)


def is_averaged(name: str) -> bool:
    """Whether a path or key names averaged (EMA or SWA) weights."""
    return _AVERAGED.search(name) is not None


def _rank(name: str) -> tuple[int, int, int] | None:
    """The preference among several sets of weights: averaged ones first, then by the table; None for an unknown one."""
    if not name:
        return None
    parts = name.split(".")
    if is_averaged(name):
        return 0, 0, len(parts)
    if parts[0] not in _WRAPPERS:
        return None
    return 1, _WRAPPERS.index(parts[0]), len(parts)
