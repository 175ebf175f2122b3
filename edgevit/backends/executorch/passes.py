"""Speed-ups of lowering that leave the output bytes unchanged: XNNPACK passes that cannot match are left out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

_PASS_NEEDS: dict[str, tuple[str, ...]] = {
    "ConvertToUpsampleBilinear2d": ("index.Tensor",),
    "FuseBatchNormPass": ("batch_norm",),
    "DecomposeBatchNorm": ("batch_norm",),
    "PReLUReshapePass": ("prelu",),
    "InsertPadQDQPass": ("quantize",),
    "PropagateCustomMetaPass": ("quantize",),
    "RemoveGetItemPass": ("getitem", "max"),
    "ConvertToSDPAPass": ("mul.Scalar",),
}
"""What the name of some operator must hold for a pass of ExecuTorch's XNNPACK backend to have work."""


def needed_passes(passes: list[Any], graph: Any) -> list[Any]:
    """The XNNPACK passes that can match something in the graph; each pass traces the whole graph again."""
    calls = [(str(node.target), node) for node in graph.nodes if node.op == "call_function"]

    def needed(name: str) -> bool:
        if name == "DecomposeConcatenate":
            return any("cat.default" in called and len(node.args[0]) > 5 for called, node in calls)
        if name == "Conv1dUnsqueezePass":
            return any("convolution" in called and node.meta["val"].dim() == 3 for called, node in calls)
        words = _PASS_NEEDS.get(name)
        return words is None or any(word in called for word in words for called, _ in calls)

    return [one for one in passes if needed(one.__name__)]


@contextmanager
def pruned_xnnpack_passes() -> Iterator[None]:
    """Context manager: ExecuTorch's XNNPACK backend runs only the passes that can match."""
    from executorch.backends.xnnpack._passes import XNNPACKPassManager

    plain = XNNPACKPassManager.__init__

    def pruned(self: Any, exported_program: Any, passes: Any = None) -> None:
        plain(self, exported_program, passes)
        self.passes = needed_passes(self.passes, exported_program.graph)

    with patch.object(XNNPACKPassManager, "__init__", pruned):
        yield
