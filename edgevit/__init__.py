"""On-device deployment of vision transformers: export, quantize, verify, profile, run.

import edgevit

results = edgevit.export("tinyvit_digits", targets=["onnx", "litert"])
model = edgevit.load("build/tinyvit_digits/onnx-fp32")
model.predict("seven.png")[0].label
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgevit.api import (
        Deployed,
        compare,
        evaluate,
        export,
        find_hazards,
        list_models,
        load,
        new_app,
        open_fleet,
        profile,
        quantize,
        split_model,
        verify_bundle,
    )

__all__ = [
    "Deployed",
    "compare",
    "evaluate",
    "export",
    "find_hazards",
    "list_models",
    "load",
    "new_app",
    "open_fleet",
    "profile",
    "quantize",
    "split_model",
    "verify_bundle",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("edgevit.api"), name)
    raise AttributeError(f"module 'edgevit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
