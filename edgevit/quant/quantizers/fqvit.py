"""FQ-ViT: power-of-two factors for the inputs of LayerNorm, logarithmic codes for attention.

Weights by the largest magnitude of each output channel; activations asymmetric, one scale each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgevit.graph.fx import is_call
from edgevit.graph.qdq.codes import fake_code, uniform_code
from edgevit.quant.observers import minmax
from edgevit.quant.operands import ATTENTION, NORM, is_probability, operators_of, sample_operands
from edgevit.quant.registry import Quantizer
from edgevit.quant.workbench import Bench, largest_weights, observe_values
from edgevit.schema.recipe import FactorCode, LogCode

MOST_FACTOR = 3
"""Largest exponent of a channel's power-of-two factor, as in the paper (equations 10 to 12): 2^0 to 2^3."""
ATTENTION_BITS = 4
"""Bits of the logarithmic code of attention weights, as in FQ-ViT."""


def factor_code(rows: Tensor, bits: int) -> FactorCode:
    """A code with one power-of-two factor for each channel (equations 10 to 12).

    The step of the whole tensor is divided by 2^3; each channel takes the factor 2^0 to 2^3 with the smallest
    squared error.

    Args:
        rows: [N, channels].
        bits: of the code.
    """
    whole = uniform_code(float(rows.min()), float(rows.max()), bits)
    scale = whole.scale / (1 << MOST_FACTOR)
    codes = [
        FactorCode(bits=bits, scale=scale, zero_point=whole.zero_point, factors=(factor,) * rows.shape[1])
        for factor in range(MOST_FACTOR + 1)
    ]
    errors = torch.stack([(fake_code(rows, code) - rows).square().sum(0) for code in codes])
    return codes[0].model_copy(update={"factors": tuple(errors.argmin(0).tolist())})


def solve(bench: Bench) -> None:
    """Take min/max ranges, and add codes for attention and LayerNorm inputs unless the recipe must be exportable."""
    observe_values(bench, minmax)
    largest_weights(bench)
    if bench.exportable:
        return
    sampled = sample_operands(bench.core, bench.pictures)
    for node in operators_of(bench.core):
        if is_call(node, NORM):
            bench.operands[node.name] = {"input": factor_code(sampled[node.name]["input"], bench.activation_bits)}
        elif is_call(node, ATTENTION):
            bench.operands[node.name] = {"probabilities": LogCode(bits=ATTENTION_BITS, base="2", scale=1.0)}
        elif is_probability(bench.core, node):
            bench.operands[node.name] = {"input": LogCode(bits=ATTENTION_BITS, base="2", scale=1.0)}


QUANTIZER = Quantizer(
    "fqvit",
    __doc__.splitlines()[0],
    "Lin et al., IJCAI 2022, arXiv 2111.13824",
    solve,
    simulated="power-of-two factors in LayerNorm, log2 codes of attention",
)
