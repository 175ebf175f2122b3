"""Every error that edgevit raises on purpose.

```
EdgevitError                 exit 1   something inside edgevit is wrong
├── UsageError               exit 2   the request cannot be carried out as written
│   ├── UnknownName          exit 2   no model, target or option value of that name
│   ├── BadFile              exit 2   a file is missing, damaged, hostile or of another kind
│   └── WeightsMismatch      exit 2   a checkpoint does not fit the model
├── CheckFailed              exit 3   parity, hash or budget: the artifact is not good
├── ConversionFailed         exit 4   a toolchain failed, crashed or ran out of time or memory
├── EnvironmentIncomplete    exit 5   a package, a download or a disk the work needs is not there
│   └── MissingDependency    exit 5   a Python package is not installed
└── DeviceUnreachable        exit 6   the device did not answer
    └── DeviceFailed         exit 6   it answered, and cannot do what it was asked
```

An error says what was wrong, where, and what to do about it: `message`, `where`, `cure`.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class EdgevitError(Exception):
    """Base of all errors raised on purpose.

    Attributes:
        code: stable identifier for programs, e.g. ``E_USAGE``.
        exit_code: what the command line exits with.
        message: what was wrong, one line.
        where: the file, key or step, or an empty string.
        cure: what to do, preferably a command to type.
    """

    code = "E_INTERNAL"
    exit_code = 1

    def __init__(self, message: str, *, where: str = "", cure: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.cure = cure

    def __str__(self) -> str:
        return "\n".join(part for part in (self.message, self.where, self.cure) if part)


class UsageError(EdgevitError):
    """The request cannot be carried out as written."""

    code = "E_USAGE"
    exit_code = 2


class UnknownName(UsageError):
    """No such model, target or choice; the nearest names are offered."""

    code = "E_UNKNOWN_NAME"

    def __init__(self, kind: str, name: str, known: Iterable[str], *, listing: str = "") -> None:
        near = get_close_matches(name, list(known), n=4, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else ""
        cure = " ".join(part for part in (hint, f"({listing})" if listing else "") if part)
        super().__init__(f"unknown {kind} {name!r}", cure=cure)
        self.near = near


class BadFile(UsageError):
    """A file is missing, damaged, hostile or not what its name says."""

    code = "E_BAD_FILE"


class WeightsMismatch(UsageError):
    """A checkpoint's keys or shapes differ from the model's."""

    code = "E_WEIGHTS"


class CheckFailed(EdgevitError):
    """An artifact was checked and found wrong."""

    code = "E_CHECK"
    exit_code = 3


class ConversionFailed(EdgevitError):
    """A toolchain refused, crashed or exceeded its limits.

    Attributes:
        at_limit: it was ended for its time or memory; another try would be too.
    """

    code = "E_CONVERSION"
    exit_code = 4
    at_limit = False


class EnvironmentIncomplete(EdgevitError):
    """Something the work needs from the machine is not there."""

    code = "E_ENVIRONMENT"
    exit_code = 5


class MissingDependency(EnvironmentIncomplete):
    """A Python package that the work needs is not installed."""

    code = "E_MISSING"

    def __init__(self, package: str, purpose: str, *, extra: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package}, which is not installed",
            cure=f"pip install 'edgevit[{extra}]'",
        )


def import_failed(error: ImportError, package: str, purpose: str, *, extra: str) -> EnvironmentIncomplete:
    """The error for a package that could not be imported: missing, or installed and broken.

    Args:
        error: what the import raised.
        package: the distribution's name.
        purpose: what needs it, e.g. ``running .onnx files``.
        extra: of edgevit, that brings it.
    """
    from importlib import metadata

    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError:
        return MissingDependency(package, purpose, extra=extra)
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.replace("_", "-").startswith(package):
        return MissingDependency(package, purpose, extra=extra)
    message = (str(error).splitlines() or ["ImportError"])[0]
    return EnvironmentIncomplete(
        f"{purpose} needs the package {package}; {version} is installed and cannot be imported",
        where=message,
        cure=f"pip install --force-reinstall {package}",
    )


class DeviceUnreachable(EdgevitError):
    """The device did not answer."""

    code = "E_DEVICE"
    exit_code = 6


class DeviceFailed(DeviceUnreachable):
    """The device answered, but could not run the model: no runtime, no space, no memory, other instructions."""

    code = "E_DEVICE_FAILED"
