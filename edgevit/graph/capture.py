"""Captures a model once with `torch.export`: the program that every backend starts from."""

from __future__ import annotations

import copy
import threading
import warnings
from typing import TYPE_CHECKING

import torch
from torch import nn

from edgevit.errors import UsageError
from edgevit.graph.fx import has_plain_order, in_plain_order

if TYPE_CHECKING:
    from torch.export import ExportedProgram


_ONE_AT_A_TIME = threading.Lock()
"""`torch.export` keeps its state in globals; two threads may export two models."""


def reparameterize(model: nn.Module) -> nn.Module:
    """Merge the parallel training branches of RepVGG-style blocks (RepViT, FastViT, MobileOne).

    Uses timm's own `reparameterize_model`, on a copy: the model passed in is left as it was.
    """
    from edgevit.models.torchvision_fix import fix_torchvision_import

    fix_torchvision_import()
    from timm.utils.model import reparameterize_model

    return reparameterize_model(model.eval(), inplace=False)


@torch.no_grad()
def in_plain_memory(module: nn.Module) -> nn.Module:
    """Make every parameter and buffer contiguous (last axis fastest), in place; shared tensors stay shared.

    ExecuTorch reads the bytes of a permuted or channels-last weight as if it were neither, without an error.
    """
    for value in (*module.parameters(), *module.buffers()):
        if not has_plain_order(value):
            value.data = in_plain_order(value)
    return module


def capture(model: nn.Module, size: tuple[int, int]) -> ExportedProgram:
    """Capture a classifier on a normalised float image.

    Args:
        model: maps float32 [1, 3, H, W] to logits [1, classes].
        size: (H, W) in pixels.

    Returns:
        The program in ATen operators, before any rewrite.

    Raises:
        UsageError: the architecture cannot take an input of that size.
    """
    module = in_plain_memory(reparameterize(copy.deepcopy(model)).requires_grad_(False))
    example = torch.zeros(1, 3, *size)
    try:
        with torch.no_grad():
            module(example)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UsageError(
            f"the architecture cannot take an input of {size[0]}x{size[1]}",
            where=str(error).splitlines()[0][:300],
            cure="leave --size out to use the size the model was made for",
        ) from error
    with _ONE_AT_A_TIME, torch.no_grad(), warnings.catch_warnings():
        # An LSTM rebuilds its list of flat weights at every call; nothing of it is lost.
        warnings.filterwarnings("ignore", message=r"(?s).*were assigned during export")
        program = torch.export.export(module, (example,), strict=False)
    for name, value in program.constants.items():
        if isinstance(value, torch.Tensor) and not has_plain_order(value):
            program.constants[name] = in_plain_order(value)
    return program
