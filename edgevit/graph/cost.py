"""The cost of a model: parameters, multiply-accumulates and the memory of its activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Cost:
    """The cost of one image (batch size 1).

    Attributes:
        parameters: number of parameters.
        macs: multiply-accumulates of convolutions, linear layers and attention products (half of what torch's
            FLOP counter counts).
        activation_bytes: in float32, the most that any one layer reads and writes; a runtime that plans its memory
            well needs little more.
    """

    parameters: int
    macs: int
    activation_bytes: int


def measure_cost(model: nn.Module, size: tuple[int, int]) -> Cost:
    """Count parameters, multiply-accumulates and activation memory for one image.

    Args:
        model: in eval mode, without gradients (torch's counter stumbles over them).
        size: (H, W) in pixels.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    most = 0

    def watch(module: nn.Module, given: Any, output: Any) -> None:  # noqa: ARG001
        nonlocal most
        most = max(most, sum(_bytes(value) for value in (*given, output)))

    leaves = [module for module in model.modules() if not any(module.children())]
    handles = [leaf.register_forward_hook(watch) for leaf in leaves]
    counter = FlopCounterMode(display=False)
    try:
        # the counter does not know the CPU's fused attention: taken apart, its products are counted
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            model(torch.zeros(1, 3, *size))
    finally:
        for handle in handles:
            handle.remove()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Cost(parameters, counter.get_total_flops() // 2, most)


def _bytes(value: Any) -> int:
    return value.numel() * value.element_size() if hasattr(value, "element_size") else 0
