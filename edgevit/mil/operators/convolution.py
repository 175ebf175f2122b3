"""Convolutions and pooling, in one to three spatial dimensions, channels first."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from edgevit.mil.registry import Ints, operator, spread

_CONV = (functional.conv1d, functional.conv2d, functional.conv3d)
_CONV_TRANSPOSE = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)
_MAX_POOL = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)
_AVG_POOL = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)


def padding(sizes: Ints, kernel: Ints, strides: Ints, dilations: Ints, pad_type: str, pad: Ints) -> Ints:
    """Elements before and after each spatial dimension: (before_0, after_0, before_1, ...).

    ``same`` gives ceil(size / stride) outputs, an odd element going behind; ``same_lower`` puts it
    in front. ``valid`` ignores ``pad``.
    """
    if pad_type == "custom":
        return pad
    if pad_type == "valid":
        return (0,) * (2 * len(sizes))
    if pad_type not in ("same", "same_lower"):
        raise ValueError(f"there is no padding type {pad_type!r}")
    found: list[int] = []
    for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = max(0, (math.ceil(size / stride) - 1) * stride + (width - 1) * dilation + 1 - size)
        front = total // 2 if pad_type == "same" else total - total // 2
        found += [front, total - front]
    return tuple(found)


def _reversed_pairs(pads: Ints) -> list[int]:
    """Reverse the order of dimensions in a list of (before, after) pairs, as `torch.nn.functional.pad` expects."""
    pairs = list(zip(pads[::2], pads[1::2], strict=True))
    return [one for pair in reversed(pairs) for one in pair]


def _symmetric(pads: Ints) -> bool:
    return pads[::2] == pads[1::2]


@operator("conv")
def conv(
    *,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    """Convolution of [N, C, ...] with [out, C / groups, ...]."""
    rank = weight.ndim - 2
    ones = (1,) * rank
    strides, dilations = strides or ones, dilations or ones
    pads = padding(tuple(x.shape[2:]), tuple(weight.shape[2:]), strides, dilations, pad_type, pad or (0,) * 2 * rank)
    if not _symmetric(pads):
        x, pads = functional.pad(x, _reversed_pairs(pads)), (0,) * 2 * rank
    return _CONV[rank - 1](x, weight, bias, strides, pads[::2], dilations, groups)


@operator("conv_transpose")
def conv_transpose(
    *,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: Ints | None = None,
    output_shape: Ints | None = None,
    pad_type: str = "valid",
    strides: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    """Transposed convolution of [N, C, ...] with [C, out / groups, ...].

    The full result is cropped by the padding; where ``output_shape`` reaches beyond it, what is
    beyond holds the bias alone.
    """
    rank = weight.ndim - 2
    strides = strides or (1,) * rank
    full = _CONV_TRANSPOSE[rank - 1](x, weight, None, strides, 0, 0, groups, dilations or (1,) * rank)
    sizes = full.shape[2:]
    if pad_type == "same":
        wanted = output_shape[2:] if output_shape else tuple(s * n for s, n in zip(strides, x.shape[2:], strict=True))
        starts = tuple(max(0, have - want) // 2 for have, want in zip(sizes, wanted, strict=True))
    elif pad_type in ("custom", "valid"):
        pads = pad if pad_type == "custom" and pad else (0,) * 2 * rank
        starts = pads[::2]
        cropped = tuple(size - pads[2 * i] - pads[2 * i + 1] for i, size in enumerate(sizes))
        wanted = output_shape[2:] if output_shape else cropped
    else:
        raise ValueError(f"there is no padding type {pad_type!r}")
    edges = tuple(
        edge for have, start, want in zip(sizes, starts, wanted, strict=True) for edge in (-start, want + start - have)
    )
    result = functional.pad(full, _reversed_pairs(edges))
    return result if bias is None else result + spread(bias, 1, result.ndim)


def _pool_padding(x: Tensor, kernel: Ints, strides: Ints | None, pad_type: str, pad: Ints | None) -> tuple[Ints, Ints]:
    rank = len(kernel)
    strides = strides or (1,) * rank
    pads = padding(tuple(x.shape[2:]), kernel, strides, (1,) * rank, pad_type, pad or (0,) * 2 * rank)
    return strides, pads


@operator("max_pool")
def max_pool(
    *,
    x: Tensor,
    kernel_sizes: Ints,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """Largest value of each window; padding never wins."""
    strides, pads = _pool_padding(x, kernel_sizes, strides, pad_type, pad)
    pool = _MAX_POOL[len(kernel_sizes) - 1]
    if ceil_mode and _symmetric(pads):
        return pool(x, kernel_sizes, strides, pads[::2], ceil_mode=True)
    return pool(functional.pad(x, _reversed_pairs(pads), value=-math.inf), kernel_sizes, strides)


@operator("avg_pool")
def avg_pool(
    *,
    x: Tensor,
    kernel_sizes: Ints,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints | None = None,
    ceil_mode: bool = False,
    exclude_padding_from_average: bool = False,
) -> Tensor:
    """Mean of each window; padding counts as zeros unless it is excluded."""
    strides, pads = _pool_padding(x, kernel_sizes, strides, pad_type, pad)
    pool, beside = _AVG_POOL[len(kernel_sizes) - 1], not exclude_padding_from_average
    if _symmetric(pads) and all(2 * p <= k for p, k in zip(pads[::2], kernel_sizes, strict=True)):
        return pool(x, kernel_sizes, strides, pads[::2], ceil_mode=ceil_mode, count_include_pad=beside)
    mean = pool(functional.pad(x, _reversed_pairs(pads)), kernel_sizes, strides)
    if beside:
        return mean
    return mean / pool(functional.pad(torch.ones_like(x), _reversed_pairs(pads)), kernel_sizes, strides)


@operator("l2_pool")
def l2_pool(
    *,
    x: Tensor,
    kernel_sizes: Ints,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """Square root of the sum of squares of each window."""
    mean = avg_pool(
        x=x.square(), kernel_sizes=kernel_sizes, strides=strides, pad_type=pad_type, pad=pad, ceil_mode=ceil_mode
    )
    return torch.sqrt(mean * math.prod(kernel_sizes))
