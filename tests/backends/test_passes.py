"""What a lowering leaves out changes nothing in the file, and comes back afterwards."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from executorch.backends.xnnpack._passes import XNNPACKPassManager
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from torch import nn
from torch.fx.traceback import NodeSource

from edgevit.backends.executorch.passes import needed_passes, pruned_xnnpack_passes
from edgevit.backends.process.provenance import without_provenance


class Everything(nn.Module):
    """Something for every pass that is left out where there is nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.conv = nn.Conv1d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.norm, self.slope = nn.BatchNorm2d(4), nn.PReLU(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.one(x.flatten(2)).reshape(1, 4, 2, -1)
        x = nn.functional.interpolate(x, size=(8, 8), mode="bilinear", align_corners=True)
        x = self.slope(self.norm(self.conv(nn.functional.pad(x, (1, 1, 1, 1)))))
        return torch.cat([x * step for step in range(6)], 1)


class Little(nn.Module):
    """A model on which most of the passes have nothing to do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(x).relu().mean((2, 3)))


def lowered(module: nn.Module, example: torch.Tensor) -> bytes:
    program = torch.export.export(module.eval(), (example,))
    return to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch().buffer


@pytest.mark.parametrize(("kind", "size"), [(Everything, (1, 3, 4, 5)), (Little, (1, 3, 8, 8))])
def test_the_file_is_the_same(kind: type[nn.Module], size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    module, example = kind(), torch.randn(size)
    plain = lowered(module, example)
    with without_provenance(), pruned_xnnpack_passes():
        lean = lowered(module, example)
    assert lean == plain


def test_everything_comes_back() -> None:
    before = NodeSource.__init__, XNNPACKPassManager.__init__
    with pytest.raises(ZeroDivisionError), without_provenance(), pruned_xnnpack_passes():
        _ = 1 / 0
    assert before == (NodeSource.__init__, XNNPACKPassManager.__init__)


def test_a_pass_of_which_nothing_is_known_stays() -> None:
    unknown = type("SomethingNew", (), {})
    batch_norm = type("FuseBatchNormPass", (), {})
    empty = SimpleNamespace(nodes=[])
    assert needed_passes([unknown, batch_norm], empty) == [unknown]
