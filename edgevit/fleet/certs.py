"""`edgevit fleet certs`: an authority, and one certificate for each role of a fleet.

The common name is what the access lists match: ``coordinator``, ``client``, or a member's name.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from edgevit.core.certificates import Issued, issue, read_issued
from edgevit.core.plan import Fleet
from edgevit.errors import BadFile
from edgevit.fleet.config import CLIENT, COORDINATOR, check_names

_AUTHORITY_DAYS = 3650
_SOON_DAYS = 14


@dataclass(frozen=True)
class Certificate:
    """One file of the folder.

    Attributes:
        name: the role or member.
        path: of the certificate; the key lies beside it.
        until: when it ends.
        made: whether it was made now.
    """

    name: str
    path: Path
    until: datetime.datetime
    made: bool


def make_certificates(fleet: Fleet, folder: Path, *, days: int = 365, renew: bool = False) -> list[Certificate]:
    """Make what is missing: the authority, the coordinator, a client and every member.

    Certificates that are there stay, unless they end within two weeks or everything is to be renewed; the authority
    is never replaced, so that members with older certificates stay in the fleet.

    Args:
        fleet: its members, and the host that the coordinator listens on.
        folder: for ``ca.pem``, ``ca.key``, and ``NAME.pem``, ``NAME.key`` for each.
        days: how long a certificate is valid.
        renew: make all certificates again.

    Raises:
        MissingDependency: cryptography is not installed.
        BadFile: the authority that is there cannot be read.
    """
    check_names(fleet)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    authority, fresh = _authority(fleet, folder)
    names = (COORDINATOR, CLIENT, *(member.name for member in fleet.member))
    for name in names:
        _check_own(folder / f"{name}.pem", folder / f"{name}.key", authority)
    if fresh:
        authority.write(folder / "ca.pem", folder / "ca.key")
    found = [Certificate("ca", folder / "ca.pem", authority.certificate.not_valid_after_utc, fresh)]
    host = fleet.listen.rpartition(":")[0].strip("[]")
    for name in names:
        path, key = folder / f"{name}.pem", folder / f"{name}.key"
        kept = None if renew or fresh else _still_good(path, key, authority)
        made = kept or issue(
            name,
            list(dict.fromkeys([name, "localhost", "127.0.0.1", *([host] if name == COORDINATOR else [])])),
            valid=datetime.timedelta(days=days),
            purpose="certificates",
            issuer=authority,
        )
        if kept is None:
            made.write(path, key)
        found.append(Certificate(name, path, made.certificate.not_valid_after_utc, kept is None))
    return found


def _authority(fleet: Fleet, folder: Path) -> tuple[Issued, bool]:
    certificate, key = folder / "ca.pem", folder / "ca.key"
    if certificate.is_file() != key.is_file():
        raise BadFile(
            "the folder has half an authority: of ca.pem and ca.key one is missing",
            where=str(folder),
            cure="bring the other back, or choose an empty --out folder and give every member its new files",
        )
    if certificate.is_file():
        try:
            return read_issued(certificate, key), False
        except (ValueError, TypeError) as error:
            raise BadFile(f"the authority cannot be read: {error}", where=str(folder)) from error
    made = issue(
        f"edgevit {fleet.name} authority",
        [],
        valid=datetime.timedelta(days=_AUTHORITY_DAYS),
        purpose="certificates",
        authority=True,
    )
    return made, True


def _read_own(path: Path, key: Path, authority: Issued) -> Issued | None:
    """The certificate and key that are there, where they are a pair of this authority's."""
    from cryptography.exceptions import InvalidSignature

    try:
        kept = read_issued(path, key)
        kept.certificate.verify_directly_issued_by(authority.certificate)
    except (OSError, ValueError, TypeError, InvalidSignature):
        return None
    return kept


def _check_own(path: Path, key: Path, authority: Issued) -> None:
    """Refuse to replace a certificate or a key that this authority did not issue: a lost key cannot be made again."""
    if (path.exists() or key.exists()) and _read_own(path, key, authority) is None:
        raise BadFile(
            f"{(key if key.exists() else path).name} is there and not of this authority; nothing was written",
            where=str(path.parent),
            cure=f"mv {path.with_suffix('')}.* elsewhere, or choose another --out folder",
        )


def _still_good(path: Path, key: Path, authority: Issued) -> Issued | None:
    """The certificate that is there, where it is this authority's and not about to end."""
    kept = _read_own(path, key, authority)
    if kept is None:
        return None
    left = kept.certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    return kept if left > datetime.timedelta(days=_SOON_DAYS) else None
