"""What `inspect` says of where operators run: against torch's own count, and against what the runtimes do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgevit.backends.base import find_backend
from edgevit.schema.placement import Placed, Placement, gathered
from tests.conftest import Exported, cli, cli_json


class Plain(nn.Module):
    """Layers of every kind that counts, and a lookup and a norm that XNNPACK does not take."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.LayerNorm(8)
        self.query, self.key = nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.head = nn.Linear(8, 10)
        self.table, self.index = nn.Parameter(torch.randn(4, 40)), torch.randint(40, (64, 64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.depthwise(self.conv(x)).flatten(2).transpose(1, 2))
        query, key = (layer(x).unflatten(-1, (4, 2)).transpose(1, 2) for layer in (self.query, self.key))
        scores = (query @ key.transpose(-2, -1) + self.table[:, self.index]).softmax(-1)
        return self.head((scores @ query).transpose(1, 2).flatten(2).mean(1))


def plain_file(suffix: str, folder: Path) -> Path:
    """The toolchain's own export of the model."""
    module, example, path = Plain().eval(), torch.randn(1, 3, 16, 16), folder / f"plain{suffix}"
    if suffix == ".pte":
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        program = torch.export.export(module, (example,))
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        path.write_bytes(lowered.to_executorch().buffer)
    elif suffix == ".onnx":
        torch.onnx.export(module, (example,), str(path), dynamo=True, external_data=False, verbose=False)
    else:
        import litert_torch

        litert_torch.convert(module, (example,)).export(str(path))
    return path


def counted() -> int:
    """Multiply-accumulates as torch counts them."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        Plain().eval()(torch.randn(1, 3, 16, 16))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(("name", "suffix"), [("executorch", ".pte"), ("litert", ".tflite"), ("onnx", ".onnx")])
def test_a_plain_export_is_placed(tmp_path: Path, name: str, suffix: str) -> None:
    placement = find_backend(name).placement(plain_file(suffix, tmp_path))
    assert placement is not None
    assert placement.macs == counted()
    outside = {one.operator: one for one in placement.operators if not one.delegated}
    if name == "executorch":
        assert {"native_layer_norm", "index"} <= set(outside)
        assert outside["index"].why == "XNNPACK has no lookup"
        assert placement.delegates > 2
    assert all(one.why and one.place != "XNNPACK" for one in outside.values())
    assert placement.delegated_share is not None
    assert placement.delegated_share > 0.9


def test_ours_is_one_piece(exported: Exported) -> None:
    bundle = exported("tinyvit_digits", "executorch")
    document = cli_json("inspect", bundle)["placement"]
    assert isinstance(document, dict)
    assert document["delegates"] == 1
    assert document["delegated_share"] == 1.0
    outside = {one["operator"] for one in document["operators"] if not one["delegated"]}
    assert outside <= {"permute_copy", "_to_dim_order_copy"}
    manifest = cli_json("inspect", bundle)["manifest"]
    assert isinstance(manifest, dict)
    assert manifest["lowering"]["delegated_share"] == 1.0


def test_inspect_says_why(tmp_path: Path) -> None:
    shown = cli("inspect", plain_file(".pte", tmp_path)).stdout
    assert "XNNPACK has no LayerNorm" in shown
    assert "multiply-accumulates" in shown


def test_the_core_ml_device_decides_later(exported: Exported) -> None:
    assert cli_json("inspect", exported("tinyvit_digits", "coreml"))["placement"] is None


def test_equal_operators_are_one_row() -> None:
    placement = gathered(
        [Placed("bmm", "A", True, macs=3), Placed("bmm", "A", True, macs=4), Placed("x", "B", False)], 1
    )
    assert placement == Placement((Placed("x", "B", False), Placed("bmm", "A", True, count=2, macs=7)), 1)
    assert placement.delegated_share == 1.0
    assert Placement((), 0).delegated_share is None
