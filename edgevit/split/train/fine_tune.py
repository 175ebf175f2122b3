"""Fine-tunes a sub-model: cross-entropy on its own classes and "others", and distillation from the original.

An auxiliary head learns all of the original's classes from the same features, and is thrown away. The task of a
sub-model says nothing of how foreign classes differ; its features must, for the fusion head to know them when their
own sub-model's device is gone.

Every epoch draws its pictures, views and noise from a generator of its own, so that a run that is resumed after any
epoch gives the same weights as one that was never interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgevit.split.train.pool import Pool, noisy
from edgevit.split.train.subset import Subset
from edgevit.split.train.torch_device import device_of

_WARMUP_STEPS = 20
"""Steps over which the learning rate rises linearly to its highest value."""
_TEMPERATURE = 2.0
"""Softmax temperature of distillation; the loss is multiplied by its square, so that gradients keep their size."""


@dataclass(frozen=True)
class Schedule:
    """One phase of fine-tuning, with a fresh optimizer and a cosine schedule.

    Attributes:
        epochs: passes over as many pictures as the training set has.
        rate: highest learning rate, of AdamW.
        batch: pictures a step.
        decay: weight decay of matrices.
        distill: weight of the original's answers in the loss, 0 to 1.
        auxiliary: weight of the auxiliary head's loss, beside the other's 1.
        smoothing: of labels.
    """

    epochs: int
    rate: float = 4e-3
    batch: int = 64
    decay: float = 0.02
    distill: float = 0.5
    auxiliary: float = 1.0
    smoothing: float = 0.0


def classifier_of(model: Any) -> nn.Module:
    """The module of a timm model that turns features into logits."""
    found: nn.Module = model.head.fc if hasattr(model.head, "fc") else model.head
    return found


def auxiliary_head(model: Any, total: int) -> nn.Linear:
    """A zero-initialised linear head for all classes, on the model's device."""
    head = nn.Linear(model.head_hidden_size, total)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head.to(device_of(model))


def make_optimizer(model: nn.Module, auxiliary: nn.Module, schedule: Schedule) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only."""
    parameters = [*model.parameters(), *auxiliary.parameters()]
    matrices = [one for one in parameters if one.ndim > 1]
    vectors = [one for one in parameters if one.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": schedule.decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=schedule.rate, betas=(0.9, 0.98))


def fit(
    model: Any,
    auxiliary: nn.Linear,
    pool: Pool,
    subset: Subset,
    schedule: Schedule,
    *,
    seed: int,
    optimizer: torch.optim.Optimizer,
    start: int = 0,
    after_epoch: Callable[[int], None] = lambda epoch: None,
) -> None:
    """Train in place, from epoch ``start`` on.

    Args:
        model: a timm model that gives logits [B, 1 + own classes]; trained where it is.
        auxiliary: from `auxiliary_head`, trained too.
        pool: views of the training pictures with the original's answers.
        subset: the task.
        schedule: epochs, learning rate and loss weights.
        seed: of everything drawn.
        optimizer: from `make_optimizer`, with the state of epoch ``start``.
        start: epochs already done.
        after_epoch: called with how many epochs are done; may save a checkpoint, and may raise to stop.
    """
    labels, count = pool.pictures.labels, len(pool.pictures)
    batch = min(schedule.batch, count)
    steps = max(1, count // batch)
    device = device_of(model)
    gpus = [device] if device.type == "cuda" else []
    pool, own = pool.on(device), torch.from_numpy(subset.relabelled(labels)).to(device)
    classifier = classifier_of(model.train().requires_grad_(True))
    for epoch in range(start, schedule.epochs):
        generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
        noise = torch.Generator(device).manual_seed(seed * 100_003 + epoch) if gpus else generator
        with torch.random.fork_rng(devices=gpus):
            torch.manual_seed(seed * 100_003 + epoch)  # stochastic depth, where a model has it
            chosen = subset.draw(labels, steps * batch, generator).reshape(steps, batch)
            views = torch.randint(pool.views, (steps, batch), generator=generator).numpy()
            for step in range(steps):
                share = (epoch * steps + step) / (schedule.epochs * steps)
                rate = schedule.rate * min(1.0, (epoch * steps + step + 1) / _WARMUP_STEPS)
                for group in optimizer.param_groups:
                    group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * share))
                which, view = chosen[step], views[step]
                images = noisy(pool.batch(view, which), noise)
                wanted = torch.from_numpy(np.ascontiguousarray(pool.answers[view, which])).to(device)
                found = model.forward_head(model.forward_features(images), pre_logits=True)
                loss = _loss(classifier(found), own[which], wanted, subset, schedule)
                if schedule.auxiliary and not subset.whole:
                    loss = loss + schedule.auxiliary * _distilled(
                        auxiliary(found), torch.softmax(wanted / _TEMPERATURE, 1)
                    )
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
        after_epoch(epoch + 1)
    model.eval().requires_grad_(False)


def _loss(logits: Tensor, labels: Tensor, wanted: Tensor, subset: Subset, schedule: Schedule) -> Tensor:
    hard = functional.cross_entropy(logits, labels, label_smoothing=schedule.smoothing)
    if not schedule.distill:
        return hard
    soft = _distilled(logits, subset.soft(wanted, _TEMPERATURE))
    return (1 - schedule.distill) * hard + schedule.distill * soft


def _distilled(logits: Tensor, wanted: Tensor) -> Tensor:
    found = functional.log_softmax(logits / _TEMPERATURE, 1)
    return _TEMPERATURE**2 * functional.kl_div(found, wanted, reduction="batchmean")


@torch.no_grad()
def features(model: Any, batches: Iterable[Tensor]) -> Tensor:
    """The classifier's input for every picture: [N, features], on the CPU."""
    return torch.cat([model.forward_head(model.forward_features(one), pre_logits=True).cpu() for one in batches])
