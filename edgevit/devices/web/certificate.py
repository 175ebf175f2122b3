"""A certificate that this computer signs for itself, for one session: a browser asks once whether to trust it."""

from __future__ import annotations

import datetime
from pathlib import Path

from edgevit.core.certificates import issue

_VALID = datetime.timedelta(days=2)
"""The certificate is for one session, so it ends soon."""


def self_signed(names: list[str], folder: Path) -> tuple[Path, Path]:
    """Write a certificate and its key for host names and addresses.

    Args:
        names: of this computer; the first is the subject.
        folder: an existing one that only its owner can read.

    Raises:
        MissingDependency: cryptography is not installed.
    """
    made = issue(f"edgevit on {names[0]}", names, valid=_VALID, purpose="HTTPS for browsers", extra="browser")
    certificate, secret = folder / "certificate.pem", folder / "key.pem"
    made.write(certificate, secret)
    return certificate, secret
