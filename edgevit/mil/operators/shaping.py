"""Shape operators: elements are moved, nothing is computed."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from edgevit.mil.registry import Ints, operator, positive


@operator("reshape")
def reshape(*, x: Tensor, shape: Ints) -> Tensor:
    """Reshape to ``shape``; 0 keeps the dimension at that place, -1 is inferred."""
    if 0 in shape and len(shape) != x.ndim:
        raise ValueError(f"a shape with 0, {list(shape)}, needs as many dimensions as its input, {x.ndim}")
    return x.reshape([x.shape[index] if size == 0 else size for index, size in enumerate(shape)])


@operator("reshape_like")
def reshape_like(*, x: Tensor, ref_tensors: list[Tensor], begins: Ints, ends: Ints, end_masks: Ints) -> Tensor:
    """Reshape to the joined sizes of parts of other tensors' shapes."""
    shape: list[int] = []
    for other, begin, end, mask in zip(ref_tensors, begins, ends, end_masks, strict=True):
        shape += other.shape[begin : None if mask else end]
    return x.reshape(shape)


@operator("transpose")
def transpose(*, x: Tensor, perm: Ints) -> Tensor:
    """Permute the axes of a tensor."""
    return x.permute(perm)


@operator("expand_dims")
def expand_dims(*, x: Tensor, axes: Ints) -> Tensor:
    """Insert axes of size 1 at the given positions of the result."""
    rank = x.ndim + len(axes)
    for axis in sorted(positive(axis, rank) for axis in axes):
        x = x.unsqueeze(axis)
    return x


@operator("squeeze")
def squeeze(*, x: Tensor, axes: Ints | None = None) -> Tensor:
    """Remove axes of size 1; other axes among ``axes`` stay."""
    return x.squeeze() if axes is None else x.squeeze(axes)


@operator("flatten2d")
def flatten2d(*, x: Tensor, axis: int = 1) -> Tensor:
    """Flatten to [product before ``axis``, product from it on]."""
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("shape")
def shape(*, x: Tensor) -> Tensor:
    """The sizes of a tensor."""
    return torch.tensor(x.shape, dtype=torch.int32)


@operator("reverse")
def reverse(*, x: Tensor, axes: Ints | None = None) -> Tensor:
    """Reverse the order of elements along some axes, or along all."""
    return x.flip(tuple(range(x.ndim)) if axes is None else axes)


@operator("reverse_sequence")
def reverse_sequence(*, x: Tensor, lengths: Ints, seq_axis: int = 0, batch_axis: int = 0) -> Tensor:
    """Reverse the first ``lengths[i]`` elements of each slice of a batch."""
    moved = x.movedim((batch_axis, seq_axis), (0, 1))
    rows = [torch.cat([row[:length].flip(0), row[length:]]) for row, length in zip(moved, lengths, strict=True)]
    return torch.stack(rows).movedim((0, 1), (batch_axis, seq_axis))


@operator("pixel_shuffle")
def pixel_shuffle(*, x: Tensor, upscale_factor: int) -> Tensor:
    """Move channels into space, as torch's ``PixelShuffle``."""
    return functional.pixel_shuffle(x, upscale_factor)


@operator("pixel_unshuffle")
def pixel_unshuffle(*, x: Tensor, downscale_factor: int) -> Tensor:
    """Move space into channels, as torch's ``PixelUnshuffle``."""
    return functional.pixel_unshuffle(x, downscale_factor)


@operator("depth_to_space")
def depth_to_space(*, x: Tensor, block_size: int) -> Tensor:
    """Move channels into space, block index first, as TensorFlow's ``depth_to_space``."""
    batch, channels, height, width = x.shape
    kept = channels // block_size**2
    blocks = x.reshape(batch, block_size, block_size, kept, height, width).permute(0, 3, 4, 1, 5, 2)
    return blocks.reshape(batch, kept, height * block_size, width * block_size)


@operator("space_to_depth")
def space_to_depth(*, x: Tensor, block_size: int) -> Tensor:
    """Move space into channels, block index first, as TensorFlow's ``space_to_depth``."""
    batch, channels, height, width = x.shape
    rows, columns = height // block_size, width // block_size
    blocks = x.reshape(batch, channels, rows, block_size, columns, block_size).permute(0, 3, 5, 1, 2, 4)
    return blocks.reshape(batch, channels * block_size**2, rows, columns)


@operator("space_to_batch")
def space_to_batch(*, x: Tensor, block_shape: Ints, paddings: Ints) -> Tensor:
    """Pad and move space into the batch, block index first, as TensorFlow's ``space_to_batch_nd``."""
    top, bottom, left, right = paddings
    padded = functional.pad(x, (left, right, top, bottom))
    tall, wide = block_shape
    batch, channels, height, width = padded.shape
    rows, columns = height // tall, width // wide
    blocks = padded.reshape(batch, channels, rows, tall, columns, wide).permute(3, 5, 0, 1, 2, 4)
    return blocks.reshape(tall * wide * batch, channels, rows, columns)


@operator("batch_to_space")
def batch_to_space(*, x: Tensor, block_shape: Ints, crops: Ints) -> Tensor:
    """Move the batch back into space and crop, as TensorFlow's ``batch_to_space_nd``."""
    tall, wide = block_shape
    batch, channels, height, width = x.shape
    images = batch // (tall * wide)
    blocks = x.reshape(tall, wide, images, channels, height, width).permute(2, 3, 4, 0, 5, 1)
    space = blocks.reshape(images, channels, height * tall, width * wide)
    top, bottom, left, right = crops
    return space[:, :, top : space.shape[2] - bottom, left : space.shape[3] - right]


@operator("sliding_windows")
def sliding_windows(*, x: Tensor, axis: int, size: int, stride: int = 1) -> Tensor:
    """All windows along an axis; each window becomes a new axis behind it."""
    axis = positive(axis, x.ndim)
    return x.unfold(axis, size, stride).movedim(-1, axis + 1)
