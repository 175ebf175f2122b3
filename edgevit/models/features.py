"""A classifier without its last layer: features in place of logits."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edgevit.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from edgevit.models.load import LoadedModel


class Headless(nn.Module):
    """A timm model whose output is the input of its classifier.

    Attributes:
        width: number of features.
    """

    def __init__(self, model: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.model: Any = model
        try:
            with torch.no_grad():
                found = self(torch.zeros(1, 3, *size))
        except (AttributeError, TypeError) as error:
            raise _none(model) from error
        if found.dim() != 2:
            raise _none(model)
        self.width = int(found.shape[1])

    def forward(self, image: Tensor) -> Tensor:
        """Features [B, width] of normalised pictures [B, 3, H, W]."""
        return self.model.forward_head(self.model.forward_features(image), pre_logits=True)


def _none(model: nn.Module) -> UsageError:
    return UsageError(
        f"{type(model).__name__} gives no feature vector",
        cure="export it with --output logits, or choose another model",
    )


def headless(loaded: LoadedModel) -> LoadedModel:
    """A loaded model without its classifier, and so without labels.

    Raises:
        UsageError: the architecture has no single feature vector.
    """
    module = Headless(loaded.module, loaded.preprocessing.size).eval().requires_grad_(False)
    return replace(loaded, module=module, labels=())
