"""Fits the tensors of a checkpoint to a model: without a common prefix, its keys must be the model's."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgevit.models.checkpoints import StateDict, is_averaged
from edgevit.models.keymaps import to_timm_layout

if TYPE_CHECKING:
    import torch

_WRAPPING: Final = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch.compile, FSDP and activation checkpointing put into keys, anywhere: no model calls a layer so."""

_COMMON: Final = 0.5
"""Least share of the keys that a prefix which matches no key of the model must have to be tried."""

_RECOMPUTED: Final = re.compile(
    r"(num_batches_tracked|attention_bias_idxs|relative_position_index|relative_coords_table|attn_mask|"
    r"position_ids|total_ops|total_params|rope\.\w+)$"
)
_HARMLESS: Final = re.compile(
    r"^(criterion|loss|metric|accuracy|acc|auroc|auc|f1|precision|recall|confusion|train_|val_|valid_|test_|"
    r"ema|n_averaged)",
    re.IGNORECASE,
)
_HEADS: Final = re.compile(r"^(heads?|classifiers?|fc)\w*\.")
_COPY: Final = re.compile(r"teacher|student|momentum|ema|swa")
_AVERAGES: Final = frozenset({"n_averaged"})


@dataclass(frozen=True)
class Fit:
    """The assignment of a checkpoint's tensors to a model's state.

    Attributes:
        state: the tensors under the model's keys, unknown ones among them.
        prefix: that was removed from the keys.
        missing: the model's keys that the checkpoint does not have.
        unknown: the checkpoint's keys that the model does not have.
        differ: keys whose shapes differ.
        dropped: keys that belong to training, or to another copy of the model.
    """

    state: StateDict
    prefix: str
    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    differ: tuple[str, ...]
    dropped: tuple[str, ...] = ()

    @property
    def faults(self) -> int:
        """The number of keys that do not fit."""
        return len(self.missing) + len(self.unknown) + len(self.differ)

    @property
    def averaged(self) -> bool:
        """Whether the prefix, or a set dropped beside it, shows that the weights are averaged ones."""
        return is_averaged(self.prefix.rstrip(".")) or bool(_AVERAGES & set(self.dropped))


def fit(
    tensors: StateDict,
    own: Mapping[str, torch.Tensor],
    buffers: frozenset[str] = frozenset(),
    ignore: tuple[str, ...] = (),
) -> Fit:
    """The best fit over all prefixes that the keys share.

    Args:
        tensors: a checkpoint's, as they are.
        own: the model's state.
        buffers: keys of ``own`` that the model computes itself; a checkpoint may leave them out.
        ignore: layers that are neither needed nor taken, such as a classifier that is not used.

    Returns:
        One without faults where there is one, otherwise the one with the fewest.
    """
    plain = {_WRAPPING.sub("", key): value for key, value in tensors.items()}
    if len(plain) != len(tensors):
        plain = dict(tensors)
    candidates = [_fit_below(plain, prefix, own, buffers, ignore) for prefix in _prefixes(plain, own)]
    # of two copies that both fit, the averaged one, then a teacher rather than its student
    return min(candidates, key=lambda one: (one.faults, not one.averaged, "teacher" not in one.prefix, len(one.prefix)))


def copies(tensors: StateDict, own: Mapping[str, torch.Tensor], buffers: frozenset[str], chosen: Fit) -> list[str]:
    """Other prefixes under which the whole model is stored too, where it is ambiguous which is meant."""
    if chosen.averaged or "teacher" in chosen.prefix or not chosen.dropped:
        return []
    plain = {_WRAPPING.sub("", key): value for key, value in tensors.items()}
    fits = [_fit_below(plain, prefix, own, buffers, ()) for prefix in _prefixes(plain, own)]
    return [one.prefix for one in fits if one.prefix != chosen.prefix and not one.missing and not one.differ]


def _prefixes(tensors: StateDict, own: Mapping[str, torch.Tensor]) -> list[str]:
    """Candidate prefixes: none, each whose rest is a key of the model, and those that most keys share."""
    found = Counter[str]()
    shared = Counter[str]()
    for key in tensors:
        parts = key.split(".")
        for count in range(1, len(parts)):
            prefix, rest = ".".join(parts[:count]) + ".", ".".join(parts[count:])
            found[prefix] += rest in own
            shared[prefix] += 1
    likely = [prefix for prefix, count in found.most_common(8) if count > 1]
    common = [prefix for prefix, count in shared.items() if count > _COMMON * len(tensors)]
    return list(dict.fromkeys(["", *likely, *common]))


def _fit_below(
    tensors: StateDict, prefix: str, own: Mapping[str, torch.Tensor], buffers: frozenset[str], ignore: tuple[str, ...]
) -> Fit:
    below = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    state = to_timm_layout(below)
    dropped = []
    for key, value in tensors.items() if prefix else ():
        if key.startswith(prefix):
            continue
        if key in own and key not in state and not _COPY.search(prefix):
            state[key] = value
        elif _HARMLESS.match(key) or _is_copy(key, tensors, prefix):
            dropped.append(key)
        else:
            state[key] = value
    state = {key: value for key, value in state.items() if not _below(key, ignore)}
    missing = [
        key for key in own if key not in state and key not in buffers and not _free(key) and not _below(key, ignore)
    ]
    if ignore:
        state = {key: value for key, value in state.items() if key in own or not _HEADS.match(key)}
    unknown = [key for key in state if key not in own and not _free(key)]
    if not missing:
        # a whole model is there: what training keeps beside it does no harm
        beside = [key for key in unknown if _HARMLESS.match(key)]
        dropped += beside
        unknown = [key for key in unknown if key not in beside]
    differ = [key for key in own if key in state and state[key].shape != own[key].shape and not _free(key)]
    return Fit(state, prefix, tuple(missing), tuple(unknown), tuple(differ), tuple(dropped))


def _is_copy(key: str, tensors: StateDict, prefix: str) -> bool:
    """Whether a key outside the prefix belongs to another whole copy, such as a teacher or averaged weights."""
    parts = key.split(".")
    return any(prefix + ".".join(parts[count:]) in tensors for count in range(len(parts)))


def _below(key: str, layers: tuple[str, ...]) -> bool:
    return any(key.startswith(f"{layer}.") for layer in layers)


def _free(key: str) -> bool:
    return _RECOMPUTED.search(key) is not None
