"""A quantized model in PyTorch, including codes that no runtime can execute."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from edgevit.graph.capture import capture
from edgevit.graph.fx import first_output
from edgevit.graph.qdq.base_graph import quantizable
from edgevit.models.load import LoadedModel
from edgevit.quant.solve import quantized_graph
from edgevit.schema.recipe import Recipe

if TYPE_CHECKING:
    from torch.fx import GraphModule


class Simulated(nn.Module):
    """Maps normalised float32 [1, 3, H, W] to logits [1, classes]."""

    def __init__(self, core: GraphModule) -> None:
        super().__init__()
        self.core = core

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits float32 [1, classes] of the graph with the recipe's rounding in it."""
        return first_output(self.core(inputs))


def simulated(loaded: LoadedModel, recipe: Recipe) -> LoadedModel:
    """A loaded model with a recipe's rounding inserted, run on one picture at a time.

    Raises:
        BadFile: the recipe is for another model.
    """
    core = quantizable(capture(loaded.module, loaded.preprocessing.size))
    return replace(loaded, module=Simulated(quantized_graph(core, recipe)))
