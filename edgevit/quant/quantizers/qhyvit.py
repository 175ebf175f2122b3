"""Q-HyViT: for every value the granularity and scheme that the loss wants, and bridge blocks judged as one.

A scale for each channel is made one scale by a fold, which every runtime can execute; where the graph allows
none, the value keeps one scale.
"""

from __future__ import annotations

from dataclasses import replace

from edgevit.graph.qdq.channel_folds import Site
from edgevit.quant.bridges.refine import refine_bridge
from edgevit.quant.metrics import fisher
from edgevit.quant.observers import omse
from edgevit.quant.registry import Quantizer
from edgevit.quant.search import Grid, Reading, candidate_codes, rounded_weight, search_value
from edgevit.quant.strategies import alternate
from edgevit.quant.workbench import Bench, change_input, channel_fold

GRID = Grid(alpha=0.01, beta=1.2, count=100, rounds=3)
"""Range, number of candidates and rounds of the search, as in Q-HyViT's released code."""
COARSE = Grid(alpha=0.3, beta=1.1, count=17)
"""The coarser grid on which granularities are compared."""
SCHEMES = (False, True)


def _loss(bench: Bench, readings: list[Reading]) -> float:
    """The smallest loss over candidate codes of a value, with its readers' weights quantized by largest magnitude."""
    bits = bench.activation_bits
    rounded = []
    for one in readings:
        scale = one.weight.abs().amax(2).clamp_min(1e-9) / ((1 << (bench.weight_bits - 1)) - 1)
        rounded.append(replace(one, rounded=rounded_weight(one.weight, scale, bench.weight_bits)))
    low = min(float(one.rows.min()) for one in readings)
    high = max(float(one.rows.max()) for one in readings)
    codes = [c for symmetric in SCHEMES for c in candidate_codes(low, high, bits, COARSE, symmetric=symmetric)]
    return search_value(rounded, codes, fisher)[1]


def choose_granularity(bench: Bench, site: Site) -> bool:
    """Fold one value's channels where that lowers the loss; returns whether it was done."""
    values = bench.values(site.value.name)
    assert values.channel_low is not None and values.channel_high is not None
    best, choice = _loss(bench, [bench.readings[layer.name] for layer in site.consumers]), None
    for symmetric in SCHEMES:
        fold = channel_fold(
            values.channel_low, values.channel_high, bench.activation_bits, shifts=site.shifts, symmetric=symmetric
        )
        changed = [replace(bench.readings[layer.name]) for layer in site.consumers]
        shift = fold[0] * 0 if fold[1] is None else fold[1]
        for one, layer in zip(changed, site.consumers, strict=True):
            change_input(one, layer, fold[0], shift)
        loss = _loss(bench, changed)
        if loss < best:
            best, choice = loss, fold
    if choice is not None:
        bench.fold(site, *choice)
    return choice is not None


def solve(bench: Bench) -> None:
    """Choose granularity, then search scale and scheme of every value in turn with the weights."""
    for place, site in enumerate(bench.sites.values()):
        bench.tell(f"choosing granularity, {place + 1} of {len(bench.sites)}")
        choose_granularity(bench, site)
    alternate(bench, GRID, fisher, omse, schemes=SCHEMES)
    for place, bridge in enumerate(bench.bridges):
        bench.tell(f"refining bridge blocks, {place + 1} of {len(bench.bridges)}")
        refine_bridge(bench, bridge, COARSE, SCHEMES)


QUANTIZER = Quantizer(
    "qhyvit", __doc__.splitlines()[0], "Lee et al., IEEE IoT Journal 2024, arXiv 2303.12557", solve, gradients=True
)
