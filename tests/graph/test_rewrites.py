"""Every rewrite computes the same function, fires where it should, and only there."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgevit.graph import rewrites as package
from edgevit.graph.capture import capture
from edgevit.graph.fx import RuleInterpreter, aten
from edgevit.graph.prepare import graph_of, prepare
from edgevit.graph.rewrites import rewrites, rewrites_for
from edgevit.models.bundled import BUILDERS
from edgevit.models.load import load_model
from edgevit.models.registry import list_models
from edgevit.schema.interface import Interface
from edgevit.testing import wake
from tests.conftest import FORMATS, crossed

BY_NAME = {rewrite.name: rewrite for rewrite in rewrites()}


def live(module: nn.Module) -> nn.Module:
    """Random gains and statistics, so that folding has something to get wrong."""
    generator = torch.Generator().manual_seed(1)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            noise = torch.rand(value.shape, generator=generator)
            value.copy_(noise + 0.5 if "var" in name else noise - 0.4)
    return module.eval()


def apply(module: nn.Module, example: torch.Tensor, name: str) -> tuple[int, torch.fx.GraphModule]:
    program = torch.export.export(module, (example,), strict=False)
    graph_module = graph_of(program)
    rewrite = BY_NAME[name]
    if rewrite.edit:
        return rewrite.edit(graph_module), graph_module
    rules = dict(rewrite.rules())
    count = sum(node.target in rules for node in graph_module.graph.nodes)
    retraced = torch.export.export(Interpreted(graph_module, rules), (example,), strict=False)
    return count, graph_of(retraced)


class Interpreted(nn.Module):
    def __init__(self, graph_module: torch.fx.GraphModule, rules: dict[object, Callable[..., object]]) -> None:
        super().__init__()
        self.inner, self.rules, self.training = graph_module, rules, False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = RuleInterpreter(self.inner, self.rules).run(x)
        return out[0] if isinstance(out, (tuple, list)) else out


class Wrap(nn.Module):
    """A module from a function of its layers."""

    def __init__(self, function: Callable[..., torch.Tensor], **layers: nn.Module | torch.Tensor) -> None:
        super().__init__()
        for name, layer in layers.items():
            if isinstance(layer, torch.Tensor):
                self.register_buffer(name, layer)
            else:
                setattr(self, name, layer)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, x)


IMAGE = torch.randn(1, 6, 9, 9, generator=torch.Generator().manual_seed(2))
ROWS = torch.randn(2, 6, generator=torch.Generator().manual_seed(3))
QUERY = torch.randn(1, 6, 10, 12, generator=torch.Generator().manual_seed(4))


def attend(module: Wrap, x: torch.Tensor) -> torch.Tensor:
    query, key, value = x.chunk(3, dim=-1)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=getattr(module, "mask", None))


def windows(x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, scale_factor=(0.75, 1.4), mode="bicubic")


# rewrite, module, example, how often it fires, an operator that is gone afterwards
def guarded(x: torch.Tensor) -> torch.Tensor:
    """As models keep attention from half precision."""
    with torch.amp.autocast("cpu", enabled=False):
        wide = x.float()
        return (wide @ wide.transpose(-1, -2) * 1e-6).to(x.dtype)


def heads(x: torch.Tensor) -> torch.Tensor:
    return x.unflatten(-1, (3, -1)).transpose(1, 2)


def attended(qkv: torch.Tensor) -> torch.Tensor:
    batch, tokens, width = qkv.shape
    query, key, value = qkv.reshape(batch, tokens, 3, 4, width // 12).permute(2, 0, 3, 1, 4).unbind(0)
    return ((query @ key.transpose(-2, -1)).softmax(-1) @ value).transpose(1, 2).flatten(2)


def unfolded(x: torch.Tensor) -> torch.Tensor:
    """MobileViT's patches: [1, 6, 8, 12] to [4, 24, 6]."""
    x = x.reshape(6 * 4, 2, 6, 2).transpose(1, 2)
    return x.reshape(1, 6, 24, 4).transpose(1, 3).reshape(4, 24, 6)


def offsets(places: int, others: int) -> torch.Tensor:
    return (2 * torch.arange(places)[:, None] - torch.arange(others)[None]).abs()


SCORES = torch.randn(1, 2, 144, 36)
BIAS = torch.randn(2, 24, 24)[:, offsets(12, 6)[:, None, :, None], offsets(12, 6)[None, :, None, :]].reshape(2, 144, 36)
"""A strided relative position bias, as LeViT's."""


CASES = {
    "dropout": ("drop_noops", Wrap(lambda s, x: F.dropout(x, 0.5, s.training) + 1), IMAGE, 1, aten.dropout.default),
    "same view": ("drop_noops", Wrap(lambda s, x: x.view(x.shape) * 2), IMAGE, 1, aten.view.default),
    "contiguous that counts": (
        "drop_noops",
        Wrap(lambda s, x: x.transpose(1, 2).contiguous().view(1, -1) * 2),
        IMAGE,
        0,
        None,
    ),
    "real view": ("drop_noops", Wrap(lambda s, x: x.view(1, 6, 81) * 2), IMAGE, 0, None),
    "bias table": (
        "fold_constants",
        Wrap(lambda s, x: x + s.table[:, s.index.long() * 1], table=torch.randn(6, 20), index=torch.arange(9)),
        IMAGE.mean(2),
        1,
        aten.index.Tensor,
    ),
    "grid": ("fold_constants", Wrap(lambda s, x: x * torch.linspace(0, 1, 9)), IMAGE, 1, aten.linspace.default),
    "conv bn": (
        "fold_batch_norm",
        live(Wrap(lambda s, x: s.bn(s.conv(x)), conv=nn.Conv2d(6, 4, 3, bias=False), bn=nn.BatchNorm2d(4))),
        IMAGE,
        1,
        aten.batch_norm.default,
    ),
    "conv bias bn groups": (
        "fold_batch_norm",
        live(Wrap(lambda s, x: s.bn(s.conv(x)), conv=nn.Conv2d(6, 6, 3, groups=3, stride=2), bn=nn.BatchNorm2d(6))),
        IMAGE,
        1,
        aten.batch_norm.default,
    ),
    "bn without affine": (
        "fold_batch_norm",
        live(Wrap(lambda s, x: s.bn(s.conv(x)), conv=nn.Conv2d(6, 4, 1), bn=nn.BatchNorm2d(4, affine=False))),
        IMAGE,
        1,
        aten.batch_norm.default,
    ),
    "conv1d bn": (
        "fold_batch_norm",
        live(Wrap(lambda s, x: s.bn(s.conv(x)), conv=nn.Conv1d(6, 4, 3), bn=nn.BatchNorm1d(4))),
        IMAGE[:, :, 0],
        1,
        aten.batch_norm.default,
    ),
    "linear bn": (
        "fold_batch_norm",
        live(Wrap(lambda s, x: s.bn(s.fc(x)), fc=nn.Linear(6, 5), bn=nn.BatchNorm1d(5))),
        ROWS,
        1,
        aten.batch_norm.default,
    ),
    "tokens linear bn": (
        "fold_batch_norm",
        live(Wrap(lambda s, x: s.bn(s.fc(x).flatten(0, 1)).reshape(1, 9, 5), fc=nn.Linear(6, 5), bn=nn.BatchNorm1d(5))),
        torch.randn(1, 9, 6),
        1,
        aten.batch_norm.default,
    ),
    "bn linear": (
        "fold_batch_norm",
        live(Wrap(lambda s, x: s.fc(s.bn(x)), fc=nn.Linear(6, 5), bn=nn.BatchNorm1d(6))),
        ROWS,
        1,
        aten.batch_norm.default,
    ),
    "bn of a shared conv": (
        "fold_batch_norm",
        live(Wrap(lambda s, x: s.bn(y := s.conv(x)) + y, conv=nn.Conv2d(6, 4, 3), bn=nn.BatchNorm2d(4))),
        IMAGE,
        0,
        None,
    ),
    "bn alone": ("fold_batch_norm", live(Wrap(lambda s, x: s.bn(x), bn=nn.BatchNorm2d(6))), IMAGE, 0, None),
    "layer scale": (
        "fold_layer_scale",
        live(Wrap(lambda s, x: s.fc(x) * s.gamma, fc=nn.Linear(6, 5), gamma=torch.rand(5))),
        ROWS,
        1,
        aten.mul.Tensor,
    ),
    "layer scale conv": (
        "fold_layer_scale",
        live(Wrap(lambda s, x: s.gamma * s.conv(x), conv=nn.Conv2d(6, 4, 3), gamma=torch.rand(4, 1, 1))),
        IMAGE,
        1,
        aten.mul.Tensor,
    ),
    "scalar scale": (
        "fold_layer_scale",
        live(Wrap(lambda s, x: s.conv(x) * 0.3, conv=nn.Conv2d(6, 4, 3))),
        IMAGE,
        1,
        aten.mul.Tensor,
    ),
    "scale on the wrong axis": (
        "fold_layer_scale",
        live(Wrap(lambda s, x: s.conv(x) * s.gamma, conv=nn.Conv2d(6, 7, 3), gamma=torch.rand(7))),
        IMAGE,
        0,
        None,
    ),
    "scale of a shared layer": (
        "fold_layer_scale",
        live(Wrap(lambda s, x: (y := s.fc(x)) * s.gamma + y, fc=nn.Linear(6, 5), gamma=torch.rand(5))),
        ROWS,
        0,
        None,
    ),
    "residual depthwise": (
        "merge_residual_conv",
        live(Wrap(lambda s, x: x + s.conv(x), conv=nn.Conv2d(6, 6, 3, padding=1, groups=6))),
        IMAGE,
        1,
        aten.add.Tensor,
    ),
    "residual depthwise 5x5": (
        "merge_residual_conv",
        live(Wrap(lambda s, x: s.conv(x) + x, conv=nn.Conv2d(6, 6, 5, padding=2, groups=6, bias=False))),
        IMAGE,
        1,
        aten.add.Tensor,
    ),
    "residual dense": (
        "merge_residual_conv",
        live(Wrap(lambda s, x: x + s.conv(x), conv=nn.Conv2d(6, 6, 3, padding=1))),
        IMAGE,
        0,
        None,
    ),
    "residual dilated": (
        "merge_residual_conv",
        live(Wrap(lambda s, x: x + s.conv(x), conv=nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6))),
        IMAGE,
        0,
        None,
    ),
    "expand_as": (
        "bypass_expand",
        Wrap(lambda s, x: F.relu(x) * x.sum(-1, keepdim=True).expand_as(x)),
        IMAGE,
        1,
        aten.expand_as.default,
    ),
    "expand that counts": (
        "bypass_expand",
        Wrap(lambda s, x: x.sum(-1, keepdim=True).expand_as(x) * x.mean(-1, keepdim=True)),
        IMAGE,
        0,
        None,
    ),
    "empty padding": ("drop_noops", Wrap(lambda s, x: F.pad(x, (0, 0, 0, 0)) * 2), IMAGE, 1, aten.pad.default),
    "fused projection": (
        "split_projections",
        live(Wrap(lambda s, x: attended(s.qkv(x)), qkv=nn.Linear(6, 36))),
        torch.randn(2, 5, 6),
        1,
        aten.unbind.int,
    ),
    "a part that nothing reads": (
        "split_projections",
        live(
            Wrap(
                lambda s, x: (lambda q, k: q.relu() @ k.transpose(-1, -2))(*s.kv(x).split((4, 4, 1), -1)[:2]),
                kv=nn.Linear(6, 9, bias=False),
            )
        ),
        torch.randn(2, 5, 6),
        1,
        aten.split_with_sizes.default,
    ),
    "convolution split in three": (
        "split_projections",
        live(
            Wrap(
                lambda s, x: (lambda q, k, v: q.softmax(-1) * k.flatten(2).unflatten(2, (9, 9)) + v.relu())(
                    *s.conv(x).split((1, 4, 4), 1)
                ),
                conv=nn.Conv2d(6, 9, 3, padding=1),
            )
        ),
        IMAGE,
        1,
        aten.split_with_sizes.default,
    ),
    "grouped convolution": (
        "split_projections",
        live(Wrap(lambda s, x: (lambda a, b: a * b)(*s.conv(x).chunk(2, 1)), conv=nn.Conv2d(6, 8, 1, groups=2))),
        IMAGE,
        0,
        None,
    ),
    "parts that overlap": (
        "split_projections",
        live(Wrap(lambda s, x: s.one(x)[..., :3].relu() + s.one(x)[..., 1:4].relu(), one=nn.Linear(6, 4))),
        torch.randn(2, 5, 6),
        0,
        None,
    ),
    "scaled attention": (
        "fold_attention_scale",
        live(
            Wrap(
                lambda s, x: F.scaled_dot_product_attention(*(heads(layer(x)) for layer in (s.q, s.k, s.v))),
                **{name: nn.Linear(6, 12) for name in "qkv"},
            )
        ),
        torch.randn(2, 5, 6),
        1,
        None,
    ),
    "scaled scores": (
        "fold_attention_scale",
        live(
            Wrap(
                lambda s, x: ((heads(s.q(x)) @ heads(s.k(x)).transpose(-2, -1)) * 0.3 + 1).softmax(-1),
                q=nn.Linear(6, 12),
                k=nn.Linear(6, 12, bias=False),
            )
        ),
        torch.randn(2, 5, 6),
        1,
        aten.mul.Tensor,
    ),
    "scaled queries read twice": (
        "fold_attention_scale",
        live(Wrap(lambda s, x: (lambda q: (q * 0.3) @ q.transpose(-2, -1))(heads(s.q(x))), q=nn.Linear(6, 12))),
        torch.randn(2, 5, 6),
        0,
        None,
    ),
    "tokens averaged": (
        "delegated_sums",
        Wrap(lambda s, x: x.mean(1) + x.mean((1,), True).sum() + x.unflatten(1, (5, 2)).mean((1, 2))),
        torch.randn(2, 10, 6),
        3,
        aten.mean.dim,
    ),
    "an image averaged": (
        "delegated_sums",
        Wrap(lambda s, x: x.mean((2, 3)) + x.mean((-1, -2), True).flatten(1)),
        IMAGE,
        1,
        None,
    ),
    "other means and sums": (
        "delegated_sums",
        Wrap(lambda s, x: x.mean((0, 1)) + x.sum((-1,), True) + x.sum(-1).sum(1, True)[..., None]),
        torch.randn(2, 10, 6, 6),
        2,
        None,
    ),
    "unfolding": (
        "merge_moves",
        Wrap(lambda s, x: unfolded(x) * 2),
        torch.randn(1, 6, 8, 12),
        1,
        aten.transpose.int,
    ),
    "moves that are read in between": (
        "merge_moves",
        Wrap(lambda s, x: (lambda t: t.transpose(1, 2).unsqueeze(0) * t.sum())(x.flatten(2))),
        IMAGE,
        0,
        None,
    ),
    "more axes than XNNPACK permutes": (
        "merge_moves",
        Wrap(lambda s, x: x.reshape(2, 3, 2, 3, 2, 3, 2).permute(6, 5, 4, 3, 2, 1, 0).reshape(-1).reshape(24, 18) * 2),
        torch.randn(12, 36),
        0,
        None,
    ),
    "tokens to an image": (
        "merge_moves",
        Wrap(lambda s, x: x.transpose(1, 2).reshape(2, 6, 2, 10).reshape(2, 6, 4, 5) * 2),
        torch.randn(2, 20, 6),
        1,
        aten.transpose.int,
    ),
    "block of tokens": (
        "flat_tokens",
        live(
            Wrap(
                lambda s, x: x + s.two(F.gelu(s.one(s.norm(x)), approximate="tanh") * 2),
                norm=nn.LayerNorm(6),
                one=nn.Linear(6, 12),
                two=nn.Linear(12, 6, bias=False),
            )
        ),
        torch.randn(1, 5, 6),
        1,
        None,
    ),
    "two blocks of different tokens": (
        "flat_tokens",
        live(
            Wrap(
                lambda s, x: s.two(s.one(x).reshape(2, 10, 3).relu()).sum() * s.one(x).mT,
                one=nn.Linear(6, 6),
                two=nn.Linear(3, 4),
            )
        ),
        torch.randn(2, 5, 6),
        3,
        None,
    ),
    "rows alone": ("flat_tokens", live(Wrap(lambda s, x: s.one(x), one=nn.Linear(6, 6))), ROWS, 0, None),
    "bias looked up": ("table_lookup", Wrap(lambda s, x: x + s.bias, bias=BIAS), SCORES, 1, None),
    "bias of no structure": (
        "table_lookup",
        Wrap(lambda s, x: x + s.bias, bias=torch.randn(2, 144, 36)),
        SCORES,
        0,
        None,
    ),
    "bias by products": ("table_products", Wrap(lambda s, x: x + s.bias, bias=BIAS), SCORES, 1, None),
    "bias of few values but no grid": (
        "table_products",
        Wrap(lambda s, x: x + s.bias, bias=torch.randn(2, 99)[:, torch.randint(99, (144, 36))]),
        SCORES,
        0,
        None,
    ),
    "attention": ("plain_attention", Wrap(attend), QUERY, 1, aten.scaled_dot_product_attention.default),
    "attention with bias": (
        "plain_attention",
        Wrap(attend, mask=torch.randn(6, 10, 10)),
        QUERY,
        1,
        aten.scaled_dot_product_attention.default,
    ),
    "attention with a hard mask": (
        "plain_attention",
        Wrap(attend, mask=torch.ones(10, 10).tril().bool()),
        QUERY,
        0,
        None,
    ),
    "attention over windows in single operators": (
        "plain_attention",
        Wrap(attend),
        torch.randn(1, 4, 6, 10, 12),
        1,
        aten.scaled_dot_product_attention.default,
    ),
    "attention with a mask that hides whole rows": (
        "plain_attention",
        Wrap(attend, mask=torch.full((10, 10), -torch.inf).triu(1)),
        QUERY,
        0,
        None,
    ),
    "products of stacks": (
        "plain_attention",
        Wrap(lambda s, x: (x @ x.transpose(-2, -1)) @ x + x @ s.one, one=torch.randn(12, 12)),
        QUERY,
        2,
        None,
    ),
    "attention over windows": (
        "flat_attention",
        Wrap(attend),
        torch.randn(1, 4, 6, 10, 12),
        1,
        None,
    ),
    "splits": (
        "plain_slices",
        Wrap(
            lambda s, x: sum(
                a.sum() * b
                for b, a in enumerate(
                    (*x.split(2, -1), *x.split([1, 4], -1), *x.chunk(3, 1), x.select(1, -1), *x.unbind(1))
                )
            )
        ),
        torch.randn(2, 3, 5),
        5,
        aten.split_with_sizes.default,
    ),
    "every second": (
        "plain_slices",
        Wrap(lambda s, x: x[:, ::2, 1::3].sum() * x[:, :, 1:8:3].sum() + x[..., ::4].sum() * x),
        torch.randn(2, 7, 6),
        4,
        None,
    ),
    "rolls": (
        "plain_slices",
        Wrap(lambda s, x: x.roll((-2, 3), (1, 2)) + x.roll(5, 0) + x.roll(1, -1)),
        torch.randn(2, 7, 6),
        3,
        aten.roll.default,
    ),
    "squeezes": (
        "plain_slices",
        Wrap(lambda s, x: x.squeeze(1) + x.squeeze((1, 2)) + x.squeeze() + x.squeeze(0)),
        torch.randn(2, 1, 3),
        4,
        aten.squeeze.dim,
    ),
    "gelu by tanh": (
        "plain_gelu",
        Wrap(lambda s, x: F.gelu(x * 3, approximate="tanh") + F.gelu(x)),
        IMAGE,
        2,
        None,
    ),
    "gelu in place": (
        "plain_gelu",
        Wrap(lambda s, x: torch.ops.aten.gelu_(x * 3, approximate="tanh")),
        IMAGE,
        1,
        torch.ops.aten.gelu_.default,
    ),
    "hard swish": (
        "plain_hardswish",
        Wrap(lambda s, x: F.hardswish(x * 3, inplace=True) + F.hardswish(x)),
        IMAGE,
        2,
        None,
    ),
    "windows added up": (
        "plain_folds",
        Wrap(lambda s, x: F.fold(F.unfold(x, 3, 1, 1, 2) * 2, (9, 9), 3, 1, 1, 2)),
        torch.randn(2, 4, 9, 9),
        1,
        aten.col2im.default,
    ),
    "windows that leave a rim, dilated": (
        "plain_folds",
        Wrap(lambda s, x: F.fold(F.unfold(x, (2, 3), 2, (1, 2), (3, 2)) * 2, (10, 11), (2, 3), 2, (1, 2), (3, 2))),
        torch.randn(4, 10, 11),
        1,
        aten.col2im.default,
    ),
    "less than no padding": (
        "plain_folds",
        Wrap(lambda s, x: F.pad(x, (-1, 2, 3, -2), value=0.5) + 1),
        torch.randn(2, 4, 9, 9),
        1,
        None,
    ),
    "casts to the captured dtype": (
        "drop_checks",
        Wrap(lambda s, x: x.float().softmax(-1).to(x.dtype) * 2),
        IMAGE,
        2,
        aten._assert_tensor_metadata.default,
    ),
    "norms and sums": (
        "guard_sums",
        Wrap(lambda s, x: s.norm(x).mean(1) + x.sum((0, 1, 2)) + x.mean((2, 3)).sum(), norm=nn.LayerNorm(9)),
        IMAGE,
        4,
        None,
    ),
    "dropout in training": ("drop_noops", Wrap(lambda s, x: F.dropout(x, 0.0, True) + 1), IMAGE, 1, None),
    "a vector as a weight": (
        "split_projections",
        Wrap(lambda s, x: F.linear(x, s.row).relu() + 1, row=torch.randn(6)),
        torch.randn(2, 5, 6),
        0,
        None,
    ),
    "an image without a batch": (
        "fold_batch_norm",
        live(Wrap(lambda s, x: s.bn(s.conv(x)), conv=nn.Conv1d(6, 9, 1), bn=nn.BatchNorm1d(9))),
        torch.randn(6, 9),
        0,
        None,
    ),
    "one query for all three": (
        "fold_attention_scale",
        live(Wrap(lambda s, x: (lambda t: F.scaled_dot_product_attention(t, t, t))(heads(s.q(x))), q=nn.Linear(6, 12))),
        torch.randn(2, 5, 6),
        0,
        None,
    ),
    "a wider factor": (
        "fold_layer_scale",
        live(Wrap(lambda s, x: s.fc(x) * s.gamma, fc=nn.Linear(6, 5), gamma=torch.rand(5, dtype=torch.float64))),
        ROWS,
        0,
        None,
    ),
    "sums of integers": (
        "delegated_sums",
        Wrap(lambda s, x: x * (x > 0).long().sum(-1, keepdim=True) + x.mean(1, True, dtype=torch.float64).float()),
        torch.randn(2, 10, 6),
        0,
        None,
    ),
    "a roll of everything": (
        "plain_slices",
        Wrap(lambda s, x: x.roll(5) * 2),
        torch.randn(2, 7, 6),
        1,
        aten.roll.default,
    ),
    "a bias that hides": (
        "table_products",
        Wrap(lambda s, x: (x + s.bias).softmax(-1), bias=BIAS.masked_fill(BIAS[0, 0, 0] == BIAS, -torch.inf)),
        SCORES,
        0,
        None,
    ),
    "attention whose keys are shared by windows": (
        "flat_attention",
        Wrap(lambda s, x: F.scaled_dot_product_attention(x, x[:, :1], x[:, :1])),
        torch.randn(1, 4, 6, 10, 12),
        1,
        None,
    ),
    "six axes, a bias by name and a factor": (
        "drop_unit_axis",
        live(
            Wrap(
                lambda s, x: (
                    torch.add(
                        torch.ops.aten.linear.default(x.view(1, 2, 3, 4, 5, 6), s.fc.weight, bias=s.fc.bias),
                        x.view(1, 2, 3, 4, 5, 6),
                        alpha=2,
                    )
                    .view(1, 6, 20, 6)
                    .relu()
                ),
                fc=nn.Linear(6, 6),
            )
        ),
        torch.randn(1, 6, 4, 30),
        4,
        None,
    ),
    "softmax": ("flat_softmax", Wrap(lambda s, x: x.softmax(-1)), QUERY, 1, None),
    "softmax over channels": ("flat_softmax", Wrap(lambda s, x: x.softmax(1)), QUERY, 1, None),
    "window partition": (
        "drop_unit_axis",
        live(
            Wrap(
                lambda s, x: (
                    s.qkv(x.reshape(1, 2, 4, 3, 5, 6).transpose(2, 3))
                    .reshape(1, 6, 20, 3, 2, 3)
                    .permute(3, 0, 1, 4, 2, 5)
                    .unbind(0)[1]
                    * 2
                ),
                qkv=nn.Linear(6, 18),
            )
        ),
        torch.randn(1, 8, 15, 6),
        5,
        None,
    ),
    "position bias": (
        "drop_unit_axis",
        Wrap(
            lambda s, x: (
                (x.view(1, 2, 3, 4, 3, 4) + s.rows[:, :, :, :, :, None] + s.columns[:, :, :, :, None, :])
                .view(1, 2, 12, 12)
                .softmax(-1)
            ),
            rows=torch.randn(1, 2, 3, 4, 3),
            columns=torch.randn(1, 2, 3, 4, 4),
        ),
        torch.randn(1, 2, 12, 12),
        5,
        None,
    ),
    "six real axes": (
        "drop_unit_axis",
        Wrap(lambda s, x: x.reshape(2, 2, 2, 3, 2, 3).transpose(2, 3).reshape(2, 4, 3, 6) * 2),
        torch.randn(2, 4, 6, 3),
        0,
        None,
    ),
    "norm before linear": (
        "fold_norm_affine",
        live(
            Wrap(
                lambda s, x: s.one(s.norm(x)) + s.two(s.norm(x)),
                norm=nn.LayerNorm(6),
                one=nn.Linear(6, 4),
                two=nn.Linear(6, 4, bias=False),
            )
        ),
        torch.randn(1, 5, 6),
        2,
        None,
    ),
    "norm read by others": (
        "fold_norm_affine",
        live(Wrap(lambda s, x: (lambda n: s.one(n) + n)(s.norm(x)), norm=nn.LayerNorm(6), one=nn.Linear(6, 6))),
        torch.randn(1, 5, 6),
        0,
        None,
    ),
    "layer norm": (
        "delegated_norm",
        live(Wrap(lambda s, x: s.norm(x * 9 + 3), norm=nn.LayerNorm(6, eps=1e-3))),
        torch.randn(1, 5, 6),
        1,
        aten.layer_norm.default,
    ),
    "layer norms of equal width": (
        "delegated_norm",
        live(Wrap(lambda s, x: s.b(s.a(x)), a=nn.LayerNorm(6), b=nn.LayerNorm(6, elementwise_affine=False))),
        torch.randn(1, 5, 6),
        2,
        aten.layer_norm.default,
    ),
    "group norm": (
        "delegated_norm",
        live(Wrap(lambda s, x: s.norm(x * 9 + 3), norm=nn.GroupNorm(1, 6))),
        IMAGE,
        1,
        aten.group_norm.default,
    ),
    "group norm of two": (
        "delegated_norm",
        live(Wrap(lambda s, x: s.norm(x), norm=nn.GroupNorm(3, 6))),
        IMAGE,
        0,
        None,
    ),
    "autocast off": ("inline_autocast", Wrap(lambda s, x: guarded(x).relu()), IMAGE, 1, None),
    "unrolled windows": (
        "split_permute",
        Wrap(lambda s, x: x.view(2, 3, 4, 5, 2, 6).permute(0, 2, 4, 1, 3, 5).flatten(0, 2) * 2),
        torch.randn(2, 12, 10, 6),
        1,
        None,
    ),
    "seven axes any way round": (
        "split_permute",
        Wrap(lambda s, x: x.view(2, 3, 2, 2, 5, 2, 3).permute(6, 3, 0, 5, 1, 4, 2).reshape(12, -1) * 2),
        torch.randn(2, 12, 30),
        1,
        None,
    ),
    "six axes that stay": (
        "split_permute",
        Wrap(lambda s, x: x.view(2, 3, 2, 2, 5, 2).transpose(1, 2) * 2),
        torch.randn(2, 12, 10),
        0,
        None,
    ),
    "pooled windows": (
        "drop_unit_axis",
        Wrap(lambda s, x: x.view(1, 2, 3, 4, 5, 6).amax(3) + x.view(1, 2, 3, 4, 5, 6).flatten(1, 3).amax(1, True)),
        torch.randn(1, 6, 4, 30),
        2,
        None,
    ),
    "bicubic": (
        "resize_as_matmul",
        Wrap(lambda s, x: F.interpolate(x, size=(14, 5), mode="bicubic")),
        IMAGE,
        1,
        aten.upsample_bicubic2d.vec,
    ),
    "bicubic corners": (
        "resize_as_matmul",
        Wrap(lambda s, x: F.interpolate(x, size=(4, 20), mode="bicubic", align_corners=True)),
        IMAGE,
        1,
        aten.upsample_bicubic2d.vec,
    ),
    "bicubic by scale": ("resize_as_matmul", Wrap(lambda s, x: windows(x)), IMAGE, 1, aten.upsample_bicubic2d.vec),
}


@pytest.mark.parametrize("case", CASES)
def test_a_rewrite_keeps_the_function(case: str) -> None:
    name, module, example, times, gone = CASES[case]
    module.eval()
    with torch.no_grad():
        expected = module(example)
        count, rewritten = apply(module, example, name)
        found = rewritten(example)
    assert count == times
    torch.testing.assert_close(found, expected, atol=3e-6, rtol=1e-5)
    assert gone is None or gone not in {node.target for node in rewritten.graph.nodes}


def test_every_rewrite_is_documented_in_its_order() -> None:
    page = (Path(__file__).parents[2] / "docs" / "rewrites.md").read_text()
    table = page.partition("## How much")[0]
    listed = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    assert listed == [rewrite.name for rewrite in rewrites()]


def test_every_rewrite_has_a_case() -> None:
    assert {case[0] for case in CASES.values()} == set(BY_NAME)


def test_what_slows_a_family_is_left_out_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "_choice", lambda: {"onnx": {"slow": ["merge_moves"]}})
    plain = rewrites_for("onnx", family="other")
    assert [one for one in plain if one.name != "merge_moves"] == list(rewrites_for("onnx", family="slow"))
    assert rewrites_for("litert", family="slow") == rewrites_for("litert")
    assert "merge_moves" in {one.name for one in rewrites_for("onnx", family="slow", asked=("merge_moves",))}


def test_the_choice_names_what_there_is() -> None:
    for backend, families in package._choice().items():
        known = {one.name for one in rewrites_for(backend, asked=("all",)) if backend in one.backends}
        assert {name for slow in families.values() for name in slow} <= known
        assert set(families) <= {spec.family for spec in list_models()}


def test_equal_tables_stay_one() -> None:
    table = torch.arange(12.0).reshape(3, 4)
    module = Wrap(lambda s, x: (x * s.table[s.index]) @ s.table[s.index].T, table=table, index=torch.tensor([2, 0, 1]))
    count, rewritten = apply(module.eval(), torch.randn(3, 4), "fold_constants")
    assert count <= 2
    tables = [value for name, value in rewritten.named_buffers() if value.shape == (3, 4)]
    assert len(tables) == 1


def interface(size: tuple[int, int], **change: object) -> Interface:
    values = {
        "layout": "tensor",
        "size": size,
        "mean": (0.5,) * 3,
        "std": (0.25,) * 3,
        "probabilities": False,
        **change,
    }
    return Interface(**values)  # type: ignore[arg-type]


LARGE = (
    "mobilevit_xxs",
    "levit_128s",
    "repvit_m0_9",
    "fastvit_t8",
    "crossvit_tiny_240",
    "efficientvit_m0",
    "swin_tiny_patch4_window7_224",
    "pvt_v2_b0",
    "pit_ti_224",
)
# The small models for every backend, and four of the others for one each.
COVERED = [*itertools.product(BUILDERS, FORMATS), *zip(LARGE, FORMATS, strict=False)]


@pytest.mark.parametrize(("name", "backend"), crossed([*BUILDERS, *LARGE], FORMATS, COVERED))
def test_a_prepared_model_computes_what_the_model_does(name: str, backend: str) -> None:
    loaded = load_model(name, weights="random")
    size = loaded.preprocessing.size
    prepared = prepare(capture(loaded.module, size), interface(size), rewrites_for(backend))
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = loaded.module(image)
        found = prepared.program.module(check_guards=False)(image)
    assert float((found - expected).abs().max()) < 2e-5 * float(expected.max() - expected.min())
    left = {node.target for node in prepared.program.graph.nodes}
    assert not left & {aten.dropout.default, aten.batch_norm.default} or name in (
        "levit_128s",
        "efficientvit_m0",
        "efficientformerv2_digits",
        "crossvit_tiny_240",
    )


def test_capture_leaves_the_model_alone() -> None:
    loaded = load_model("repvit_m0_9", weights="random")
    before = {key: value.clone() for key, value in loaded.module.state_dict().items()}
    capture(loaded.module, (224, 224))
    after = loaded.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_two_threads_may_capture() -> None:
    module = live(Wrap(lambda s, x: s.conv(x), conv=nn.Conv2d(3, 4, 3)))
    with ThreadPoolExecutor(4) as pool:
        programs = list(pool.map(lambda _: capture(module, (8, 8)), range(8)))
    assert len({str(program.graph) for program in programs}) == 1


def test_the_wrapper_normalises_as_the_reference_does() -> None:
    model = wake(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 6 * 6, 5)), (8, 8))
    program = capture(model, (8, 8))
    pixels = torch.randint(0, 256, (1, 8, 8, 3), dtype=torch.uint8)
    planes = pixels.permute(0, 3, 1, 2).float()
    with torch.no_grad():
        expected = torch.softmax(model((planes / 255 - 0.5) / 0.25), -1)
        for layout, given in (
            ("image_nhwc_uint8", pixels),
            ("image_nchw_float", planes),
            ("tensor", (planes / 255 - 0.5) / 0.25),
        ):
            ready = prepare(program, interface((8, 8), layout=layout, probabilities=True), ())
            torch.testing.assert_close(ready.program.module(check_guards=False)(given), expected, atol=1e-6, rtol=1e-5)


def test_a_guarded_region_stays_in_fp32_in_a_half_program() -> None:
    """What would overflow in fp16 does not, and the region is entered and left by casts."""
    module = Wrap(lambda s, x: s.head(guarded(x * 300).flatten(1)), head=nn.Linear(192, 4)).eval()
    example = torch.rand(1, 3, 8, 8)
    program = torch.export.export(module, (example,), strict=False)
    half = prepare(program, interface((8, 8), layout="tensor", half=True), rewrites_for("onnx", half=True))
    assert half.rewrites["inline_autocast"] == 1
    with torch.no_grad():
        found = half.program.module(check_guards=False)(example)
        assert torch.isfinite(found).all()
        torch.testing.assert_close(found, module(example), atol=1e-2, rtol=1e-2)
    assert any((node.meta.get("custom") or {}).get("guarded") for node in half.program.graph.nodes)
