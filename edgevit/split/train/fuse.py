"""Trains the fusion head: features of all sub-models concatenated, members dropped at random.

Dropping whole members while training is what lets a fleet lose one: the head has then seen such inputs. ED-ViT's
hidden layer has a shrink factor on the concatenated width; ours is half of it and at least 512, which a
coordinator computes in no time and which costs nothing on a member.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from edgevit.core.fusion import Floats, FusionHead
from edgevit.split.train.fine_tune import classifier_of

_LEAST_HIDDEN = 512
"""Smallest width of the hidden layer, see the module."""
_EPOCHS = 30
"""Passes over the features, with a cosine schedule."""
_BATCH = 256
"""Rows of features in one step."""
_RATE = 2e-3
"""Highest learning rate, of AdamW."""
_WHOLE_SHARE = 0.25
"""Of the training rows, those that are seen with every member present."""


def own_head(module: Any) -> tuple[Floats, Floats]:
    """A sub-model's classifier as one affine map of its features, any normalisation included."""
    width = module.head_hidden_size
    classifier = classifier_of(module)
    with torch.no_grad():
        bias = classifier(torch.zeros(1, width))[0]
        weight = classifier(torch.eye(width)) - bias
    return weight.T.contiguous().numpy(), bias.numpy()


def train_head(
    features: Sequence[Floats],
    labels: NDArray[np.int64],
    heads: Sequence[tuple[Floats, Floats]],
    classes: Sequence[Sequence[int]],
    members: Sequence[int],
    *,
    total: int,
    drop: float,
    seed: int,
    advance: Callable[[int], None] = lambda done: None,
) -> FusionHead:
    """Train the head on features of frozen sub-models.

    Args:
        features: by sub-model [N, F_i].
        labels: [N].
        heads: each sub-model's classifier, from `own_head`.
        classes: each sub-model's classes.
        members: each sub-model's member, as an index: those of one member are dropped together.
        total: number of classes.
        drop: probability that a member is missing, in three rows of four.
        seed: of initialisation, order and drops.
        advance: called after each epoch.
    """
    generator = torch.Generator().manual_seed(seed)
    given = torch.from_numpy(np.concatenate(features, 1))
    mean, scale = given.mean(0), given.std(0) + 1e-3
    given, wanted = (given - mean) / scale, torch.from_numpy(labels)
    widths = torch.tensor([one.shape[1] for one in features])
    hidden = max(_LEAST_HIDDEN, math.ceil(int(widths.sum()) / 2))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Linear(given.shape[1] + len(features), hidden), nn.Linear(hidden, total)
    optimizer = torch.optim.AdamW([*layers[0].parameters(), *layers[1].parameters()], lr=_RATE, weight_decay=1e-2)
    batches = math.ceil(len(given) / _BATCH)
    for epoch in range(_EPOCHS):
        for step, rows in enumerate(torch.split(torch.randperm(len(given), generator=generator), _BATCH)):
            share = (epoch * batches + step) / (_EPOCHS * batches)
            for group in optimizer.param_groups:
                group["lr"] = _RATE * 0.5 * (1 + math.cos(math.pi * share))
            there = _presence(len(rows), torch.tensor(members), drop, generator)
            masked = given[rows] * there.repeat_interleave(widths, 1)
            logits = layers[1](functional.gelu(layers[0](torch.cat([masked, there], 1)), approximate="tanh"))
            loss = functional.cross_entropy(logits, wanted[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        advance(1)
    return FusionHead(
        mean=mean.numpy(),
        scale=scale.numpy(),
        hidden_weight=layers[0].weight.detach().numpy(),
        hidden_bias=layers[0].bias.detach().numpy(),
        weight=layers[1].weight.detach().numpy(),
        bias=layers[1].bias.detach().numpy(),
        heads=tuple(heads),
        classes=tuple(map(tuple, classes)),
    )


def _presence(rows: int, members: Tensor, drop: float, generator: torch.Generator) -> Tensor:
    """Presence mask [rows, sub-models] of 0 and 1; at least one member is present in every row."""
    count = int(members.max()) + 1
    some = torch.rand(rows, 1, generator=generator) >= _WHOLE_SHARE
    present = ~((torch.rand(rows, count, generator=generator) < drop) & some)
    spared = torch.randint(count, (rows,), generator=generator)
    present[torch.arange(rows), spared] |= ~present.any(1)
    return present[:, members].float()
