"""PTQ4ViT: scales by the Hessian-guided metric; twin uniform codes after softmax and GELU.

Symmetric codes, all layers at once on the float network's inputs. The weight has a scale for each output
channel, where the paper has one for each layer; the products of attention have one for all heads.
"""

from __future__ import annotations

from edgevit.graph.fx import aten, is_call
from edgevit.graph.qdq.codes import fake_code, uniform_code
from edgevit.quant.metrics import fisher
from edgevit.quant.observers import omse
from edgevit.quant.operands import ATTENTION, NORM, is_probability, operators_of, sample_operands
from edgevit.quant.registry import Quantizer
from edgevit.quant.search import Grid, search_value
from edgevit.quant.strategies import alternate
from edgevit.quant.workbench import Bench
from edgevit.schema.recipe import Code, TwinUniformCode

GRID = Grid(alpha=0.01, beta=1.2, count=100, rounds=3)
"""Multiples of the first guess that the search tries, see `Grid`."""
GELU_MINIMUM = 0.16997
"""The magnitude of GELU's smallest value."""
MOST_SHIFT = 16
"""Splits 2^-1 to 2^-15 are tried."""


def softmax_codes(bits: int) -> list[TwinUniformCode]:
    """Candidate twin codes for attention weights in 0..1, one for each split 2^-m.

    The step of the upper range is ``1 / (2^(b-1) - 1)`` (equation 6).
    """
    most = (1 << (bits - 1)) - 1
    return [
        TwinUniformCode(bits=bits, split=2.0**-m, low_scale=2.0**-m / most, high_scale=1 / most)
        for m in range(1, MOST_SHIFT)
    ]


def gelu_codes(high: float, bits: int) -> list[TwinUniformCode]:
    """Candidate twin codes for GELU results: the step below zero follows from GELU's minimum, that above is
    searched.
    """
    half = 1 << (bits - 1)
    return [
        TwinUniformCode(bits=bits, split=0.0, low_scale=GELU_MINIMUM / half, high_scale=max(high, 1e-4) * m / half)
        for m in GRID.multiples()
    ]


def _twins_after_gelu(bench: Bench) -> None:
    for point in bench.plan.points:
        readers = bench.readers(point.name)
        if readers and is_call(point, aten.gelu.default):
            codes = gelu_codes(bench.values(point.name).high, bench.activation_bits)
            bench.activations[point.name] = search_value(readers, codes, fisher)[0]


def _products(bench: Bench) -> None:
    sampled = sample_operands(bench.core, bench.pictures)
    for node in operators_of(bench.core):
        if is_call(node, NORM):
            continue
        codes: dict[str, Code] = {}
        for name, values in sampled[node.name].items():
            weights = name == "probabilities" if is_call(node, ATTENTION) else name == "input"
            if weights and (is_call(node, ATTENTION) or is_probability(bench.core, node)):
                twins = softmax_codes(bench.activation_bits)
                codes[name] = min(twins, key=lambda code: float((fake_code(values, code) - values).square().mean()))
            else:
                least, most = values.aminmax()
                codes[name] = uniform_code(float(least), float(most), bench.activation_bits, symmetric=True)
        bench.operands[node.name] = codes


def solve(bench: Bench) -> None:
    """Fisher-weighted search of all scales, and twin codes unless the recipe must be exportable."""
    alternate(bench, GRID, fisher, omse, schemes=(True,))
    if not bench.exportable:
        _twins_after_gelu(bench)
        _products(bench)


QUANTIZER = Quantizer(
    "ptq4vit",
    __doc__.splitlines()[0],
    "Yuan et al., ECCV 2022, arXiv 2111.12293",
    solve,
    gradients=True,
    simulated="twin uniform codes after softmax and GELU, integer products of attention",
)
