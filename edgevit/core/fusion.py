"""The fusion head in numpy: class probabilities from the features of all sub-models, or of those that answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgevit.errors import BadFile

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class FusionHead:
    """One hidden layer over all features and a presence flag for each sub-model.

    Attributes:
        mean: [F], mean of the features over the training pictures.
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
        """The number of features of each sub-model."""
        return tuple(weight.shape[1] for weight, _ in self.heads)

    def fuse(self, features: Sequence[Floats | None]) -> Floats:
        """Class probabilities from the features that arrived.

        Args:
            features: by sub-model [B, F_i], None where one did not answer.

        Returns:
            [B, C] float32.
        """
        inside = self.hidden_bias
        for one, (weight, bias) in zip(features, self._parts, strict=True):
            if one is not None:
                inside = inside + (one @ weight + bias)
        return softmax(gelu(inside) @ self.weight.T + self.bias)

    @cached_property
    def _parts(self) -> tuple[tuple[Floats, Floats], ...]:
        """The contribution of each sub-model to the hidden layer: [F_i, H] with its standardisation, and [H] with its
        flag.

        One that is missing adds nothing, as zeros do.
        """
        found, start, flags = [], 0, sum(self.widths)
        for index, width in enumerate(self.widths):
            span = slice(start, start + width)
            weight = self.hidden_weight[:, span].astype(np.float64) / self.scale[span]
            bias = self.hidden_weight[:, flags + index] - weight @ self.mean[span]
            found.append((np.ascontiguousarray(weight.T, np.float32), bias.astype(np.float32)))
            start += width
        return tuple(found)

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


def as_sent(features: Floats) -> NDArray[np.float16]:
    """Features rounded to float16 as a member sends them, of any shape; finite values stay finite.

    A few hundred features then fit one packet, whose loss is noticed by the next.
    """
    most = np.finfo(np.float16).max
    with np.errstate(over="ignore"):
        half = np.asarray(features, np.float32).astype("<f2")
    too_large = np.isinf(half) & np.isfinite(features)
    half[too_large] = np.copysign(most, np.asarray(features)[too_large])
    return half


def gelu(values: Floats) -> Floats:
    """The tanh form of GELU, with which the head was trained."""
    inner = np.float32(np.sqrt(2 / np.pi)) * (values + np.float32(0.044715) * values**3)
    return np.float32(0.5) * values * (1 + np.tanh(inner))


def softmax(logits: Floats) -> Floats:
    """Softmax over the last axis."""
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
    """Read a head that `save_head` wrote.

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
