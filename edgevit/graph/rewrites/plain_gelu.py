"""The tanh form of GELU written out: ExecuTorch and Core ML compute ``gelu(approximate="tanh")`` as the exact form.

Both lowerings drop the attribute (executorch 1.5.1, coremltools 9.0): up to 4.7e-4 a value, 1e-4 of the range of a
model's outputs. Exact within fp32 rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from edgevit.graph.fx import aten
from edgevit.graph.rewrites import Rewrite

_SCALE = math.sqrt(2 / math.pi)
_CUBIC = 0.044715  # both from Hendrycks and Gimpel, Gaussian Error Linear Units, 2016


def gelu(x: torch.Tensor, *, approximate: str = "none") -> torch.Tensor:
    """``0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`` where the tanh form is asked for."""
    if approximate != "tanh":
        return aten.gelu.default(x, approximate=approximate)
    inner = x * (x * x * (_SCALE * _CUBIC) + _SCALE)
    half = x * 0.5
    return half + half * torch.tanh(inner)


def rules() -> Mapping[Any, Callable[..., Any]]:
    """The replacement of `aten.gelu`, also of the form in place: nothing reads what it overwrites."""
    return {aten.gelu.default: gelu, aten.gelu_.default: gelu}


REWRITE = Rewrite(
    "plain_gelu",
    __doc__.splitlines()[0],
    order=107,
    backends=frozenset({"executorch", "coreml", "executorch-coreml"}),
    rules=rules,
)
