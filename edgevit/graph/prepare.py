"""Applies the rewrites that one backend wants to a captured program."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from edgevit.graph.boundary import compose
from edgevit.graph.functional import make_functional
from edgevit.graph.half import check_patterns
from edgevit.graph.rewrites import Rewrite, rewrites_for
from edgevit.graph.taps import tap
from edgevit.schema.interface import Interface

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import GraphModule


FUNCTIONAL = "functional"
"""Key of a graph's ``meta``: whether everything that it overwrites is a value of its own, as rewrites take it to be."""


@dataclass(frozen=True)
class Prepared:
    """A program that is ready to be lowered, and the rewrites that were applied.

    Attributes:
        program: takes inputs and gives outputs as its interface says.
        rewrites: how often each rewrite matched; rewrites without a match are left out.
    """

    program: ExportedProgram
    rewrites: dict[str, int]


def graph_of(program: ExportedProgram) -> GraphModule:
    """A program's graph with its weights as attributes, free to edit: no value is overwritten and then read again."""
    core = program.module(check_guards=False)
    core.meta[FUNCTIONAL] = make_functional(core)
    return core


def apply_rewrites(graph_module: GraphModule, chosen: Iterable[Rewrite]) -> dict[str, int]:
    """Edit ``graph_module`` in place; returns how often each rewrite matched."""
    if not graph_module.meta.get(FUNCTIONAL, True):
        return {}
    return {rewrite.name: rewrite.edit(graph_module) for rewrite in chosen if rewrite.edit}


def _rules(core: GraphModule, chosen: Iterable[Rewrite]) -> tuple[dict[Any, Any], dict[str, int]]:
    """The call replacements that apply to a graph, and how many calls each rewrite replaces."""
    if not core.meta.get(FUNCTIONAL, True):
        return {}, {}
    targets = Counter(node.target for node in core.graph.nodes if node.op == "call_function")
    rules: dict[Any, Any] = {}
    counts: dict[str, int] = {}
    for rewrite in chosen:
        found = {target: rule for target, rule in (rewrite.rules() if rewrite.rules else {}).items() if targets[target]}
        rules |= found
        if rewrite.rules:
            counts[rewrite.name] = sum(targets[target] for target in found)
    return rules, counts


def prepare(
    program: ExportedProgram, interface: Interface, chosen: Iterable[Rewrite], taps: Sequence[str] = ()
) -> Prepared:
    """Rewrite a captured program and wrap it with its preprocessing and output activation.

    Args:
        program: as captured.
        interface: what the result takes and gives.
        chosen: the rewrites, in order.
        taps: names of intermediate values to answer with in place of the logits.
    """
    return finished(graph_of(program), interface, chosen, taps)


def finished(core: GraphModule, interface: Interface, chosen: Iterable[Rewrite], taps: Sequence[str] = ()) -> Prepared:
    """The same as `prepare` from a graph, which is edited in place; arguments as there."""
    chosen = tuple(chosen)
    matched = apply_rewrites(core, chosen)
    if taps:
        tap(core, taps)
    elif interface.half:
        check_patterns(core, interface.keep_fp32)
    rules, replaced = _rules(core, chosen)
    matched |= replaced
    return Prepared(compose(core, interface, rules), {name: n for name, n in matched.items() if n})


def rewritten_core(program: Path, chosen: Iterable[Rewrite]) -> GraphModule:
    """The edited graph of a saved program, before its call replacements and its wrapping."""
    core = graph_of(torch.export.load(program))
    apply_rewrites(core, chosen)
    return core


def matched_rewrites(program: ExportedProgram, backend: str, family: str = "") -> dict[str, int]:
    """How often each rewrite for a backend and a family matches a captured program."""
    chosen = rewrites_for(backend, family=family)
    core = graph_of(program)
    matched = apply_rewrites(core, chosen)
    matched.update(_rules(core, chosen)[1])
    return {name: count for name, count in matched.items() if count}
