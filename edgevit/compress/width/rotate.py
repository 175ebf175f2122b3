"""Rotates a ViT into a principal basis before it is cut: the same function, but less is lost by the cut.

A channel of the residual stream means nothing by itself: the stream may be rotated, if everything that writes to it
and reads from it is rotated too. So may the dimensions of a head, queries against keys and values against the output
projection. In the basis of principal components the leading dimensions hold nearly all that the model says.

The stream's rotation is that of SliceGPT (Ashkboos et al., arXiv 2401.15024), which needs norms without means; with
layer norms, streams of mean zero are kept so by a reflection that takes the direction of all ones to the last axis.
That ED-ViT's pruning starts from such a basis is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from edgevit.compress.width.structure import WidthStage

_BATCH = 64
"""Pictures in one forward pass; bounds memory."""
_LEAST = 1e-8
"""Directions with a smaller share of the largest variance than this are taken to have so much."""


def can_rotate(model: nn.Module) -> bool:
    """Whether a model is a ViT whose residual stream only linear layers and layer norms write and read."""
    from timm.models.vision_transformer import VisionTransformer

    if not isinstance(model, VisionTransformer):
        return False
    vit: Any = model
    norms = [norm for block in vit.blocks for norm in (block.norm1, block.norm2)]
    plain = all(isinstance(one, nn.Identity) for one in (vit.norm_pre, vit.patch_embed.norm))
    last = [one for one in (vit.norm, vit.fc_norm) if not isinstance(one, nn.Identity)]
    readers = [vit.head, *(layer for block in vit.blocks for layer in (block.attn.qkv, block.mlp.fc1))]
    return (
        plain
        and len(last) == 1
        and all(isinstance(one, nn.LayerNorm) and one.bias is not None for one in (*norms, *last))
        and all(isinstance(one, nn.Linear) and one.bias is not None for one in readers)
    )


@torch.no_grad()
def rotate(model: nn.Module, stage: WidthStage, images: Tensor) -> None:
    """Rotate what one pruning stage cuts into principal components, in place; the model's function stays.

    Args:
        model: in eval mode; one that `can_rotate` does not know is left as it is.
        stage: ``residual`` or ``attention``; neurons behind a nonlinearity have no other basis.
        images: [N, 3, H, W] float32, for the statistics.
    """
    if stage == "residual" and can_rotate(model):
        _rotate_stream(model, images)
    elif stage == "attention" and can_rotate(model):
        _rotate_heads(model, images)


@dataclass(frozen=True)
class _Moments:
    """Sums of values and of their products over all tokens of all pictures, float64."""

    count: int
    total: Tensor
    square: Tensor

    @classmethod
    def of(cls, values: Tensor) -> _Moments:
        """The sums of one batch [..., channels]."""
        rows = values.reshape(-1, values.shape[-1]).double()
        return cls(len(rows), rows.sum(0), rows.T @ rows)

    def __add__(self, other: _Moments) -> _Moments:
        return _Moments(self.count + other.count, self.total + other.total, self.square + other.square)

    def second(self, part: slice = slice(None)) -> Tensor:
        """Second moments E[x xᵀ] of some channels: [channels, channels], float64, not centred."""
        return self.square[part, part] / self.count

    def covariance(self, part: slice = slice(None)) -> Tensor:
        """Covariance [channels, channels] of some channels, float64."""
        mean = self.total[part] / self.count
        return self.second(part) - torch.outer(mean, mean)


def _observe(
    model: Any, images: Tensor, outputs: Mapping[str, nn.Module], inputs: Mapping[str, nn.Module]
) -> dict[str, _Moments]:
    found: dict[str, _Moments] = {}

    def take(name: str, values: Tensor) -> None:
        new = _Moments.of(values)
        found[name] = found[name] + new if name in found else new

    def output(name: str) -> Callable[..., None]:
        return lambda module, given, made: take(name, made)

    def taken(name: str) -> Callable[..., None]:
        return lambda module, given: take(name, given[0])

    handles: list[Any] = [module.register_forward_hook(output(name)) for name, module in outputs.items()]
    handles += [module.register_forward_pre_hook(taken(name)) for name, module in inputs.items()]
    try:
        for batch in torch.split(images, _BATCH):
            model(batch)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _last_norm(vit: Any) -> nn.LayerNorm:
    found: nn.LayerNorm = vit.fc_norm if isinstance(vit.norm, nn.Identity) else vit.norm
    return found


def _fold_norm(norm: nn.LayerNorm, reader: nn.Linear) -> None:
    """Fold the weight and bias of a norm into the linear layer that reads it."""
    reader.bias.add_(reader.weight @ norm.bias)
    reader.weight.mul_(norm.weight)
    norm.weight.fill_(1)
    norm.bias.zero_()


def _rotate_stream(vit: Any, images: Tensor) -> None:
    last = _last_norm(vit)
    for block in vit.blocks:
        _fold_norm(block.norm1, block.attn.qkv)
        _fold_norm(block.norm2, block.mlp.fc1)
        for scale, writer in ((block.ls1, block.attn.proj), (block.ls2, block.mlp.fc2)):
            if not isinstance(scale, nn.Identity):
                writer.weight.mul_(scale.gamma[:, None])
                writer.bias.mul_(scale.gamma)
                scale.gamma.fill_(1)
    _fold_norm(last, vit.head)
    norms = {f"{i}.{side}": getattr(block, side) for i, block in enumerate(vit.blocks) for side in ("norm1", "norm2")}
    seen = _observe(vit, images, {**norms, "last": last}, {})
    turn = _components(torch.stack([one.second() for one in seen.values()]).sum(0))
    _write(vit.patch_embed.proj.weight, 0, turn)
    _write(vit.patch_embed.proj.bias, 0, turn)
    for token in ("cls_token", "pos_embed", "reg_token"):
        _write(getattr(vit, token, None), 2, turn)
    for block in vit.blocks:
        for writer in (block.attn.proj, block.mlp.fc2):
            _write(writer.weight, 0, turn)
            _write(writer.bias, 0, turn)
        for reader in (block.attn.qkv, block.mlp.fc1):
            _write(reader.weight, 1, turn)
    _write(vit.head.weight, 1, turn)


def _components(second: Tensor) -> Tensor:
    """A [D, D] matrix that rotates zero-mean streams to principal components, again of zero mean, and removes a
    mean.
    """
    width = len(second)
    ones = torch.full((width,), width**-0.5, dtype=torch.float64)
    centre = torch.eye(width, dtype=torch.float64) - torch.outer(ones, ones)
    directions = torch.linalg.eigh(centre @ second @ centre).eigenvectors.flip(1)
    across = -ones
    across[-1] += 1
    across /= across.norm()
    reflection = torch.eye(width, dtype=torch.float64) - 2 * torch.outer(across, across)
    return reflection[:, :-1] @ directions[:, :-1].T @ centre


def _write(values: Tensor | None, dim: int, turn: Tensor) -> None:
    if values is not None:
        values.copy_((values.double().movedim(dim, -1) @ turn.T).movedim(-1, dim))


def _rotate_heads(vit: Any, images: Tensor) -> None:
    qkv = {str(index): block.attn.qkv for index, block in enumerate(vit.blocks)}
    mixed = {f"{index}.mixed": block.attn.proj for index, block in enumerate(vit.blocks)}
    seen = _observe(vit, images, qkv, mixed)
    for index, block in enumerate(vit.blocks):
        attention, products, values = block.attn, seen[str(index)], seen[f"{index}.mixed"]
        width, whole = attention.head_dim, attention.attn_dim
        for start in range(0, whole, width):
            q, k, v = (slice(start + part * whole, start + part * whole + width) for part in range(3))
            # softmax does not see what all keys have in common
            _balance(attention.qkv, q, products.second(q), k, products.covariance(k))
            inside = slice(start, start + width)
            _order(attention.qkv, v, attention.proj, inside, values.covariance(inside))


def _roots(second: Tensor) -> tuple[Tensor, Tensor]:
    """The square root of a symmetric matrix and its inverse."""
    squares, directions = torch.linalg.eigh(second)
    squares = squares.clamp_min(float(squares.max()) * _LEAST)
    return (directions * squares.sqrt()) @ directions.T, (directions / squares.sqrt()) @ directions.T


def _turn(layer: nn.Linear, part: slice, turn: Tensor) -> None:
    layer.weight[part] = (turn @ layer.weight[part].double()).float()
    layer.bias[part] = (turn @ layer.bias[part].double()).float()


def _strengths(values: Tensor) -> Tensor:
    return values.clamp_min(float(values.max()) * _LEAST).sqrt()[:, None]


def _balance(layer: nn.Linear, q: slice, of_q: Tensor, k: slice, of_k: Tensor) -> None:
    """Transform queries and keys so that their products stay and their dimensions have equal, falling strength."""
    (root_q, inverse_q), (root_k, inverse_k) = _roots(of_q), _roots(of_k)
    left, values, right = torch.linalg.svd(root_q @ root_k)
    strengths = _strengths(values)
    _turn(layer, q, strengths * (left.T @ inverse_q))
    _turn(layer, k, strengths * (right @ inverse_k))


def _order(layer: nn.Linear, v: slice, projection: nn.Linear, inside: slice, of_v: Tensor) -> None:
    """Sort the value dimensions by their contribution to the stream, the largest first."""
    root, inverse = _roots(of_v)
    weight = projection.weight[:, inside].double() @ root
    squares, right = (one.flip(-1) for one in torch.linalg.eigh(weight.T @ weight))
    strengths = _strengths(squares.clamp_min(0).sqrt())
    _turn(layer, v, strengths * (right.T @ inverse))
    projection.weight[:, inside] = (weight @ right / strengths.T).float()
