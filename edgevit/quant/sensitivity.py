"""The error that quantizing each layer alone causes, in the layer's result and in the model's answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from edgevit.graph.fx import argument, constant, first_output
from edgevit.graph.qdq.channel_folds import apply_folds
from edgevit.graph.qdq.codes import fake_code, fake_weight
from edgevit.graph.qdq.layers import Layer, layers_of
from edgevit.quant.agreement import decibels
from edgevit.schema.recipe import Recipe

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from edgevit.quant.calibration import Pictures
    from edgevit.quant.solve import CanonicalModel

PICTURES = 8
"""Calibration pictures for a sensitivity; every value of the float run is kept in memory for each."""


@dataclass(frozen=True)
class LayerSensitivity:
    """The errors of the model with one layer quantized and all others in floating point.

    Attributes:
        name: of the layer's fx node.
        module: its path in the model.
        kind: ``convolution``, ``depthwise`` or ``linear``.
        macs: multiply-accumulate operations of one inference.
        parameters: of its weight.
        sqnr_db: signal-to-quantization-noise ratio of the layer's result.
        divergence: Kullback-Leibler divergence of the model's answers, in nats.
        logits_db: signal-to-quantization-noise ratio of the model's logits.
        changed: share of pictures whose most likely class changes.
    """

    name: str
    module: str
    kind: str
    macs: int
    parameters: int
    sqnr_db: float
    divergence: float
    logits_db: float
    changed: float

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary, for ``--json``."""
        return asdict(self)


def kind_of(layer: Layer) -> str:
    """The kind of a layer: ``convolution``, ``depthwise`` or ``linear``."""
    if not layer.is_convolution:
        return "linear"
    return "depthwise" if layer.groups > 1 else "convolution"


class _OneLayer(torch.fx.Interpreter):
    """Runs the rest of a graph with one layer quantized, from the float run's values before it."""

    def __init__(self, core: GraphModule, layer: Layer, recipe: Recipe, weight: Tensor) -> None:
        super().__init__(core)
        self._layer, self._recipe, self._weight = layer, recipe, weight
        self.exact: Tensor | None = None
        self.found: Tensor | None = None

    def run_node(self, n: torch.fx.Node) -> Any:
        """One operator; the chosen layer is computed exactly, kept, and then with its codes."""
        if n is not self._layer.node:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        self.exact = super().run_node(n)
        source, result = (self._recipe.activations.get(one.name) for one in (self._layer.source, self._layer.result))
        x = args[0] if source is None else fake_code(args[0], source)
        found = n.target(x, self._weight, *args[2:], **kwargs)  # type: ignore[operator]
        if result is not None and self._layer.result is self._layer.node:
            found = fake_code(found, result)
        self.found = found
        return found


def _after(core: GraphModule, node: torch.fx.Node) -> list[torch.fx.Node]:
    """A node and all that depends on it, in graph order."""
    found = {node}
    for one in core.graph.nodes:
        if any(source in found for source in one.all_input_nodes):
            found.add(one)
    return [one for one in core.graph.nodes if one in found]


@torch.no_grad()
def sensitivities(
    source: CanonicalModel,
    recipe: Recipe,
    pictures: Pictures,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> list[LayerSensitivity]:
    """Quantize each layer alone and measure the change of the answers, on `PICTURES` pictures.

    Args:
        source: the float graph.
        recipe: the codes.
        pictures: of the calibration.
        advance: called with how many layers are done, and of how many.
    """
    core = source.make()
    apply_folds(core, recipe.folds)
    inputs = list(islice(pictures.inputs(), PICTURES))
    environments = [_environment(core, one) for one in inputs]
    output = next(iter(reversed(core.graph.nodes)))
    exact = torch.cat([first_output(env[output]) for env in environments])
    layers = [layer for layer in layers_of(core) if layer.name in recipe.weights]
    found = []
    for done, layer in enumerate(layers):
        found.append(_alone(core, layer, recipe, environments, exact))
        advance(done + 1, len(layers))
    return found


def _environment(core: GraphModule, inputs: Tensor) -> dict[torch.fx.Node, Any]:
    """The values of all nodes in the float run."""
    run = torch.fx.Interpreter(core, garbage_collect_values=False)
    answer = run.run(inputs)
    return {**run.env, next(iter(reversed(core.graph.nodes))): answer}


def _alone(
    core: GraphModule, layer: Layer, recipe: Recipe, environments: list[dict[torch.fx.Node, Any]], exact: Tensor
) -> LayerSensitivity:
    weight = constant(core, argument(layer.node, "weight"))
    assert weight is not None
    rounded = fake_weight(weight.float(), recipe.weights[layer.name])
    affected = _after(core, layer.node)
    own: list[tuple[Tensor, Tensor]] = []
    logits = []
    for environment in environments:
        run = _OneLayer(core, layer, recipe, rounded)
        changed = dict(environment)
        run.env = changed
        for node in affected:
            changed[node] = run.run_node(node)
        assert run.exact is not None and run.found is not None
        own.append((run.exact.flatten(), run.found.flatten()))
        logits.append(first_output(changed[affected[-1]]))
    answers = torch.cat(logits)
    divergence = functional.kl_div(
        answers.log_softmax(-1), exact.log_softmax(-1), reduction="batchmean", log_target=True
    )
    return LayerSensitivity(
        name=layer.name,
        module=layer.module,
        kind=kind_of(layer),
        macs=layer.macs,
        parameters=layer.weight.numel(),
        sqnr_db=round(decibels(torch.cat([one for one, _ in own]), torch.cat([one for _, one in own])), 2),
        divergence=max(0.0, float(divergence)),
        logits_db=round(decibels(exact, answers), 2),
        changed=float((answers.argmax(1) != exact.argmax(1)).float().mean()),
    )
