"""The canonical float graph that recipes refer to, the same for every format.

Format-independent rewrites are applied; recipes use its node names, and `digest` identifies it.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

from edgevit.graph.fx import attribute
from edgevit.graph.prepare import apply_rewrites, graph_of
from edgevit.graph.rewrites import rewrites

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import GraphModule

BEFORE = (
    "inline_autocast",
    "drop_noops",
    "fold_constants",
    "fold_batch_norm",
    "fold_layer_scale",
    "merge_residual_conv",
    "bypass_expand",
    "resize_as_matmul",
    "split_projections",
    "fold_attention_scale",
    "fold_norm_affine",
    "flat_tokens",
)
"""Rewrites that decide which layers there are and what they compute: made once, before anything is quantized."""


def quantizable(program: ExportedProgram) -> GraphModule:
    """The canonical float graph of a captured program, free to edit."""
    core = graph_of(program)
    apply_rewrites(core, (one for one in rewrites() if one.name in BEFORE))
    return core


def _text(value: Any) -> str:
    if isinstance(value, Node):
        return value.name
    if isinstance(value, (tuple, list)):
        return "[" + ",".join(map(_text, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_text(one)}" for key, one in value.items()) + "}"
    return str(value)


def digest(core: GraphModule) -> str:
    """SHA-256 of a graph's operators, names and constants: it identifies the graph that a recipe was solved for."""
    found = hashlib.sha256()
    for node in core.graph.nodes:
        found.update(f"{node.name} {node.op} {node.target} {_text(node.args)} {_text(node.kwargs)}\n".encode())
        if node.op == "get_attr":
            value = attribute(core, str(node.target))
            if isinstance(value, torch.Tensor):
                plain = value.detach().contiguous()
                found.update(f"{plain.dtype} {tuple(plain.shape)}".encode())
                found.update(plain.flatten().view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    return found.hexdigest()
