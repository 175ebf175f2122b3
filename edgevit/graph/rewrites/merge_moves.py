"""A chain of views and permutations as one reshape, one permutation and one reshape.

MobileViT's unfolding, window partitions after a split into heads, a transposed key: each permutation
copies the whole value, a chain of them needs no more than one copy. Exact.
"""

from __future__ import annotations

from torch.fx import GraphModule

from edgevit.graph.builder import Builder, take_place
from edgevit.graph.functional import is_written
from edgevit.graph.fx import calls, finish, is_call, operand, shape, sole_user
from edgevit.graph.layouts import MOVES, chain_to, copies, move_of
from edgevit.graph.rewrites import Rewrite


def edit(graph_module: GraphModule) -> int:
    """Merge every chain that gets shorter, or copies less; returns how many."""
    builder, merged = Builder(graph_module), 0
    for node in reversed(list(calls(graph_module, *MOVES))):
        if not node.users or is_call(sole_user(node), *MOVES) or is_written(node):
            continue
        chain = chain_to(node)
        move = move_of(chain) if len(chain) > 1 else None
        if move is None:
            continue
        start = operand(chain[0])
        before, after = (copies(chain), len(chain)), (int(not move.is_view), move.calls(shape(start) or ()))
        if after[0] <= before[0] and after < before:
            take_place(node, move.emit(builder.at(node), start))
            merged += 1
    finish(graph_module)
    return merged


REWRITE = Rewrite(
    "merge_moves", __doc__.splitlines()[0], order=104, backends=frozenset({"executorch", "onnx", "litert"}), edit=edit
)
