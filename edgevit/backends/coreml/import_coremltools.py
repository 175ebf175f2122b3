"""Imports coremltools without the optional packages that a conversion from PyTorch does not use.

Its import tries scikit-learn, transformers, executorch and torchao, which takes three quarters of its time.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_UNUSED = ("sklearn", "transformers", "executorch", "torchao")


@contextmanager
def _unseen(names: tuple[str, ...]) -> Iterator[None]:
    """Context manager: imports of packages that are not loaded yet fail as if they were not installed."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is how Python marks them
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)


with _unseen(_UNUSED):
    import coremltools  # noqa: F401
