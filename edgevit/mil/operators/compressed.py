"""Compressed weights: linear, blockwise, palettized and sparse (``constexpr_*``).

Operators of iOS 16 take packed bytes and a shape, those of iOS 18 take tensors of narrow types; a
shape among the parameters tells the two apart.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgevit.mil.dtypes import unpack
from edgevit.mil.operators.quantized import dequantize
from edgevit.mil.registry import Ints, operator, positive


@operator("constexpr_cast")
def constexpr_cast(*, source_val: Tensor, output_dtype: str) -> Tensor:  # noqa: ARG001 - declared too
    """A constant of another type."""
    return source_val


@operator("constexpr_affine_dequantize")
def constexpr_affine_dequantize(*, quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: int) -> Tensor:
    """``scale (data - zero_point)``, for the whole tensor or along one axis."""
    return dequantize(input=quantized_data, scale=scale, zero_point=zero_point, axis=axis)


def _blocks(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Repeat each element over its block until the tensor has the wanted shape."""
    for axis, size in enumerate(shape):
        if size % values.shape[axis]:
            raise ValueError(f"{size} elements do not divide into {values.shape[axis]} blocks")
        if size != values.shape[axis]:
            values = values.repeat_interleave(size // values.shape[axis], axis)
    return values


@operator("constexpr_blockwise_shift_scale")
def constexpr_blockwise_shift_scale(*, data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """``scale (data - offset)`` with one pair for each block."""
    values, shape = data.to(torch.float32), tuple(data.shape)
    if offset is not None:
        values = values - _blocks(offset.to(torch.float32), shape)
    return values * _blocks(scale.to(torch.float32), shape)


def _look_up(indices: Tensor, lut: Tensor, vector_axis: int | None) -> Tensor:
    """Entries of blockwise tables.

    Args:
        indices: [d_0, ..., d_k].
        lut: [b_0, ..., b_k, entries, vector]: a table for each block.
        vector_axis: along which an entry's vector is laid.
    """
    rank, vector = indices.ndim, lut.shape[-1]
    table = torch.arange(math.prod(lut.shape[:rank])).reshape(lut.shape[:rank])
    found = lut.reshape(-1, *lut.shape[-2:])[_blocks(table, tuple(indices.shape)), indices.long()]
    if vector == 1:
        return found[..., 0]
    if vector_axis is None:
        raise ValueError("entries of several values need vector_axis")
    axis = positive(vector_axis, rank)
    return found.movedim(-1, axis + 1).flatten(axis, axis + 1)


def _unpacked(raw: Tensor, bits: int, shape: Ints) -> Tensor:
    count = math.prod(shape)
    if bits == 8:
        return raw[:count].reshape(shape)
    return torch.from_numpy(unpack(raw.numpy().tobytes(), bits, count, signed=False)).reshape(shape)


@operator("constexpr_lut_to_dense")
def constexpr_lut_to_dense(
    *, indices: Tensor, lut: Tensor, shape: Ints | None = None, vector_axis: int | None = None
) -> Tensor:
    """Replace indices by their table entries."""
    if shape is None:
        return _look_up(indices, lut, vector_axis)
    return lut[_unpacked(indices, round(math.log2(len(lut))), shape).long()]


def _dense(nonzero: Tensor, mask: Tensor) -> Tensor:
    if int(mask.sum()) != nonzero.numel():
        raise ValueError(f"the mask has {int(mask.sum())} places for {nonzero.numel()} values")
    full = torch.zeros(mask.shape, dtype=nonzero.dtype)
    full[mask] = nonzero
    return full


@operator("constexpr_sparse_to_dense")
def constexpr_sparse_to_dense(*, nonzero_data: Tensor, mask: Tensor, shape: Ints | None = None) -> Tensor:
    """Values where the mask is set, 0 elsewhere."""
    return _dense(nonzero_data, (mask if shape is None else _unpacked(mask, 1, shape)).bool())


@operator("constexpr_lut_to_sparse")
def constexpr_lut_to_sparse(
    *, indices_mask: Tensor, indices_nonzero_data: Tensor, lut: Tensor, vector_axis: int | None = None
) -> tuple[Tensor, Tensor]:
    """The mask, widened by the entries' vectors, and the table entries where it is set."""
    mask = indices_mask.bool()
    values = _look_up(_dense(indices_nonzero_data, mask), lut, vector_axis)
    if lut.shape[-1] > 1 and vector_axis is not None:
        mask = mask.repeat_interleave(lut.shape[-1], vector_axis)
    return mask, values[mask]


@operator("constexpr_sparse_blockwise_shift_scale")
def constexpr_sparse_blockwise_shift_scale(
    *, data_mask: Tensor, nonzero_data: Tensor, scale: Tensor, offset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The mask, and ``scale (data - offset)`` where it is set."""
    mask = data_mask.bool()
    values = constexpr_blockwise_shift_scale(data=_dense(nonzero_data, mask), scale=scale, offset=offset)
    return mask, values[mask]
