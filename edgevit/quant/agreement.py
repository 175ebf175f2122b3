"""The agreement of a quantized graph's answers with the float graph's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from edgevit.data.folders import Skip, refuse
from edgevit.data.images import normalise, to_model_size
from edgevit.graph.fx import first_output
from edgevit.schema.manifest import Agreement
from edgevit.verify.evaluate import pictures_of

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from edgevit.quant.calibration import Pictures
    from edgevit.schema.model import Preprocessing

Advance = Callable[[int], None]
_MOST_DECIBELS = 200.0
"""Reported where the results are equal and the ratio would be infinite, which JSON cannot hold."""


@torch.no_grad()
def answers(core: GraphModule, inputs: Iterable[Tensor], advance: Advance = lambda done: None) -> Tensor:
    """Logits of a captured graph: [N, classes]."""
    found = []
    for one in inputs:
        found.append(first_output(core(one)))
        advance(1)
    return torch.cat(found)


def decibels(exact: Tensor, found: Tensor) -> float:
    """Signal-to-quantization-noise ratio: ``10 log10(sum x^2 / sum (x - q)^2)``."""
    noise = float((exact - found).double().square().sum())
    power = float(exact.double().square().sum())
    return float(10 * np.log10(power / noise)) if noise > 0 and power > 0 else _MOST_DECIBELS


def agreement_of(exact: Tensor, found: Tensor, dataset: str, truth: Sequence[int] | None = None) -> Agreement:
    """Compare logits [N, classes] of the float and the quantized model."""
    guesses, right = found.argmax(1), exact.argmax(1)
    labels = None if truth is None else torch.tensor(truth)
    return Agreement(
        dataset=dataset,
        images=len(exact),
        top1=float((guesses == right).float().mean()),
        sqnr_db=round(decibels(exact, found), 2),
        accuracy=None if labels is None else float((guesses == labels).float().mean()),
        float_accuracy=None if labels is None else float((right == labels).float().mean()),
    )


def labelled_inputs(
    dataset: str,
    labels: tuple[str, ...],
    rule: Preprocessing,
    limit: int | None = None,
    skip: Skip = refuse,
) -> tuple[list[Tensor], list[int]]:
    """Normalised pictures of a labelled data set, float32 [1, 3, H, W] each, and their classes."""
    inputs, truth = [], []
    for index, (picture, label) in enumerate(pictures_of(dataset, labels, skip)):
        if index == limit:
            break
        inputs.append(torch.from_numpy(normalise(to_model_size(picture, rule)[None], rule)))
        truth.append(label)
    return inputs, truth


def measure_agreement(
    exact: GraphModule,
    quantized: GraphModule,
    pictures: Pictures | None,
    labelled: tuple[str, tuple[str, ...], Preprocessing, int | None] | None,
    advance: Advance = lambda done: None,
    skip: Skip = refuse,
) -> Agreement:
    """Compare both graphs on the calibration pictures, or on a labelled set: (name, labels, preprocessing, limit).

    ``skip`` is called for pictures of the labelled set that cannot be read.
    """
    if labelled is not None:
        inputs, truth = labelled_inputs(*labelled, skip)
        found = answers(exact, inputs), answers(quantized, inputs, advance)
        return agreement_of(*found, labelled[0], truth)
    assert pictures is not None
    found = answers(exact, pictures.inputs()), answers(quantized, pictures.inputs(), advance)
    return agreement_of(*found, f"calibration: {pictures.info.source}")
