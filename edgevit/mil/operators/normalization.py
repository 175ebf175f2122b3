"""The normalization operators of ML Programs: batch, layer, instance and local response norm, L2."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from edgevit.mil.registry import Ints, operator, spread


def _scaled(x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
    x = x if gamma is None else x * gamma
    return x if beta is None else x + beta


@operator("batch_norm")
def batch_norm(
    *,
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """Normalise by given statistics of each channel (axis 1)."""
    return functional.batch_norm(x, mean, variance, gamma, beta, eps=epsilon)


@operator("instance_norm")
def instance_norm(
    *, x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5
) -> Tensor:
    """Normalise each channel of each image by its own statistics."""
    axes = tuple(range(2, x.ndim))
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    scale, shift = (None if one is None else spread(one, 1, x.ndim) for one in (gamma, beta))
    return _scaled((x - mean) / torch.sqrt(variance + epsilon), scale, shift)


@operator("layer_norm")
def layer_norm(
    *,
    x: Tensor,
    axes: Ints | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """Normalise by the statistics over ``axes``; ``gamma`` and ``beta`` have the sizes of those axes."""
    chosen = sorted(axis % x.ndim for axis in axes) if axes is not None else list(range(x.ndim))
    sizes = [x.shape[axis] for axis in chosen]
    if chosen == list(range(x.ndim - len(chosen), x.ndim)):
        return functional.layer_norm(x, sizes, gamma, beta, epsilon)
    variance, mean = torch.var_mean(x, chosen, correction=0, keepdim=True)
    shape = [size if axis in chosen else 1 for axis, size in enumerate(x.shape)]
    scale, shift = (None if one is None else one.reshape(shape) for one in (gamma, beta))
    return _scaled((x - mean) / torch.sqrt(variance + epsilon), scale, shift)


@operator("l2_norm")
def l2_norm(*, x: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Divide by the root of the sum of squares over the last three axes."""
    return x / torch.sqrt(x.square().sum((-3, -2, -1), keepdim=True) + epsilon)


@operator("local_response_norm")
def local_response_norm(*, x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """Divide by a power of the squares of ``size`` neighbouring channels."""
    return functional.local_response_norm(x, size, alpha, beta, k)
