"""Samples taken in one pass over the calibration pictures: ranges, sampled values, and input rows of every layer.

A layer's products are all alike: one row of inputs (a token, or the patch under a convolution's window) times
its weight. A few hundred rows stand for all of them, so that a hundred candidates for a scale cost a hundred
small matrix products and the memory for a few megabytes a layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node
from torch.nn import functional

from edgevit.errors import CheckFailed
from edgevit.graph.fx import argument, operand
from edgevit.graph.qdq.layers import Layer, LayerPlan

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from edgevit.quant.calibration import Pictures

ROWS = 768
"""Of each layer, over all pictures."""
VALUES = 200_000
"""Of each point, over all pictures."""
Advance = Callable[[int], None]


@dataclass
class Values:
    """Statistics of one point over all calibration pictures.

    Attributes:
        low: smallest value.
        high: largest value.
        sampled: a regular sample of the values.
        channel_low: smallest value of each channel, [channels], along the axis given for the point.
        channel_high: largest value of each channel.
    """

    low: float = float("inf")
    high: float = float("-inf")
    sampled: list[Tensor] = field(default_factory=list)
    channel_low: Tensor | None = None
    channel_high: Tensor | None = None

    def all_sampled(self) -> Tensor:
        """All sampled values in one float32 vector."""
        return torch.cat(self.sampled)

    def see(self, values: Tensor, most: int, axis: int | None) -> None:
        """Update the statistics with one picture's values."""
        flat = values.flatten()
        self.low, self.high = min(self.low, float(flat.min())), max(self.high, float(flat.max()))
        step = max(1, flat.numel() // most)
        self.sampled.append(flat[::step].clone())
        if axis is not None:
            rows = values.movedim(axis, 0).flatten(1)
            low, high = rows.amin(1), rows.amax(1)
            self.channel_low = low if self.channel_low is None else torch.minimum(self.channel_low, low)
            self.channel_high = high if self.channel_high is None else torch.maximum(self.channel_high, high)


def _places(layer: Layer, count: int, wanted: int, picture: int) -> Tensor:
    """The indices of a layer's rows that are taken from a picture: the same in every pass."""
    seed = sum(map(ord, layer.name)) * 1009 + picture
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[:wanted].sort().values


def _convolution_rows(layer: Layer, x: Tensor, wanted: int, picture: int) -> Tensor:
    stride, padding, dilation = (argument(layer.node, name) for name in ("stride", "padding", "dilation"))
    window = [(size - 1) * step + 1 for size, step in zip(layer.weight.shape[2:], dilation, strict=True)]
    (above, beside) = (padding * 2)[:2]
    padded = functional.pad(x, (beside, beside, above, above))
    tall, wide = ((side - size) // step + 1 for side, size, step in zip(padded.shape[2:], window, stride, strict=True))
    places = _places(layer, tall * wide, wanted, picture)
    top, left = places // wide * stride[0], places % wide * stride[1]
    down = torch.arange(layer.weight.shape[2]) * dilation[0]
    right = torch.arange(layer.weight.shape[3]) * dilation[1]
    taken = padded[0][:, (top[:, None] + down)[:, :, None], (left[:, None] + right)[:, None, :]]
    return taken.movedim(1, 0).reshape(len(places), layer.groups, -1)


def input_rows(layer: Layer, x: Tensor, wanted: int, picture: int) -> Tensor:
    """Sampled rows of a layer's input: [rows, groups, inputs of a group]."""
    if layer.is_convolution:
        return _convolution_rows(layer, x, wanted, picture)
    rows = x.reshape(-1, 1, x.shape[-1])
    return rows[_places(layer, len(rows), wanted, picture)].clone()


def output_rows(layer: Layer, y: Tensor, wanted: int, picture: int) -> Tensor:
    """The same rows of a layer's result: [rows, groups, outputs of a group]."""
    rows = y[0].flatten(1).T if layer.is_convolution else y.reshape(-1, y.shape[-1])
    taken = rows[_places(layer, len(rows), wanted, picture)]
    return taken.reshape(len(taken), layer.groups, -1).clone()


def grouped_weight(layer: Layer, weight: Tensor | None = None) -> Tensor:
    """A layer's weight as matrices: [groups, outputs of a group, inputs of a group]."""
    weight = layer.weight if weight is None else weight
    return weight.reshape(layer.groups, weight.shape[0] // layer.groups, -1)


def products(rows: Tensor, weight: Tensor) -> Tensor:
    """Rows [R, G, K] times weights [G, O, K]: [R, G, O], without the bias."""
    return torch.einsum("rgk,gok->rgo", rows, weight)


@dataclass
class Samples:
    """All samples of one pass over the calibration pictures.

    Attributes:
        values: by the name of the point.
        rows: of each layer's input, by its name: [R, groups, K].
        inputs: minimum and maximum of each channel of a layer's input, by the layer's name.
        gradients: of the loss by each layer's result, for the same rows: [R, groups, O]; empty without a loss.
    """

    values: dict[str, Values]
    rows: dict[str, Tensor]
    inputs: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)


def _bad_values(node: Node, picture: int) -> CheckFailed:
    from edgevit.graph.fx import module_path

    return CheckFailed(
        f"the model gives values that are not finite at {node.name}, so no range can be learnt",
        where=f"{module_path(node) or 'the input'}, calibration picture {picture}",
        cure="check the weights, and the pictures that they were trained for",
    )


class _Watching(Interpreter):
    """Runs a graph and shows every value to a function."""

    def __init__(self, core: GraphModule, see: Callable[[Node, Any], Any]) -> None:
        super().__init__(core)
        self._see = see

    def run_node(self, n: Node) -> Any:
        """One operator; its result is shown to the function and may be replaced by what that returns."""
        result = super().run_node(n)
        return result if n.op in ("get_attr", "output") else self._see(n, result)


@torch.no_grad()
def collect(
    core: GraphModule, found: LayerPlan, pictures: Pictures, axes: dict[str, int], advance: Advance = lambda done: None
) -> Samples:
    """Run the float model once over the calibration pictures and keep samples.

    Args:
        core: as `edgevit.graph.qdq.base_graph.quantizable` gives it.
        found: the layers and sums that will be quantized.
        pictures: to run it on.
        axes: by point, the channel axis, where channel ranges are needed.
        advance: called after each picture.

    Raises:
        CheckFailed: a value is not finite.
    """
    values = {point.name: Values() for point in found.points}
    rows: dict[str, list[Tensor]] = {layer.name: [] for layer in found.layers}
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    by_node = {layer.node: layer for layer in found.layers}
    wanted, most = -(-ROWS // len(pictures)), -(-VALUES // len(pictures))
    for picture, inputs in enumerate(pictures.inputs()):

        def see(node: Node, result: Any, picture: int = picture) -> Any:
            if node.name in values:
                if not bool(torch.isfinite(result).all()):
                    raise _bad_values(node, picture)
                values[node.name].see(result, most, axes.get(node.name))
            return result

        watching = _LayerInputs(core, see, by_node, rows, seen, wanted, picture)
        watching.run(inputs)
        advance(1)
    return Samples(values, {name: torch.cat(parts) for name, parts in rows.items()}, seen)


class _LayerInputs(_Watching):
    """Also keeps rows and ranges of what layers read."""

    def __init__(
        self,
        core: GraphModule,
        see: Callable[[Node, Any], Any],
        layers: dict[Node, Layer],
        rows: dict[str, list[Tensor]],
        inputs: dict[str, tuple[Tensor, Tensor]],
        wanted: int,
        picture: int,
    ) -> None:
        super().__init__(core, see)
        self._layers, self._rows, self._inputs = layers, rows, inputs
        self._wanted, self._picture = wanted, picture

    def _see_channels(self, layer: Layer, x: Tensor) -> None:
        by_channel = x.movedim(1 if layer.is_convolution else -1, 0).flatten(1)
        low, high = by_channel.amin(1), by_channel.amax(1)
        known = self._inputs.get(layer.name)
        if known is not None:
            low, high = torch.minimum(low, known[0]), torch.maximum(high, known[1])
        self._inputs[layer.name] = low, high

    def run_node(self, n: Node) -> Any:
        """One operator; of a layer, rows and channel ranges of its input are kept first."""
        layer = self._layers.get(n)
        if layer is not None:
            x = self.env[operand(n)]
            self._rows[layer.name].append(input_rows(layer, x, self._wanted, self._picture))
            self._see_channels(layer, x)
        return super().run_node(n)
