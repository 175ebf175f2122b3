"""Training on a processor that is there, and on one that is not; the GPU's own tests need a GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from edgevit.errors import EnvironmentIncomplete, UsageError
from edgevit.split.jobs import Scratch
from edgevit.split.options import SplitOptions, equal_fleet
from edgevit.split.plan.preview import SplitSource, make_draft
from edgevit.split.run import split_model, sub_model_jobs
from edgevit.split.train.fine_tune import Schedule
from edgevit.split.train.importance import Score
from edgevit.split.train.submodel import SubModelJob
from edgevit.split.train.torch_device import check_name, on
from tests.conftest import cli, small_split

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")


def splitting(digits: Path, device: str, epochs: int) -> SplitOptions:
    given = small_split(digits)
    return replace(given, fleet=equal_fleet(2), between=1, last=Schedule(epochs), views=2, device=device)


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "CUDA", "mps", "", "cuda:0,1"])
def test_names_of_no_processor(device: str) -> None:
    with pytest.raises(UsageError, match="no processor"):
        check_name(device)


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1"])
def test_names(device: str) -> None:
    check_name(device)


@pytest.mark.parametrize(
    ("device", "said", "code"), [("cuda:99", "no GPU cuda:99", 5), ("gpu", "'gpu' is no processor", 2)]
)
def test_what_is_not_there_is_refused_before_anything_is_done(
    device: str, said: str, code: int, tmp_path: Path
) -> None:
    given = ["split", "deit_digits", "--parts", 2, "--keep", "1/3", "--data", "digits:train", "--device", device]
    done = cli(*given, "-o", tmp_path / "plan", env={"EDGEVIT_CACHE": str(tmp_path / "cache")})
    assert done.returncode == code
    assert said in done.stderr and "--device cpu" in done.stderr
    assert not any(tmp_path.iterdir())


def test_memory_that_does_not_suffice_is_told() -> None:
    model = torch.nn.Linear(2, 2)
    with pytest.raises(EnvironmentIncomplete, match="memory of cpu") as found, on("cpu", model):
        raise torch.OutOfMemoryError("Tried to allocate 2 GiB. GPU 0 has 1 GiB.")
    assert "--jobs 1" in str(found.value.cure) and "2 GiB" in str(found.value.where)


def test_convolutions_are_as_they_were_afterwards() -> None:
    before = torch.backends.cudnn.deterministic
    with on("cpu", torch.nn.Linear(2, 2)):
        assert torch.backends.cudnn.deterministic
    assert torch.backends.cudnn.deterministic == before


class StopsAt(Scratch):
    """Ends the work after so many epochs."""

    def tell(self, what: str, done: int, total: int) -> None:
        """Raises `InterruptedError`."""
        if what == "fine-tuning" and done == 2:
            raise InterruptedError("stopped")


def train(job: SubModelJob, folder: Path, *, stopped: bool = False) -> dict[str, NDArray[np.float32]]:
    """A sub-model's weights and features; trained in one go, or stopped inside the last stage and resumed."""
    work, out = folder / "work", folder / "out"
    work.mkdir(parents=True)
    out.mkdir()
    if stopped:
        with pytest.raises(InterruptedError):
            job.make(out, StopsAt(work, "run"))
        assert (work / "checkpoint.safetensors").exists()
    job.make(out, Scratch(work, "run"))
    return {**load_file(out / "model/model.safetensors"), "held": np.load(out / "held.npy")}


def assert_same(one: dict[str, NDArray[np.float32]], other: dict[str, NDArray[np.float32]]) -> None:
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


def first_job(options: SplitOptions) -> SubModelJob:
    source = SplitSource(options, lambda what, done, total: None)
    assert source.pool
    return sub_model_jobs(source, make_draft(source, Path()))[0]


@pytest.mark.usefixtures("own_processes")
@pytest.mark.parametrize(
    ("device", "score"), [("cpu", "fisher"), *(pytest.param("cuda", one, marks=on_gpu) for one in ("fisher", "kl"))]
)
def test_stopped_and_resumed_gives_the_same_bytes(device: str, score: Score, tmp_path: Path, few_digits: Path) -> None:
    job = first_job(replace(splitting(few_digits, device, 2), score=score))
    assert_same(train(job, tmp_path / "whole"), train(job, tmp_path / "stopped", stopped=True))


@on_gpu
@pytest.mark.usefixtures("own_processes")
def test_a_gpu_learns_what_a_cpu_does(tmp_path: Path, few_digits: Path) -> None:
    cpu, gpu = (split_model(splitting(few_digits, name, 6), tmp_path / name).accuracy.fused for name in ("cpu", "cuda"))
    assert cpu > 0.9
    assert gpu == pytest.approx(cpu, abs=0.03)
