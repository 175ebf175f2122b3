"""Strategies that quantizers are composed of, beyond single observers and searches."""

from __future__ import annotations

from collections.abc import Iterable

from edgevit.graph.qdq.channel_folds import Site
from edgevit.graph.qdq.layers import Layer
from edgevit.quant.metrics import Metric
from edgevit.quant.observers import RangeObserver
from edgevit.quant.search import Grid, candidate_codes, search_value, search_weight
from edgevit.quant.workbench import Bench, channel_fold, fixed_code, largest_weights, observe_values


def search_weights(bench: Bench, grid: Grid, metric: Metric, layers: Iterable[Layer] | None = None) -> None:
    """Search the best weight scales, given the codes of activations."""
    for layer in bench.plan.layers if layers is None else layers:
        reading = bench.readings[layer.name]
        rows = bench.quantized_rows(layer)
        bench.set_weight(layer, search_weight(reading, rows, bench.weight_bits, grid, metric))


def search_values(bench: Bench, grid: Grid, metric: Metric, schemes: tuple[bool, ...]) -> None:
    """Search the codes of values that only layers read, given the weights; other readers have no loss.

    Args:
        bench: the model and its samples; receives the codes.
        grid: multiples of the whole range.
        metric: what is minimised, over all layers that read a value.
        schemes: symmetric or not, or both to choose from.
    """
    for point in bench.plan.points:
        readers = bench.readers(point.name)
        if not readers or fixed_code(point, bench.activation_bits) or bench.is_shared(point):
            continue
        values, bits = bench.values(point.name), bench.activation_bits
        codes = [
            code
            for symmetric in schemes
            for code in candidate_codes(values.low, values.high, bits, grid, symmetric=symmetric)
        ]
        bench.activations[point.name] = search_value(readers, codes, metric)[0]


def alternate(
    bench: Bench, grid: Grid, metric: Metric, observer: RangeObserver, schemes: tuple[bool, ...] = (False,)
) -> None:
    """Search weights and activations in turn, from observed codes; values that no layer reads keep theirs."""
    observe_values(bench, observer, symmetric=schemes == (True,))
    largest_weights(bench)
    for turn in range(grid.rounds):
        bench.tell(f"searching scales, round {turn + 1} of {grid.rounds}")
        search_values(bench, grid, metric, schemes)
        search_weights(bench, grid, metric)


def equalise(bench: Bench, site: Site, *, symmetric: bool = False) -> None:
    """Give all channels of one value the same range by a channel fold."""
    values = bench.values(site.value.name)
    assert values.channel_low is not None and values.channel_high is not None
    factor, shift = channel_fold(
        values.channel_low, values.channel_high, bench.activation_bits, shifts=site.shifts, symmetric=symmetric
    )
    bench.fold(site, factor, shift)


def is_normalised(site: Site) -> bool:
    """Whether a norm computes a value."""
    return "norm" in str(site.maker.target)
