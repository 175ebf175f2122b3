"""Fine-tune a sub-model: cross-entropy on its own classes and others, and distillation from the original.

Every epoch draws its pictures, views and noise from a generator of its own, so that a run that is resumed after any
epoch gives the same weights as one that was never interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edgevit.split.pictures import Pool, noisy
from edgevit.split.subset import Subset

if TYPE_CHECKING:
    from torch import nn

_WARMUP_STEPS = 20
_TEMPERATURE = 2.0


@dataclass(frozen=True)
class Schedule:
    """One phase of fine-tuning, with a fresh optimizer and a cosine schedule.

    Attributes:
        epochs: passes over as many pictures as the training set has.
        rate: highest learning rate, of AdamW.
        batch: pictures a step.
        decay: weight decay of matrices.
        distill: weight of the original's answers in the loss, 0 to 1.
        smoothing: of labels.
    """

    epochs: int
    rate: float = 4e-3
    batch: int = 64
    decay: float = 0.02
    distill: float = 0.5
    smoothing: float = 0.0


def make_optimizer(model: nn.Module, schedule: Schedule) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only."""
    matrices = [one for one in model.parameters() if one.ndim > 1]
    vectors = [one for one in model.parameters() if one.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": schedule.decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=schedule.rate, betas=(0.9, 0.98))


def fit(
    model: nn.Module,
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
        model: gives logits [B, 1 + own classes].
        pool: views of the training pictures with the original's answers.
        subset: the task.
        schedule: how.
        seed: of everything drawn.
        optimizer: from `make_optimizer`, with the state of epoch ``start``.
        start: epochs already done.
        after_epoch: is told how many epochs are done; may save a checkpoint, and may raise to stop.
    """
    labels, count = pool.pictures.labels, len(pool.pictures)
    batch = min(schedule.batch, count)
    steps = max(1, count // batch)
    own = torch.from_numpy(subset.relabelled(labels))
    model.train().requires_grad_(True)
    for epoch in range(start, schedule.epochs):
        generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed * 100_003 + epoch)  # stochastic depth, where a model has it
            chosen = subset.draw(labels, steps * batch, generator).reshape(steps, batch)
            views = torch.randint(pool.views, (steps, batch), generator=generator).numpy()
            for step in range(steps):
                share = (epoch * steps + step) / (schedule.epochs * steps)
                rate = schedule.rate * min(1.0, (epoch * steps + step + 1) / _WARMUP_STEPS)
                for group in optimizer.param_groups:
                    group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * share))
                which, view = chosen[step], views[step]
                images = noisy(pool.batch(view, which), generator)
                wanted = torch.from_numpy(np.ascontiguousarray(pool.answers[view, which]))
                loss = _loss(model(images), own[which], wanted, subset, schedule)
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
    soft = functional.kl_div(
        functional.log_softmax(logits / _TEMPERATURE, 1), subset.soft(wanted, _TEMPERATURE), reduction="batchmean"
    )
    return (1 - schedule.distill) * hard + schedule.distill * _TEMPERATURE**2 * soft


@torch.no_grad()
def features(model: Any, batches: Iterable[Tensor]) -> Tensor:
    """What the classifier sees: [N, features]."""
    return torch.cat([model.forward_head(model.forward_features(one), pre_logits=True) for one in batches])
