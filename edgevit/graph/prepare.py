"""Apply the rewrites that one backend wants to a captured program."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgevit.graph.rewrites import Rewrite
from edgevit.graph.wrap import Interface, compose

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import GraphModule


@dataclass(frozen=True)
class Prepared:
    """A program ready to be lowered.

    Attributes:
        program: takes and gives what its interface says.
        rewrites: how often each rewrite matched; those replaced while tracing count as 0 here.
    """

    program: ExportedProgram
    rewrites: dict[str, int]


def graph_of(program: ExportedProgram) -> GraphModule:
    """A program's graph with its weights as attributes, free to edit."""
    return program.module(check_guards=False)  # type: ignore[return-value]


def apply_rewrites(graph_module: GraphModule, chosen: Iterable[Rewrite]) -> dict[str, int]:
    """Edit ``graph_module`` in place; returns how often each rewrite matched."""
    return {rewrite.name: rewrite.edit(graph_module) for rewrite in chosen if rewrite.edit}


def prepare(program: ExportedProgram, interface: Interface, chosen: Iterable[Rewrite]) -> Prepared:
    """Rewrite a captured program and wrap it with its preprocessing and output activation."""
    chosen = tuple(chosen)
    core = graph_of(program)
    matched = apply_rewrites(core, chosen)
    present = {node.target for node in core.graph.nodes if node.op == "call_function"}
    rules = {}
    for rewrite in chosen:
        if rewrite.rules:
            found = {target: rule for target, rule in rewrite.rules().items() if target in present}
            matched[rewrite.name] = sum(node.target in found for node in core.graph.nodes)
            rules.update(found)
    return Prepared(compose(core, interface, rules), {name: n for name, n in matched.items() if n})
