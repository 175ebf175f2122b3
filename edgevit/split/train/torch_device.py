"""The torch device that sub-models are trained on: the CPU, or a GPU for the duration of a block.

Models live on the CPU and are cut there; only what takes long is moved. The same seed gives the same bytes on one kind
of processor, and other rounding on another.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from edgevit.errors import EnvironmentIncomplete, UsageError

if TYPE_CHECKING:
    from torch import nn

CPU = "cpu"


def check_name(device: str) -> None:
    """Refuse a string that names no torch device.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        UsageError: it is none of these.
    """
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise UsageError(f"{device!r} is no processor to train on", cure="--device cpu, cuda or cuda:1")


def require(device: str) -> None:
    """Refuse a torch device that this machine does not have.

    Raises:
        UsageError: it is no name of one.
        EnvironmentIncomplete: this machine's torch does not see it.
    """
    check_name(device)
    if device == CPU:
        return
    count = torch.cuda.device_count()
    if (torch.device(device).index or 0) >= count:
        raise EnvironmentIncomplete(
            f"there is no GPU {device} to train on",
            where=f"torch {torch.__version__} sees {count or 'none'}",
            cure="train on the CPU (--device cpu), or install a torch with CUDA",
        )


@contextmanager
def on(device: str, model: nn.Module) -> Iterator[None]:
    """Context manager: within it, a model is on a device.

    Raises:
        EnvironmentIncomplete: this machine's torch does not see it, or its memory does not suffice.
    """
    require(device)
    try:
        model.to(device)
        with _repeatable():
            yield
    except torch.OutOfMemoryError as error:
        raise EnvironmentIncomplete(
            f"the memory of {device} does not suffice",
            where=str(error).partition(". ")[0],
            cure="fewer sub-models at once (--jobs 1), or fewer pictures a step (--batch 16)",
        ) from error
    finally:
        model.to(CPU)


@contextmanager
def _repeatable() -> Iterator[None]:
    """Context manager: deterministic convolutions, whose sums are always taken in the same order."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before


def device_of(model: nn.Module) -> torch.device:
    """The torch device that a model is on."""
    return next(model.parameters()).device
