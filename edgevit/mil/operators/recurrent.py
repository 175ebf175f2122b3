"""LSTM, the only recurrent layer of vision models here."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from edgevit.mil.registry import operator

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "linear": lambda x: x,
}


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    if name not in _ACTIVATIONS:
        raise ValueError(f"the activation {name!r} of a recurrent layer is not known")
    return _ACTIVATIONS[name]


def _one_way(
    x: Tensor,
    hidden: Tensor,
    cell: Tensor,
    weights: tuple[Tensor, Tensor],
    bias: Tensor | None,
    peephole: Tensor | None,
    activations: tuple[Callable[[Tensor], Tensor], ...],
    clip: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run one direction over [steps, batch, in]: every hidden state, the last one, and the last cell."""
    gate, inner, outer = activations
    given = torch.nn.functional.linear(x, weights[0], bias)
    peeps = peephole.chunk(3) if peephole is not None else (torch.zeros(()),) * 3
    states = []
    for step in given:
        enter, forget, leave, new = (step + hidden @ weights[1].T).chunk(4, -1)
        fresh = inner(new)
        fresh = fresh if clip is None else fresh.clamp(-clip, clip)
        before = cell
        cell = gate(forget + peeps[1] * before) * before + gate(enter + peeps[0] * before) * fresh
        hidden = gate(leave + peeps[2] * cell) * outer(cell)
        states.append(hidden)
    return torch.stack(states), hidden, cell


@operator("lstm")
def lstm(
    *,
    x: Tensor,
    initial_h: Tensor,
    initial_c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    weight_ih_back: Tensor | None = None,
    weight_hh_back: Tensor | None = None,
    bias_back: Tensor | None = None,
    peephole_back: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    cell_activation: str = "tanh",
    activation: str = "tanh",
    clip: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Long short-term memory over [steps, batch, in]; gates in the order input, forget, output, cell.

    The halves of states and results of a bidirectional layer are its two directions.
    """
    activations = tuple(_activation(name) for name in (recurrent_activation, cell_activation, activation))
    if direction not in ("forward", "reverse", "bidirectional"):
        raise ValueError(f"there is no direction {direction!r}")
    both = direction == "bidirectional"
    states_h, states_c = (one.chunk(2, -1) if both else (one,) for one in (initial_h, initial_c))
    ways = [((weight_ih, weight_hh), bias, peephole, direction == "reverse")]
    if both:
        if weight_ih_back is None or weight_hh_back is None:
            raise ValueError("a bidirectional layer needs weights of both directions")
        ways.append(((weight_ih_back, weight_hh_back), bias_back, peephole_back, True))
    found = []
    for (weights, shift, peep, backwards), hidden, cell in zip(ways, states_h, states_c, strict=True):
        steps, last, memory = _one_way(
            x.flip(0) if backwards else x, hidden, cell, weights, shift, peep, activations, clip
        )
        found.append((steps.flip(0) if backwards else steps, last, memory))
    every, last, memory = (torch.cat(parts, -1) for parts in zip(*found, strict=True))
    return every if output_sequence else last.unsqueeze(0), last, memory
