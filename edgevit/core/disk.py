"""Recognises a full disk wherever it shows: in Python, a native library, or a process that crashed."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgevit.errors import EdgevitError, EnvironmentIncomplete, UsageError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_SAYS_FULL = re.compile(
    r"no space left on device|disk quota exceeded|\bENOSPC\b|errno 28\b|code: 28\b|os error 28\b|StorageFull|"
    r"PytorchStreamWriter failed writing|\d+ requested and \d+ written",
    re.IGNORECASE,
)
"""How safetensors, NumPy, torch and C libraries say it, without the number that Python's own errors have."""
_UNWRITABLE = (
    errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOTEMPTY,
    errno.ENAMETOOLONG,
)  # fmt: skip
_NO_SPACE = 1 << 20
"""Bytes; who crashed beside less than that has run out of it."""


def disk_full(where: Path | str) -> EnvironmentIncomplete:
    """The error for a disk without free space."""
    return EnvironmentIncomplete("the disk is full", where=str(where), cure="free some space or choose another -o DIR")


def says_disk_full(text: str) -> bool:
    """Whether a message or a log is about a full disk."""
    return bool(_SAYS_FULL.search(text))


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or its cause, means a full disk or an exhausted quota."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if not isinstance(error, EdgevitError) and says_disk_full(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def has_no_space(folder: Path) -> bool:
    """Whether almost no space is free on the disk of a folder."""
    with suppress(OSError):
        return shutil.disk_usage(folder).free < _NO_SPACE
    return False


@contextmanager
def explained_disk_errors(where: Path) -> Iterator[None]:
    """Context manager: turns a full or read-only disk into one clear error.

    Raises:
        EnvironmentIncomplete: the disk is full.
        UsageError: the output cannot be written there.
    """
    try:
        yield
    except EdgevitError:
        raise
    except Exception as error:
        if is_disk_full(error):
            raise disk_full(where) from error
        if isinstance(error, OSError) and error.errno in _UNWRITABLE:
            raise UsageError(
                f"the output cannot be written: {error.strerror}", where=str(where), cure="choose another -o DIR"
            ) from error
        raise
