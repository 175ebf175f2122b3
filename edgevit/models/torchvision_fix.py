"""Makes ``import torchvision`` work beside a CPU-only torch.

Some package indexes carry only the CUDA build of torchvision. Beside a CPU torch its compiled
library does not load, the operators that library would declare are missing, and the import dies
with ``operator torchvision::nms does not exist``. timm imports torchvision for its transforms,
none of which need those operators, so declaring their schemas is enough.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


@lru_cache(maxsize=1)
def fix_torchvision_import() -> Any:
    """Declare torchvision's detection operators, only where its own import fails.

    Returns:
        The `torch.library.Library` that must stay alive, or None where nothing was wrong.
    """
    import sys

    import torch

    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    else:
        return None
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        library.define(operator + _SIGNATURE)  # type: ignore[no-untyped-call]
    import torchvision  # noqa: F401

    return library
