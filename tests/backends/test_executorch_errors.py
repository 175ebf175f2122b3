"""What ExecuTorch says in numbers is told in words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from safetensors.numpy import save_file
from torch.nn import functional as F

from edgevit.backends.executorch.backend import cause, in_words
from edgevit.backends.process.job import ExchangeFiles, RunFacts, RunJob
from edgevit.backends.process.jobs import ProcessLimits, run_job
from edgevit.errors import ConversionFailed
from tests.graph.test_rewrites import Wrap


def test_an_error_number_becomes_a_word() -> None:
    said = in_words(RuntimeError("Failed to execute method forward, error: 0x12\nmore"))
    assert "argument that an operator does not take" in said
    assert "0x" not in said
    assert "more" not in said
    assert in_words(RuntimeError("error: 0x7f")) == "error: 0x7f"
    assert in_words(RuntimeError()) == "RuntimeError"


def test_the_operator_that_cannot_run_is_named(tmp_path: Path) -> None:
    """A file that ExecuTorch lowers and then refuses to run: `fold` ends in a padding of -1 that its kernel refuses."""
    x = torch.randn(1, 36, 16)
    program = torch.export.export(Wrap(lambda s, x: F.fold(x, (8, 8), 3, 1, 1, 2)).eval(), (x,))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    (tmp_path / "fold.pte").write_bytes(lowered.to_executorch().buffer)
    save_file({"inputs": x.numpy()}, tmp_path / "inputs")
    exchange = ExchangeFiles(inputs=tmp_path / "inputs", outputs=tmp_path / "outputs")
    job = RunJob(backend="executorch", file=tmp_path / "fold.pte", exchange=exchange)
    with pytest.raises(
        ConversionFailed, match="the operator constant_pad_nd says: Padding values must be non-negative"
    ):
        run_job(job, RunFacts, tmp_path, tmp_path / "log", ProcessLimits())


def test_no_cause_is_made_up() -> None:
    assert cause("") == ""
    assert cause("[x.cpp:1] Check failed (a): b\nValueError: in operator") == ""
    assert cause("in operator aten::add.out: 0x12") == "the operator add"
