"""EasyQuant: layer after layer, on the inputs that the layers before it give once they are quantized."""

from __future__ import annotations

from edgevit.quant.layer_by_layer import solve_in_order
from edgevit.quant.metrics import cosine
from edgevit.quant.registry import Quantizer
from edgevit.quant.search import Grid
from edgevit.quant.workbench import Bench

GRID = Grid(alpha=0.5, beta=1.2, count=100, rounds=1)
"""Multiples of the first guess that the search tries, see `Grid`."""


def solve(bench: Bench) -> None:
    """Search codes layer by layer: cosine similarity, symmetric, in execution order."""
    solve_in_order(bench, GRID, cosine)


QUANTIZER = Quantizer("easyquant", __doc__.splitlines()[0], "Wu et al., 2020, arXiv 2006.16669", solve)
