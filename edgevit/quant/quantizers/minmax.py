"""The whole range that was seen, for every value and every output channel: what converters do by default."""

from __future__ import annotations

from edgevit.quant.observers import minmax
from edgevit.quant.registry import Quantizer
from edgevit.quant.workbench import Bench, largest_weights, observe_values


def solve(bench: Bench) -> None:
    """Choose activation ranges from the extremes seen, and weight scales from each channel's largest magnitude."""
    observe_values(bench, minmax)
    largest_weights(bench)


QUANTIZER = Quantizer("minmax", __doc__.splitlines()[0], "Jacob et al., CVPR 2018, arXiv 1712.05877", solve)
