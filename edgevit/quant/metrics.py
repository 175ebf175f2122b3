"""Error metrics for a layer's result, one value for each output channel; smaller is better.

Signature: ``metric(found, expected, weights)``: ``found`` is the result with quantized operands and may be overwritten
in place, ``expected`` the float result, ``weights`` the weights of squared errors (Fisher only); all [rows, groups,
outputs]. The result is [groups, outputs].

All take the result with quantized operands, which they may overwrite, the float one and, for Fisher, the weights of
squared errors, as [rows, groups, outputs], and give [groups, outputs]; smaller is better.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Metric = Callable[[Tensor, Tensor, Tensor | None], Tensor]
_TINY = 1e-12
"""Keeps the division defined where a channel is zero throughout."""
DAMPING = 1.0
"""Of the mean squared gradient of a layer, added to each."""


def mse(found: Tensor, expected: Tensor, weights: Tensor | None) -> Tensor:  # noqa: ARG001
    """Mean squared error over the rows; overwrites ``found``."""
    return found.sub_(expected).square_().mean(0)


def cosine(found: Tensor, expected: Tensor, weights: Tensor | None) -> Tensor:  # noqa: ARG001
    """One minus the cosine similarity over the rows (EasyQuant, equation 3)."""
    product = (found * expected).sum(0)
    return 1 - product / (found.norm(dim=0) * expected.norm(dim=0)).clamp_min(_TINY)


def fisher(found: Tensor, expected: Tensor, weights: Tensor | None) -> Tensor:
    """Squared error weighted by the squared gradient: the diagonal of the Fisher information in place of the Hessian.

    PTQ4ViT (equation 9) and Q-HyViT (equation 8), with `fisher_weights`.
    """
    assert weights is not None
    return found.sub_(expected).square_().mul_(weights).mean(0)


def fisher_weights(gradient: Tensor | None) -> Tensor | None:
    """Squared gradients of the loss by a float result, damped; None without gradients.

    A few pictures leave most gradients near zero, and what has none would be clipped at random.
    """
    if gradient is None:
        return None
    weights = gradient.square()
    return weights + DAMPING * weights.mean()
