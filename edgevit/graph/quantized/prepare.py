"""The quantized program that one backend lowers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.core.recipe import Recipe
from edgevit.graph.prepare import Prepared, apply_rewrites, finished
from edgevit.graph.quantized.carry import carry, drop_clipped_relus
from edgevit.graph.quantized.core import BEFORE, quantizable
from edgevit.graph.quantized.insert import insert
from edgevit.graph.rewrites import Rewrite
from edgevit.graph.wrap import Interface

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import GraphModule


def quantized_core(program: ExportedProgram, recipe: Recipe) -> GraphModule:
    """A captured program's graph with a recipe's Q/DQ nodes: what every format computes."""
    return insert(quantizable(program), recipe)


def _then(chosen: Iterable[Rewrite], *, carried: bool) -> tuple[Rewrite, ...]:
    """A backend's rewrites that are left to do once a graph is quantized, and two that need it to be."""
    rest = tuple(one for one in chosen if one.name not in BEFORE)
    after = [Rewrite("drop_clipped_relus", drop_clipped_relus.__doc__ or "", order=0, edit=drop_clipped_relus)]
    if carried:
        after.append(Rewrite("carry_integers", carry.__doc__ or "", order=0, edit=carry))
    return (*rest, *after)


def rewritten_quantized(program: Path, recipe: Recipe, chosen: Iterable[Rewrite], *, carried: bool) -> GraphModule:
    """The edited graph of a saved program, before its call replacements and its wrapping."""
    import torch

    core = quantized_core(torch.export.load(program), recipe)
    apply_rewrites(core, _then(chosen, carried=carried))
    return core


def prepare_quantized(
    program: ExportedProgram,
    interface: Interface,
    recipe: Recipe,
    chosen: Iterable[Rewrite],
    *,
    carried: bool,
    taps: Sequence[str] = (),
) -> Prepared:
    """Quantize a captured program, rewrite it for a backend, and wrap it.

    Args:
        program: as captured.
        interface: what the result takes and gives.
        recipe: the scales.
        chosen: the backend's rewrites, in order.
        carried: whether integers are kept through operators that only move values.
        taps: names of intermediate values to answer with in place of the logits.

    Raises:
        BadFile: the recipe is for another graph.
    """
    core = quantized_core(program, recipe)
    return finished(core, replace(interface, half=False), _then(chosen, carried=carried), taps)
