"""Q-HyViT as its released code has it: symmetric only, channel-wise only before depthwise convolutions."""

from __future__ import annotations

from edgevit.quant.metrics import fisher
from edgevit.quant.observers import omse
from edgevit.quant.quantizers.qhyvit import GRID
from edgevit.quant.registry import Quantizer
from edgevit.quant.strategies import alternate, equalise
from edgevit.quant.workbench import Bench


def solve(bench: Bench) -> None:
    """Equalise channel ranges before depthwise convolutions, then search symmetric codes."""
    for site in bench.sites.values():
        if all(layer.groups > 1 for layer in site.consumers):
            equalise(bench, site, symmetric=True)
    alternate(bench, GRID, fisher, omse, schemes=(True,))


QUANTIZER = Quantizer(
    "qhyvit-symmetric", __doc__.splitlines()[0], "gitlab.com/ones-ai/q-hyvit, arXiv 2303.12557", solve, gradients=True
)
