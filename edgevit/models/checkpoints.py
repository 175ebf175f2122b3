"""Read a checkpoint without ever running code from it, and fit it to a model."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.errors import BadFile, WeightsMismatch
from edgevit.models.keymaps import to_timm_layout

if TYPE_CHECKING:
    import torch
    from torch import nn

State = dict[str, "torch.Tensor"]

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
_SHOWN = 8


def read_checkpoint(path: Path) -> State:
    """Read the tensors of a safetensors or torch file.

    A torch file is read with ``weights_only=True``: one that carries anything but tensors and
    plain containers is refused, never executed.

    Args:
        path: ends in .safetensors, .pth, .pt, .bin or .tar.

    Returns:
        Tensor by key, on the CPU, wrappers such as ``{"model": ...}`` and a ``module.`` prefix removed.

    Raises:
        BadFile: missing, empty, truncated, not a checkpoint, or one that would run code.
    """
    if not path.is_file():
        raise BadFile(f"there is no weights file {path}", cure="give --weights an existing .safetensors or .pth file")
    if path.stat().st_size == 0:
        raise BadFile("the weights file is empty", where=str(path))
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _unwrap(_read_torch(path), path)
    return {key.removeprefix("module."): value for key, value in state.items()}


def _read_safetensors(path: Path) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise BadFile(
            "not a valid safetensors file",
            where=f"{path}: {error}",
            cure="copy or download the file again: it is truncated or damaged",
        ) from error


def _read_torch(path: Path) -> Any:
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        text = str(error)
        if "Unsupported global" in text or "Unsupported class" in text or "GLOBAL" in text:
            raise BadFile(
                "the checkpoint holds more than tensors and would run code when loaded; it was not loaded",
                where=f"{path}: {_culprit(text)}",
                cure="save only the tensors: torch.save(model.state_dict(), FILE), or use safetensors",
            ) from error
        raise _not_a_checkpoint(path) from error
    except Exception as error:  # on bytes that are no pickle torch's unpickler fails in any way
        raise _not_a_checkpoint(path) from error


def _culprit(text: str) -> str:
    for line in text.splitlines():
        if "GLOBAL" in line or "Unsupported" in line:
            return line.strip()[:200]
    return "an object of a class"


def _not_a_checkpoint(path: Path) -> BadFile:
    return BadFile(
        "not a PyTorch checkpoint",
        where=str(path),
        cure="give --weights a file written by torch.save(model.state_dict(), FILE) or a .safetensors file",
    )


def _unwrap(loaded: Any, path: Path) -> State:
    import torch

    for wrapper in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
            break
    if not isinstance(loaded, Mapping):
        raise _not_a_checkpoint(path)
    tensors = {str(key): value for key, value in loaded.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise _not_a_checkpoint(path)
    return tensors


def load_state(model: nn.Module, state: State, *, source: str, classifier: str | None = None) -> None:
    """Load a checkpoint into a model, all keys and shapes matching exactly.

    The official TinyViT and SHViT layouts are renamed to timm's first.

    Args:
        model: the timm model, changed in place.
        state: as `read_checkpoint` gives it.
        source: the file's name, for messages.
        classifier: dotted name of the model's last layer, to recognise a head of another size.

    Raises:
        WeightsMismatch: keys or shapes differ; the message names them.
    """
    state = to_timm_layout(state)
    own = model.state_dict()
    head = head_size(state, classifier)
    if head is not None and head != head_size(own, classifier):
        raise WeightsMismatch(
            f"the checkpoint's head has {head} classes, the model's {head_size(own, classifier)}",
            where=f"{source}: {classifier}.weight",
            cure=f"pass --num-classes {head}",
        )
    missing = [key for key in own if key not in state and not _optional(key)]
    unknown = [key for key in state if key not in own and not _optional(key)]
    differ = [
        f"{key} is {tuple(state[key].shape)}, should be {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if missing or unknown or differ:
        raise WeightsMismatch(
            "the checkpoint does not fit the model",
            where="\n".join(
                [source, *_listing("missing", missing), *_listing("unknown", unknown), *_listing("shape", differ)]
            ),
            cure="check the model's name: edgevit models lists the variants of each family",
        )
    model.load_state_dict({key: value for key, value in state.items() if key in own}, strict=False)


def head_size(state: Mapping[str, torch.Tensor], classifier: str | None) -> int | None:
    """The number of classes of the layer called ``classifier``, or None where it is absent."""
    weight = state.get(f"{classifier}.weight") if classifier else None
    return None if weight is None else int(weight.shape[0])


def _optional(key: str) -> bool:
    return key.endswith(("num_batches_tracked", "attention_bias_idxs", "relative_position_index"))


def _listing(label: str, items: list[str]) -> list[str]:
    more = [f"{label}: and {len(items) - _SHOWN} more"] if len(items) > _SHOWN else []
    return [f"{label}: {item}" for item in items[:_SHOWN]] + more
