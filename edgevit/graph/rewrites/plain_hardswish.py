"""Hard swish written out in half precision: XNNPACK's own fp16 kernel is up to 16 units in the last place off.

It multiplies by 1/6 rounded to fp16, which is 2.4e-4 too small, before it adds 1/2, so every answer is off to the same
side (executorch 1.5.1: LeViT by 1.1 % of its range, where rounding alone does 0.3 %). A division by 6 is exact, and
``relu6(x + 3) / 6`` keeps the full precision near its two ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from edgevit.graph.fx import aten
from edgevit.graph.rewrites import Rewrite


def hardswish(x: torch.Tensor) -> torch.Tensor:
    """``x * relu6(x + 3) / 6``, any shape; the operator itself where x is not in half precision."""
    if x.dtype != torch.float16:
        return aten.hardswish.default(x)
    three, six = (torch.tensor(value, dtype=x.dtype) for value in (3.0, 6.0))
    return x * (aten.clamp.default(x + three, 0, 6) / six)


def rules() -> Mapping[Any, Callable[..., Any]]:
    """The replacement of `aten.hardswish`, also of the form in place: nothing reads what it overwrites."""
    return {aten.hardswish.default: hardswish, aten.hardswish_.default: hardswish}


REWRITE = Rewrite(
    "plain_hardswish",
    __doc__.splitlines()[0],
    order=106,
    backends=frozenset({"executorch"}),
    rules=rules,
    full=False,
)
