"""The fusion head in numpy: what a fleet computes once the features are there, with or without all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgevit.errors import BadFile

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class FusionHead:
    """One hidden layer over all features and a flag for each sub-model that answered.

    Attributes:
        mean: [F] of the features over the training pictures.
        scale: [F], their standard deviation.
        hidden_weight: [H, F + N], the flags last.
        hidden_bias: [H].
        weight: [C, H].
        bias: [C].
        heads: each sub-model's own classifier, ([1 + own, F_i], [1 + own]); output 0 is "others".
        classes: each sub-model's classes.
    """

    mean: Floats
    scale: Floats
    hidden_weight: Floats
    hidden_bias: Floats
    weight: Floats
    bias: Floats
    heads: tuple[tuple[Floats, Floats], ...]
    classes: tuple[tuple[int, ...], ...]

    @property
    def widths(self) -> tuple[int, ...]:
        """Features of each sub-model."""
        return tuple(weight.shape[1] for weight, _ in self.heads)

    def fuse(self, features: Sequence[Floats | None]) -> Floats:
        """Class probabilities from the features that came.

        Args:
            features: by sub-model [B, F_i], None where one did not answer.

        Returns:
            [B, C] float32.
        """
        parts, flags, start = [], [], 0
        count = next(len(one) for one in features if one is not None)
        for width, one in zip(self.widths, features, strict=True):
            span = slice(start, start + width)
            absent = np.zeros((count, width), np.float32)
            parts.append(absent if one is None else (one - self.mean[span]) / self.scale[span])
            flags.append(np.full((count, 1), float(one is not None), np.float32))
            start += width
        inside = gelu(np.concatenate([*parts, *flags], 1) @ self.hidden_weight.T + self.hidden_bias)
        return softmax(inside @ self.weight.T + self.bias)

    def scores(self, features: Sequence[Floats | None]) -> Floats:
        """Class probabilities without the trained head: each class by the best of its sub-models' own scores.

        Classes that no sub-model present knows share what the surest "others" leaves.

        Args:
            features: as for `fuse`.
        """
        count = next(len(one) for one in features if one is not None)
        found = np.zeros((count, len(self.bias)), np.float32)
        others = np.ones(count, np.float32)
        known: set[int] = set()
        for one, (weight, bias), own in zip(features, self.heads, self.classes, strict=True):
            if one is None:
                continue
            shares = softmax(one @ weight.T + bias)
            found[:, list(own)] = np.maximum(found[:, list(own)], shares[:, 1:])
            others = np.minimum(others, shares[:, 0])
            known |= set(own)
        unknown = [index for index in range(found.shape[1]) if index not in known]
        if unknown:
            found[:, unknown] = others[:, None] / len(unknown)
        return found / np.maximum(found.sum(1, keepdims=True), 1e-12)


def gelu(values: Floats) -> Floats:
    """The tanh form of GELU, as it was trained with."""
    inner = np.float32(np.sqrt(2 / np.pi)) * (values + np.float32(0.044715) * values**3)
    return np.float32(0.5) * values * (1 + np.tanh(inner))


def softmax(logits: Floats) -> Floats:
    """Over the last axis."""
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


_PLAIN = ("mean", "scale", "hidden_weight", "hidden_bias", "weight", "bias")


def save_head(head: FusionHead, path: Path) -> None:
    """Write a head as safetensors."""
    from safetensors.numpy import save_file

    tensors = {name: np.ascontiguousarray(getattr(head, name)) for name in _PLAIN}
    for index, (weight, bias) in enumerate(head.heads):
        tensors |= {f"head.{index}.weight": np.ascontiguousarray(weight), f"head.{index}.bias": bias}
    save_file(tensors, path)


def read_head(path: Path, classes: Sequence[Sequence[int]]) -> FusionHead:
    """What `save_head` wrote.

    Args:
        path: the file.
        classes: of each sub-model, from the plan.

    Raises:
        BadFile: not such a file, or its shapes do not fit together.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
        heads = tuple((tensors[f"head.{i}.weight"], tensors[f"head.{i}.bias"]) for i in range(len(classes)))
        head = FusionHead(**{name: tensors[name] for name in _PLAIN}, heads=heads, classes=tuple(map(tuple, classes)))
    except (SafetensorError, OSError, KeyError) as error:
        raise BadFile(
            "the fusion head cannot be read", where=f"{path}: {error}", cure="split the model again"
        ) from error
    total, count = sum(head.widths), len(classes)
    fits = head.mean.shape == head.scale.shape == (total,) and head.hidden_weight.shape == (
        len(head.hidden_bias),
        total + count,
    )
    fits &= head.weight.shape == (len(head.bias), len(head.hidden_bias))
    fits &= all(len(weight) == 1 + len(own) for (weight, _), own in zip(heads, classes, strict=True))
    if not fits:
        raise BadFile("the fusion head does not fit the plan", where=str(path), cure="split the model again")
    return head
