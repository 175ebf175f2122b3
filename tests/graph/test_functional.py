"""In-place operators: what something else reads becomes a value of its own, and the graph computes what it did."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from edgevit.graph.functional import make_functional, written_operand
from edgevit.graph.prepare import apply_rewrites, graph_of
from edgevit.graph.rewrites import rewrites

Function = Callable[[nn.Module, torch.Tensor], torch.Tensor]


class Module(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("table", torch.arange(12.0).reshape(3, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, x)


def mask(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """As EoMT makes its masks: a constant, written in part."""
    m = torch.ones(4, 4)
    m[:2] = 0
    m[:, 1] *= 3
    return x.sum() * m


def views(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
    y = x * 1
    v = y[0]
    v.add_(5)
    y[1, 2:] = 7
    return y + v.sum()


def turned(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
    y = (x * 2).transpose(0, 1)
    y[0].mul_(3)
    z = y.reshape(-1)
    y.relu_()
    return z.sum() + y


def parts_of_their_own(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
    a, b, c = (x * 1).unbind(0)
    a.mul_(2)
    b += c
    return a + b * c


def split(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
    y = x * 1
    a, b = y.split([1, 2], 0)
    a.fill_(2)
    return y + b.sum()


def weight(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
    s.table.add_(1)
    return x * s.table


def activation(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return torch.relu_(x * 1) + 1


def two_views(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
    y = x * 1
    w = y.view(2, 6)
    w[0].zero_()
    first = y[0]
    w.add_(1)
    return first + y + w.sum()


def result_read_after_another(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
    y = x * 1
    r = y[:, ::2].add_(1)
    y.mul_(2)
    return r.sum() + y


def given(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x[0] = 1
    return x * 2


def integers(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
    m = torch.zeros(3, 4, dtype=torch.int64)
    m[1] = 2
    m[:, 0] += torch.tensor(3)
    return x * m


def copied_before(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
    y = x.reshape(2, 6).clone().reshape(3, 4)
    y.relu_()
    return x + y


def constant_read_before(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
    m = torch.ones(3, 4)
    y = x * m
    m.mul_(2)
    return y + x * m


CASES = [
    mask,
    views,
    turned,
    parts_of_their_own,
    split,
    weight,
    activation,
    two_views,
    result_read_after_another,
    given,
    integers,
    copied_before,
    constant_read_before,
]


def captured(function: Function) -> tuple[torch.export.ExportedProgram, torch.Tensor, torch.Tensor]:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(5))
    module = Module(function).eval()
    expected = copy.deepcopy(module)(x.clone())
    return torch.export.export(module, (x.clone(),), strict=False), x, expected


@pytest.mark.parametrize("function", CASES, ids=lambda one: one.__name__)
def test_a_write_becomes_a_value(function: Function) -> None:
    program, x, expected = captured(function)
    core = program.module(check_guards=False)
    assert make_functional(core)
    assert torch.equal(core(x.clone()), expected)
    writes = [node for node in core.graph.nodes if written_operand(node) is not None]
    alone = (turned, parts_of_their_own, activation, integers, copied_before, constant_read_before)
    assert bool(writes) == (function in alone), writes


@pytest.mark.parametrize("function", CASES, ids=lambda one: one.__name__)
def test_all_rewrites_together_keep_what_is_written(function: Function) -> None:
    """`fold_constants` alone would bake the ones of `mask` before they are written: EoMT's masks, off by 0.25."""
    program, x, expected = captured(function)
    core = graph_of(program)
    apply_rewrites(core, rewrites())
    with torch.no_grad():
        torch.testing.assert_close(core(x.clone()), expected)
        torch.testing.assert_close(core(x.clone()), expected)  # nothing was written into a weight


def test_a_write_without_a_plain_form_leaves_the_graph_alone() -> None:
    def strided(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        y = x * 1
        y.as_strided((2, 2), (4, 1)).mul_(3)
        return y + y.relu()

    program, x, expected = captured(strided)
    core = graph_of(program)
    assert apply_rewrites(core, rewrites()) == {}
    torch.testing.assert_close(core(x.clone()), expected)
