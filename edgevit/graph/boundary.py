"""Composes the program that a backend lowers: preprocessing, the rewritten model graph and the output activation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.fx.traceback import preserve_node_meta

from edgevit.graph.fx import GUARDED, RuleInterpreter, module_path
from edgevit.graph.half import HalfInterpreter, halve_constants, kept_nodes
from edgevit.schema.interface import Interface

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import GraphModule


def example_input(interface: Interface) -> torch.Tensor:
    """A zero input of the right shape and dtype, to trace with."""
    if interface.layout == "image_nhwc_uint8":
        return torch.zeros(1, *interface.size, 3, dtype=torch.uint8)
    return torch.zeros(1, 3, *interface.size)


class Wrapped(nn.Module):
    """The whole deployed function, traceable by `torch.export`."""

    # LiteRT writes a module's qualified class into tensor names: a file must not change because a folder was renamed.
    __module__ = "edgevit.graph.wrap"
    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, core: GraphModule, interface: Interface, rules: Mapping[Any, Callable[..., Any]]) -> None:
        super().__init__()
        self.core = core
        self._interface = interface
        self._rules = dict(rules)
        self._kept = kept_nodes(core, interface.keep_fp32) if interface.half else set()
        if interface.half:
            halve_constants(core, self._kept)
        mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (interface.mean, interface.std))
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)
        self.training = False  # an exported core refuses train() and eval()

    def normalise(self, image: torch.Tensor) -> torch.Tensor:
        """Pixels to the normalised float32 [1, 3, H, W] that the core takes.

        The conversion to float also makes the permuted image contiguous: a view would hand its
        channels-last strides on, and some of ExecuTorch's portable kernels refuse those.
        """
        if self._interface.layout == "tensor":
            return image
        if self._interface.layout == "image_nhwc_uint8":
            image = image.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        return image * self.scale + self.shift

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Image in, class probabilities or logits out: float32 [1, classes]."""
        pixels = self.normalise(image)
        if self._interface.half:
            outputs = HalfInterpreter(self.core, self._rules, self._kept).run(pixels.half())
        else:
            outputs = RuleInterpreter(self.core, self._rules).run(pixels)
        logits = (outputs[0] if isinstance(outputs, (tuple, list)) else outputs).float()
        return torch.softmax(logits, dim=-1) if self._interface.probabilities else logits


def compose(core: GraphModule, interface: Interface, rules: Mapping[Any, Callable[..., Any]]) -> ExportedProgram:
    """Trace the wrapped core once more into the program that a backend lowers.

    Every node of the result carries, in ``meta["custom"]``, which torch keeps through decompositions,
    the path of the ``module`` that it came from and whether that guards it from half precision.
    """
    for node in core.graph.nodes:
        node.meta["module_path"] = module_path(node)
        node.meta["custom"] = {"module": node.meta["module_path"], GUARDED: node.meta.get(GUARDED, False)}
    module = Wrapped(core, interface, rules)
    with torch.no_grad(), preserve_node_meta():
        program = torch.export.export(module, (example_input(interface),), strict=False)
    for node in program.graph.nodes:
        known = node.meta.get("custom") or {}
        node.meta["custom"] = {"module": known.get("module", ""), GUARDED: known.get(GUARDED, False)}
    return program
