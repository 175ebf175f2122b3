"""The state of a quantizer at work: samples, and the codes decided so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from edgevit.graph.fx import aten, is_call
from edgevit.graph.qdq.channel_folds import Site
from edgevit.graph.qdq.codes import LEAST_SCALE, PROBABILITY, fake_code, uniform_code, weight_scales
from edgevit.graph.qdq.layers import Layer, LayerPlan, readers
from edgevit.quant.bridges.find import Bridge
from edgevit.quant.observers import RangeObserver
from edgevit.quant.sampling import Samples, Values, grouped_weight, products
from edgevit.quant.search import Reading, rounded_weight, weight_code
from edgevit.schema.recipe import ChannelFold, Code, UniformCode, WeightCode

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

    from edgevit.quant.calibration import Pictures

_IN_0_1 = (aten.softmax.int, aten._softmax.default, aten.sigmoid.default)
Tell = Callable[[str], None]


def fixed_code(point: Node, bits: int) -> UniformCode | None:
    """The code that integer kernels for softmax and sigmoid require of their result, or None."""
    return PROBABILITY if bits == 8 and is_call(point, *_IN_0_1) else None


@dataclass
class Bench:
    """One model while a quantizer solves its recipe.

    Attributes:
        fresh: builds a copy of the float graph, free to edit.
        core: the float graph.
        plan: the layers and sums that are quantized.
        sites: values whose channels can be changed exactly, by name.
        samples: from a float pass over the pictures.
        pictures: the calibration pictures.
        weight_bits: bits of weights.
        activation_bits: bits of activations.
        exportable: leave out what no runtime can execute.
        readings: the calibration samples of each layer, by name.
        tell: called with the current stage of the work.
        bridges: bridge blocks, for quantizers with gradients.
        whole: gradients of the loss by the results of the bridges' readers, for the first pictures.
        folds: decided so far.
        weights: decided so far, by layer.
        activations: decided so far, by point.
        operands: decided so far, by operator.
    """

    fresh: Callable[[], GraphModule]
    core: GraphModule
    plan: LayerPlan
    sites: dict[str, Site]
    samples: Samples
    pictures: Pictures
    weight_bits: int
    activation_bits: int
    exportable: bool
    readings: dict[str, Reading]
    tell: Tell = lambda text: None
    bridges: list[Bridge] = field(default_factory=list)
    whole: dict[str, list[Tensor]] = field(default_factory=dict)
    folds: list[ChannelFold] = field(default_factory=list)
    weights: dict[str, WeightCode] = field(default_factory=dict)
    activations: dict[str, Code] = field(default_factory=dict)
    operands: dict[str, dict[str, Code]] = field(default_factory=dict)

    def readers(self, point: str) -> list[Reading]:
        """The layers that read a point."""
        return [self.readings[layer.name] for layer in self.plan.layers if layer.source.name == point]

    def is_shared(self, point: Node) -> bool:
        """Whether an integer-only value is also read by an operator that computes in floating point, or by a sum."""
        layers = {layer.node for layer in self.plan.layers}
        return point in self.plan.computed and any(user not in layers for user, _ in readers(point))

    def values(self, point: str) -> Values:
        """The statistics of one point."""
        return self.samples.values[point]

    def set_weight(self, layer: Layer, scale: Tensor) -> None:
        """Set a layer's weight scales: [out channels]."""
        self.weights[layer.name] = weight_code(scale, self.weight_bits)
        reading = self.readings[layer.name]
        reading.rounded = rounded_weight(reading.weight, scale, self.weight_bits)

    def quantized_rows(self, layer: Layer) -> Tensor:
        """Sampled inputs of a layer, rounded to the code of its source."""
        rows, code = self.readings[layer.name].rows, self.activations.get(layer.source.name)
        return rows if code is None else fake_code(rows, code)

    def fold(self, site: Site, factor: Tensor, shift: Tensor | None = None) -> None:
        """Fold a factor and shift into a value's channels, and update its samples."""
        moved = torch.zeros_like(factor) if shift is None else shift
        self.folds.append(
            ChannelFold(
                value=site.value.name,
                factor=tuple(factor.tolist()),
                shift=() if shift is None else tuple(shift.tolist()),
            )
        )
        for layer in site.consumers:
            change_input(self.readings[layer.name], layer, factor, moved)
        maker = next((layer for layer in self.plan.layers if layer.node is site.maker), None)
        if maker is not None:
            _change_output(self.readings[maker.name], factor)
        readings = [self.readings[layer.name] for layer in site.consumers]
        _change_values(self.values(site.value.name), factor, moved, readings)
        for node in site.through:
            values = self.samples.values.get(node.name)
            if values is not None:
                values.channel_low, values.channel_high = self.samples.inputs[site.consumers[0].name]
                _change_values(values, factor, moved, readings)


def change_input(reading: Reading, layer: Layer, factor: Tensor, shift: Tensor) -> None:
    """Update a layer's samples after its input's channels were folded."""
    groups, count = reading.rows.shape[1], layer.weight[0, 0].numel() if layer.is_convolution else 1
    wide = [values.reshape(groups, -1).repeat_interleave(count, 1) for values in (factor, shift)]
    reading.rows = (reading.rows - wide[1]) / wide[0]
    reading.weight = reading.weight * wide[0][:, None]
    reading.rounded = reading.weight
    reading.expected = products(reading.rows, reading.weight)


def _change_output(reading: Reading, factor: Tensor) -> None:
    by_output = factor.reshape(reading.weight.shape[:2])
    reading.weight = reading.weight / by_output[..., None]
    reading.rounded = reading.weight
    reading.expected = reading.expected / by_output
    if reading.gradient is not None:
        reading.gradient = reading.gradient * by_output


def _change_values(values: Values, factor: Tensor, shift: Tensor, readers: Sequence[Reading]) -> None:
    assert values.channel_low is not None and values.channel_high is not None
    values.channel_low = (values.channel_low - shift) / factor
    values.channel_high = (values.channel_high - shift) / factor
    values.low, values.high = float(values.channel_low.min()), float(values.channel_high.max())
    values.sampled = [reading.rows.flatten() for reading in readers]


def make_readings(plan: LayerPlan, samples: Samples) -> dict[str, Reading]:
    """The readings of all layers: sampled rows and the float results that follow from them."""
    found = {}
    for layer in plan.layers:
        rows, weight = samples.rows[layer.name], grouped_weight(layer)
        gradient = samples.gradients.get(layer.name)
        found[layer.name] = Reading(layer.name, rows, weight, weight, products(rows, weight), gradient)
    return found


def largest_weights(bench: Bench) -> None:
    """Set weight scales from the largest magnitude of every output channel."""
    for layer in bench.plan.layers:
        weight = bench.readings[layer.name].weight
        bench.set_weight(layer, weight_scales(weight.reshape(-1, weight.shape[-1]), bench.weight_bits))


def observed(bench: Bench, point: Node, observer: RangeObserver, *, symmetric: bool = False) -> UniformCode:
    """The code of the range that an observer takes, unless a kernel requires another."""
    bits = bench.activation_bits
    low, high = observer(bench.values(point.name), bits)
    return fixed_code(point, bits) or uniform_code(low, high, bits, symmetric=symmetric)


def observe_values(bench: Bench, observer: RangeObserver, *, symmetric: bool = False) -> None:
    """Set the codes of all points from their observed ranges."""
    for point in bench.plan.points:
        bench.activations[point.name] = observed(bench, point, observer, symmetric=symmetric)


def channel_fold(
    low: Tensor, high: Tensor, bits: int, *, shifts: bool, symmetric: bool = False
) -> tuple[Tensor, Tensor | None]:
    """RepQ-ViT's re-parameterisation of channel-wise scales into one (equations 5 to 8): (factor, shift).

    ``r1 = s / mean(s)``, ``r2 = z - mean(z)``; x becomes ``(x + s r2) / r1``. The common zero point is kept within
    the code, so that zero stays one of its values.

    Args:
        low: of each channel.
        high: of each channel.
        bits: of the code.
        shifts: whether zero points may be moved; otherwise only the scales become equal.
        symmetric: channels have zero point 0.
    """
    most = (1 << bits) - 1
    if symmetric or not shifts:
        scale = torch.maximum(low.abs(), high.abs()) / (most / 2)
        return _relative(scale), None
    low, high = low.clamp_max(0), high.clamp_min(0)
    scale = ((high - low) / most).clamp_min(LEAST_SCALE)
    zero = (-(1 << (bits - 1)) - low / scale).round()
    common = zero.mean().round()
    return _relative(scale), -scale * (zero - common)


def _relative(scale: Tensor) -> Tensor:
    """Scales divided by their mean; a channel that was always zero keeps its scale."""
    live = scale > scale.max() * 1e-6
    if not bool(live.any()):
        return torch.ones_like(scale)
    return torch.where(live, scale / scale[live].mean(), torch.ones_like(scale)).clamp_min(2.0**-10)
