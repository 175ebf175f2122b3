"""Ranges that leave out the rarest values: of three percentiles the one with the smallest squared error."""

from __future__ import annotations

from edgevit.quant.observers import percentile
from edgevit.quant.registry import Quantizer
from edgevit.quant.workbench import Bench, largest_weights, observe_values


def solve(bench: Bench) -> None:
    """Choose activation ranges by percentile, and weight scales from each channel's largest magnitude."""
    observe_values(bench, percentile)
    largest_weights(bench)


QUANTIZER = Quantizer("percentile", __doc__.splitlines()[0], "Li et al., CVPR 2019 (FQN); arXiv 2212.08254", solve)
