"""Prepares Q/DQ programs for litert-torch, which expects float weights that the program itself quantizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgevit.graph.builder import Builder
from edgevit.graph.fx import calls, constant, finish
from edgevit.graph.qdq.insert import DEQUANTIZE_CHANNELS, QUANTIZE_CHANNELS

if TYPE_CHECKING:
    from torch.fx import GraphModule


def unfold_weights(module: GraphModule) -> GraphModule:
    """Replace every integer weight by its float weight and a quantization, in place.

    litert-torch 0.10.0 takes the scale of a stored tensor from the node that quantizes it, not from the one
    that dequantizes it.
    """
    builder = Builder(module)
    for node in list(calls(module, DEQUANTIZE_CHANNELS)):
        values = [constant(module, argument) for argument in node.args[:3]]
        assert all(value is not None for value in values)
        weight = DEQUANTIZE_CHANNELS(*values, *node.args[3:])
        builder.at(node)
        integers = builder.call(QUANTIZE_CHANNELS, builder.constant(weight), *node.args[1:])
        node.update_arg(0, integers)
    finish(module)
    return module


def static_config() -> Any:
    """litert-torch's mode for programs that carry their own Q/DQ nodes; none of its quantizer is used."""
    from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
    from litert_torch.quantize.quant_config import QuantConfig

    return QuantConfig(
        pt2e_quantizer=PT2EQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    )
