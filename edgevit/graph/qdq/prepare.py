"""Prepares the quantized program that one backend lowers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from edgevit.graph.fx import first_output
from edgevit.graph.prepare import Prepared, apply_rewrites, finished
from edgevit.graph.qdq.base_graph import BEFORE, quantizable
from edgevit.graph.qdq.dynamic import drop_dynamic
from edgevit.graph.qdq.insert import float_weights, insert
from edgevit.graph.qdq.propagate import carry, drop_clipped_relus
from edgevit.graph.rewrites import Rewrite
from edgevit.schema.interface import Interface
from edgevit.schema.recipe import Recipe

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import GraphModule


@dataclass(frozen=True)
class Form:
    """The form in which a backend takes a quantized program.

    Attributes:
        carrying: who propagates integers through layout operators: the toolchain; this package, where no value is
            requantized; or this package, also where concatenated values get one code.
        dynamic: whether quantization at run time is in the program; otherwise the backend writes it into the file.
        weights: whether integer weights of layers that compute in floating point are in the program; otherwise the
            backend writes them into the file.
    """

    carrying: Literal["toolchain", "moves", "requantized"] = "requantized"
    dynamic: bool = False
    weights: bool = True


def quantized_core(program: ExportedProgram, recipe: Recipe) -> GraphModule:
    """A captured program's graph with a recipe's Q/DQ nodes: what every format computes."""
    return insert(quantizable(program), recipe)


def answering(program: ExportedProgram, recipe: Recipe) -> Callable[[torch.Tensor], torch.Tensor]:
    """The quantized model as a PyTorch function: normalised float32 [1, 3, H, W] to logits.

    Raises:
        BadFile: the recipe is for another graph.
    """
    core = quantized_core(program, recipe)
    return lambda inputs: first_output(core(inputs))


def _rewrites_after_quantization(chosen: Iterable[Rewrite], form: Form) -> tuple[Rewrite, ...]:
    """The backend's rewrites that run after quantization, and those edits that need a quantized graph."""
    edits = {"drop_clipped_relus": drop_clipped_relus}
    if not form.dynamic:
        edits["drop_dynamic"] = drop_dynamic
    if form.carrying != "toolchain":
        edits["carry_integers"] = partial(carry, requantizes=form.carrying == "requantized")
    if not form.weights:
        edits["float_weights"] = float_weights
    after = (Rewrite(name, "", order=0, edit=edit) for name, edit in edits.items())
    return (*(one for one in chosen if one.name not in BEFORE), *after)


def rewritten_quantized(program: Path, recipe: Recipe, chosen: Iterable[Rewrite], form: Form) -> GraphModule:
    """The edited graph of a saved program, before its call replacements and its wrapping."""
    core = quantized_core(torch.export.load(program), recipe)
    apply_rewrites(core, _rewrites_after_quantization(chosen, form))
    return core


def prepare_quantized(
    program: ExportedProgram,
    interface: Interface,
    recipe: Recipe,
    chosen: Iterable[Rewrite],
    form: Form,
    taps: Sequence[str] = (),
) -> Prepared:
    """Quantize a captured program, rewrite it for a backend, and wrap it.

    Args:
        program: as captured.
        interface: what the result takes and gives.
        recipe: the scales.
        chosen: the backend's rewrites, in order.
        form: the form in which the backend takes it.
        taps: names of intermediate values to answer with in place of the logits.

    Raises:
        BadFile: the recipe is for another graph.
    """
    core = quantized_core(program, recipe)
    full = interface.model_copy(update={"half": False})
    return finished(core, full, _rewrites_after_quantization(chosen, form), taps)
