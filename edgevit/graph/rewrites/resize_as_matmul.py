"""Bicubic resizing between fixed sizes as two constant matrix products: Core ML has no bicubic."""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

from edgevit.graph.fx import add_constant, argument, aten, calls, finish, is_float32, replace, shape
from edgevit.graph.rewrites import Rewrite


def resize_matrix(before: int, after: int, align_corners: bool, scale: float | None) -> torch.Tensor:
    """[after, before] float32: the linear map of PyTorch's 1-D bicubic resize (a = -0.75).

    Args:
        before: positions before.
        after: positions after.
        align_corners: as in `torch.nn.functional.interpolate`.
        scale: the scale factor where one was given in place of a size, which moves the grid.
    """
    identity = torch.eye(before, dtype=torch.float64).reshape(1, before, before, 1).expand(1, before, before, 4)
    size, scales = ([after, 4], None) if scale is None else (None, [scale, 1.0])
    columns = aten.upsample_bicubic2d.vec(identity, size, align_corners, scales)
    return columns[0, :, :, 0].T.contiguous().float()


def _matrices(node: Node) -> tuple[torch.Tensor, torch.Tensor]:
    before, after = shape(node.args[0]), shape(node)
    assert before is not None and after is not None
    corners, scales = argument(node, "align_corners"), argument(node, "scale_factors") or (None, None)
    rows = resize_matrix(before[2], after[2], corners, scales[0])
    columns = resize_matrix(before[3], after[3], corners, scales[1])
    return rows, columns.T.contiguous()


@torch.no_grad()
def edit(graph_module: GraphModule) -> int:
    """Replace every bicubic resize; returns how many."""
    replaced = 0
    for node in calls(graph_module, aten.upsample_bicubic2d.vec):
        if not is_float32(node, node.args[0]):
            continue
        rows, columns = (add_constant(graph_module, node, matrix) for matrix in _matrices(node))
        with graph_module.graph.inserting_before(node):
            left = graph_module.graph.call_function(aten.matmul.default, (rows, node.args[0]))
            both = graph_module.graph.call_function(aten.matmul.default, (left, columns))
        both.meta["val"] = node.meta["val"]
        replace(node, both)
        replaced += 1
    finish(graph_module)
    return replaced


REWRITE = Rewrite(
    "resize_as_matmul",
    __doc__.splitlines()[0],
    order=70,
    backends=frozenset({"coreml", "litert", "executorch", "executorch-coreml"}),
    edit=edit,
)
