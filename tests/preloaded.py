"""What the server of `tests.forked` imports once."""

# ruff: noqa: F401, E402 - the mend goes first
# mypy: ignore-errors

from edgevit.models.mend import mend_torchvision

mend_torchvision()

import onnxruntime
import sklearn.datasets
import timm
import torch._dynamo
import torch.export

import tests.forked
