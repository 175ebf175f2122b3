"""Whether this process is edgevit's own, and what only then may be touched: output streams and the environment."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_own_process = False


def claim_process() -> None:
    """Say that this process is edgevit's own, as the command line and the workers are.

    Only then is what belongs to the whole process touched: where native code prints, and the environment. In a
    program that imports edgevit, other threads print too.
    """
    global _own_process
    _own_process = True


def owns_process() -> bool:
    """Whether `claim_process` was called."""
    return _own_process


@contextmanager
def silenced() -> Iterator[None]:
    """In edgevit's own process, send what native code prints while a runtime starts to nowhere.

    Python's errors still arrive. In a host's process nothing is redirected.
    """
    if not _own_process:
        yield
        return
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [(fd, os.dup(fd)) for fd in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for fd, _ in kept:
            os.dup2(nowhere, fd)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.close(nowhere)
        for fd, copy in kept:
            os.dup2(copy, fd)
            os.close(copy)
