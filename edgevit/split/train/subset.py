"""A sub-model's task: its own classes and "others", as labels, soft targets and a sampling of pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

OTHERS = 0
"""Index of the output that stands for every class of the other sub-models."""
_OTHERS_SHARE = 0.3
"""Share of "others" in an epoch's pictures, at least; more where they would be rarer than a single class."""


@dataclass(frozen=True)
class Subset:
    """The classes of one sub-model, and the task of telling them apart from all others.

    Attributes:
        classes: indices in the original model's outputs, ascending.
        total: how many classes the original knows.
    """

    classes: tuple[int, ...]
    total: int

    @property
    def whole(self) -> bool:
        """Whether the subset has all classes, so that no "others" exists."""
        return len(self.classes) == self.total

    def relabelled(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Class indices [N] of the original as output indices of the sub-model: 0 for others, then its own."""
        table = np.full(self.total, OTHERS)
        table[list(self.classes)] = np.arange(1, len(self.classes) + 1)
        return table[labels]

    def soft(self, logits: Tensor, temperature: float) -> Tensor:
        """The original's logits [B, total] as probabilities of the sub-model's outputs [B, 1 + own]."""
        shares = torch.softmax(logits / temperature, 1)
        own = shares[:, list(self.classes)]
        return torch.cat([(1 - own.sum(1, keepdim=True)).clamp_min(0), own], 1)

    def draw(self, labels: NDArray[np.int64], count: int, generator: torch.Generator) -> NDArray[Any]:
        """Indices of pictures for one epoch, with replacement; others are 30 % of them, or one class's share."""
        own = np.isin(labels, self.classes)
        weights = torch.full((len(labels),), 1.0)
        if not self.whole:
            others = max(_OTHERS_SHARE, 1 / (len(self.classes) + 1))
            shares = np.where(own, (1 - others) / own.sum(), others / (~own).sum())
            weights = torch.from_numpy(shares)
        return torch.multinomial(weights, count, replacement=True, generator=generator).numpy()


def fit_head(model: nn.Module, subset: Subset) -> None:
    """Replace the classifier: "others" starts as the mean of the other classes' rows, own classes keep theirs."""
    from edgevit.models.load import classifier_name

    name = classifier_name(model)
    assert name is not None
    head: Any = model.get_submodule(name)
    foreign = sorted(set(range(subset.total)) - set(subset.classes)) or list(range(subset.total))
    new = nn.Linear(head.in_features, 1 + len(subset.classes), bias=head.bias is not None)
    with torch.no_grad():
        for leaf in ("weight", "bias") if head.bias is not None else ("weight",):
            rows = getattr(head, leaf)
            getattr(new, leaf).copy_(torch.cat([rows[foreign].mean(0, keepdim=True), rows[list(subset.classes)]]))
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, new)
    model.num_classes = 1 + len(subset.classes)  # type: ignore[assignment]
