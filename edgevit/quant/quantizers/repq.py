"""RepQ-ViT: channel-wise scales behind norms, re-parameterised into one; percentile ranges; log codes of attention."""

from __future__ import annotations

from edgevit.graph.fx import is_call
from edgevit.quant.observers import percentile
from edgevit.quant.operands import ATTENTION, is_probability, operators_of, sample_operands
from edgevit.quant.registry import Quantizer
from edgevit.quant.strategies import equalise, is_normalised
from edgevit.quant.workbench import Bench, largest_weights, observe_values
from edgevit.schema.recipe import LogCode


def solve(bench: Bench) -> None:
    """Fold the channel-wise scales of norm results, then take percentile ranges."""
    for site in bench.sites.values():
        if is_normalised(site):
            equalise(bench, site)
    observe_values(bench, percentile)
    largest_weights(bench)
    if not bench.exportable:
        _log_codes(bench)


def _log_codes(bench: Bench) -> None:
    """``q = round(-2 log2(a / s))`` (equation 10), with the largest weight seen as s."""
    sampled = sample_operands(bench.core, bench.pictures)
    for node in operators_of(bench.core):
        name = "probabilities" if is_call(node, ATTENTION) else "input"
        if is_call(node, ATTENTION) or is_probability(bench.core, node):
            scale = float(sampled[node.name][name].max())
            bench.operands[node.name] = {name: LogCode(bits=bench.activation_bits, base="sqrt2", scale=scale)}


QUANTIZER = Quantizer(
    "repq",
    __doc__.splitlines()[0],
    "Li et al., ICCV 2023, arXiv 2212.08254",
    solve,
    simulated="log-sqrt2 codes of attention",
)
