"""A property of every rewrite: on any program it computes the same function, or changes nothing."""

from __future__ import annotations

import pytest
import torch

from edgevit.graph.prepare import FUNCTIONAL, apply_rewrites, graph_of
from edgevit.graph.rewrites import rewrites
from tests.graph.generated import Generated, example
from tests.graph.test_rewrites import Interpreted

SEEDS = 12
MORE = 400


def check(seed: int) -> None:
    module, x = Generated(seed), example(seed)
    with torch.no_grad():
        expected = module(x.clone())
        assert torch.equal(module(x.clone()), expected)
        program = torch.export.export(module, (x.clone(),), strict=False)
        # of the largest number, so that rounding is told from a fault however ill-conditioned the program is
        room = 2e-5 * float(expected.abs().max() + 1)
        for chosen in (*((one,) for one in rewrites()), rewrites()):
            core = graph_of(program)
            if len(chosen) == 1 and chosen[0].edit and core.meta[FUNCTIONAL]:
                chosen[0].edit(core)  # by itself: nothing catches what it raises
            else:
                apply_rewrites(core, chosen)
            rules = {target: rule for one in chosen if one.rules for target, rule in one.rules().items()}
            found = Interpreted(core, rules)(x.clone())
            names = ", ".join(one.name for one in chosen) if len(chosen) == 1 else "all"
            assert found.shape == expected.shape, (seed, names)
            torch.testing.assert_close(found, expected, atol=room, rtol=1e-4, msg=lambda m, n=names: f"{seed} {n}: {m}")


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_rewrite_is_exact_or_silent(seed: int) -> None:
    check(seed)


@pytest.mark.matrix
@pytest.mark.parametrize("seed", range(SEEDS, MORE))
def test_a_rewrite_is_exact_or_silent_on_many_more(seed: int) -> None:
    check(seed)
