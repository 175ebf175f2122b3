"""Importance of units: KL divergence when they are left out, or diagonal Fisher information.

Both score ``KL(p || p without c)`` on pictures of one class subset (ED-ViT's criterion). ``kl`` runs the model once
for every block of units; ``fisher`` is its second-order approximation from one backward pass a draw:
``KL ~ 1/2 E[(d log p(y) / d m_c)^2]`` for a mask ``m`` at 1 and ``y`` drawn from ``p``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from edgevit.compress.width.structure import Group, WidthTap

if TYPE_CHECKING:
    from torch import nn

Score = Literal["fisher", "kl", "random"]
_DRAWS = 3
"""Backward passes for each batch of pictures, each with classes newly drawn from the model's answers."""
_BATCH = 64
"""Pictures in one forward and backward pass; bounds memory."""


@contextmanager
def masked(model: nn.Module, groups: list[Group], masks: Mapping[str, Tensor]) -> Iterator[None]:
    """Context manager: within it, every group's units are multiplied by its mask.

    Args:
        model: whose forward pass is masked.
        groups: with their taps.
        masks: by group, [units], or [B, units] for a batch of B pictures.
    """
    handles = []
    for group in groups:
        for tap in group.taps:
            module, mask = model.get_submodule(tap.module), masks[group.name]
            if tap.side == "output":
                handles.append(module.register_forward_hook(_on_output(tap, mask, group.size)))
            else:
                handles.append(module.register_forward_pre_hook(_on_input(tap, mask, group.size)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _on_output(tap: WidthTap, mask: Tensor, size: int) -> Any:
    return lambda module, given, output: _apply(output, tap, mask, size)


def _on_input(tap: WidthTap, mask: Tensor, size: int) -> Any:
    return lambda module, given: (_apply(given[0], tap, mask, size), *given[1:])


def _apply(values: Tensor, tap: WidthTap, mask: Tensor, size: int) -> Tensor:
    axis = tap.axis % values.dim()
    width = values.shape[axis]
    if mask.dim() == 1:
        shape = [1] * values.dim()
        shape[axis] = width
    else:
        # attention in windows sees each picture as several rows of the batch
        mask = mask.repeat_interleave(len(values) // len(mask), 0)
        shape = [1] * values.dim()
        shape[0], shape[axis] = len(values), width
    whole = functional.pad(mask, (tap.start, width - tap.start - size), value=1.0)
    return values * whole.reshape(shape)


def importance(
    model: nn.Module, groups: list[Group], images: Tensor, score: Score, *, seed: int = 0, block: int = 1
) -> dict[str, Tensor]:
    """The importance of every unit of some groups for a subset of classes.

    Args:
        model: in eval mode, gives logits [B, classes].
        groups: all from the model as it is now.
        images: [S, 3, H, W] float32, of the classes that matter; where the model is.
        score: ``fisher``, ``kl``, or ``random`` for a control.
        seed: of Fisher's draws, and of ``random``.
        block: for ``kl``, units that are left out together.

    Returns:
        By group, [units] float32 on the CPU; larger matters more.
    """
    generator = torch.Generator().manual_seed(seed)
    if score == "random":
        return {group.name: torch.rand(group.size, generator=generator) for group in groups}
    if score == "kl":
        return _kl(model, groups, images, block)
    return _fisher(model, groups, images, generator)


def _fisher(model: nn.Module, groups: list[Group], images: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    found = {group.name: torch.zeros(group.size, device=images.device) for group in groups}
    for batch in torch.split(images, _BATCH):
        for _ in range(_DRAWS):
            masks = {
                group.name: torch.ones(len(batch), group.size, device=images.device, requires_grad=True)
                for group in groups
            }
            with masked(model, groups, masks):
                answers = functional.log_softmax(model(batch), 1)
            drawn = torch.multinomial(answers.detach().exp().cpu(), 1, generator=generator).to(images.device)
            gradients = torch.autograd.grad(answers.gather(1, drawn).sum(), list(masks.values()))
            for name, gradient in zip(masks, gradients, strict=True):
                found[name] += gradient.square().sum(0)
    return {name: (values / (2 * _DRAWS * len(images))).cpu() for name, values in found.items()}


@torch.no_grad()
def _kl(model: nn.Module, groups: list[Group], images: Tensor, block: int) -> dict[str, Tensor]:
    whole = functional.log_softmax(model(images), 1)
    found = {}
    for group in groups:
        scores = torch.zeros(group.size)
        for start in range(0, group.size, block):
            mask = torch.ones(group.size, device=images.device)
            mask[start : start + block] = 0
            with masked(model, [group], {group.name: mask}):
                without = functional.log_softmax(model(images), 1)
            scores[start : start + block] = functional.kl_div(without, whole, log_target=True, reduction="batchmean")
        found[group.name] = scores
    return found
