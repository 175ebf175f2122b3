"""Fold as a transposed convolution with ones, and padding by less than nothing as slices.

ExecuTorch writes `col2im` out with a padding of -1, which its own kernel refuses when the file runs (executorch 1.5.1:
error 0x12 in VOLO). A transposed convolution of one channel, the channels as its batch, adds up the same values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from edgevit.graph.fx import aten
from edgevit.graph.rewrites import Rewrite


def fold(
    x: torch.Tensor,
    size: Sequence[int],
    kernel: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> torch.Tensor:
    """Sum overlapping windows (`col2im`): [N, C * kh * kw, L] or [C * kh * kw, L] to [N, C, H, W] or [C, H, W]."""
    taps = kernel[0] * kernel[1]
    sides = range(2)
    reach = [dilation[side] * (kernel[side] - 1) + 1 for side in sides]
    steps = [(size[side] + 2 * padding[side] - reach[side]) // stride[side] + 1 for side in sides]
    further = [size[side] - ((steps[side] - 1) * stride[side] - 2 * padding[side] + reach[side]) for side in sides]
    if any(further[side] >= max(stride[side], dilation[side]) for side in sides):
        return aten.col2im.default(x, size, kernel, dilation, padding, stride)
    ones = torch.eye(taps, dtype=x.dtype).reshape(taps, 1, *kernel)
    channels = x.shape[-2] // taps
    windows = x.reshape(-1, taps, *steps)
    added = aten.conv_transpose2d.input(windows, ones, None, stride, padding, further, 1, dilation)
    return added.reshape(*x.shape[:-2], channels, *size)


def pad(x: torch.Tensor, widths: Sequence[int], mode: str = "constant", value: float | None = None) -> torch.Tensor:
    """Padding; where a width is negative the axis is cut first."""
    if mode != "constant" or all(width >= 0 for width in widths):
        return aten.pad.default(x, widths, mode, value)
    for place, (before, after) in enumerate(zip(widths[::2], widths[1::2], strict=True)):
        axis = x.dim() - 1 - place
        if before < 0 or after < 0:
            x = aten.slice.Tensor(x, axis, max(0, -before), x.shape[axis] - max(0, -after))
    rest = [max(0, width) for width in widths]
    return aten.pad.default(x, rest, mode, value) if any(rest) else x


def constant_pad(x: torch.Tensor, widths: Sequence[int], value: float = 0) -> torch.Tensor:
    """The same as `pad` for the operator without a mode."""
    return pad(x, widths, "constant", value)


def rules() -> Mapping[Any, Callable[..., Any]]:
    """Replacement functions by ATen operator, for `edgevit.graph.fx.RuleInterpreter`."""
    return {aten.col2im.default: fold, aten.pad.default: pad, aten.constant_pad_nd.default: constant_pad}


REWRITE = Rewrite("plain_folds", __doc__.splitlines()[0], order=111, backends=frozenset({"executorch"}), rules=rules)
