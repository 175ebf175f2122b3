"""`edgevit fleet certs`: an authority, and one certificate for each role of a fleet.

The common name is what the access lists match: ``coordinator``, ``client``, or a member's name.
"""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgevit.core.certificates import Issued, issue, read_issued
from edgevit.errors import BadFile
from edgevit.fleet.config import CLIENT, COORDINATOR, check_names
from edgevit.fleet.trust import SOON, certificate_host, clock, moment, signed_by
from edgevit.schema.plan import Fleet

AUTHORITY_DAYS = 3650
"""Ten years: the authority is never replaced in a folder, and no certificate outlives it."""
_EARLY = datetime.timedelta(days=31)
"""Valid from so long ago: a Raspberry Pi has no battery for a clock and starts with the hour of its last shutdown,
until the network tells it the time. One that was off for some weeks while its certificate was made is let in; nothing
is risked, as the key did not exist before."""


@dataclass(frozen=True)
class Certificate:
    """One certificate file and its validity.

    Attributes:
        name: the role or member.
        path: of the certificate; the key lies beside it.
        since: start of its validity.
        until: end of its validity.
        made: whether it was made by this call.
        note: one line that the user should read, or empty.
    """

    name: str
    path: Path
    since: datetime.datetime
    until: datetime.datetime
    made: bool
    note: str = ""


def make_certificates(
    fleet: Fleet,
    folder: Path,
    *,
    days: int = 365,
    renew: bool = False,
    hosts: Sequence[str] = (),
    now: datetime.datetime | None = None,
) -> list[Certificate]:
    """Make missing certificates: the authority, the coordinator, a client and every member.

    Certificates that are there stay, unless they could not be used or end within two weeks, or everything is to be
    renewed; the authority is never replaced, so that members with older certificates stay in the fleet. No
    certificate outlives the authority.

    Args:
        fleet: its members, and the host that the coordinator listens on.
        folder: for ``ca.pem``, ``ca.key``, and ``NAME.pem``, ``NAME.key`` for each.
        days: how long a certificate is valid.
        renew: make all certificates again.
        hosts: further names and addresses under which members dial the coordinator.
        now: the current time; None for this machine's clock.

    Raises:
        MissingDependency: cryptography is not installed.
        BadFile: the authority that is there cannot be read or is not valid now, or a certificate there is another's.
    """
    check_names(fleet)
    now = now or clock()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    authority, fresh = _authority(fleet, folder, now)
    roles = (COORDINATOR, CLIENT, *(member.name for member in fleet.member))
    for name in roles:
        _check_own(folder / f"{name}.pem", folder / f"{name}.key", authority, fresh)
    if fresh:
        authority.write(folder / "ca.pem", folder / "ca.key")
    found = [_listed("ca", folder, authority, fresh, days, now)]
    for name in roles:
        path, key = folder / f"{name}.pem", folder / f"{name}.key"
        names = _names(fleet, name, [*hosts, *_names_before(path)])
        kept = None if renew or fresh else _still_good(path, key, name, names, authority, now)
        issued = kept or issue(
            name,
            names,
            valid=datetime.timedelta(days=days),
            purpose="certificates",
            issuer=authority,
            early=_EARLY,
            now=now,
        )
        if kept is None:
            issued.write(path, key)
        found.append(_listed(name, folder, issued, kept is None, days, now))
    return found


def _names(fleet: Fleet, role: str, hosts: Sequence[str]) -> list[str]:
    """Host names and addresses that a role's certificate is valid for."""
    own = [certificate_host(fleet), *hosts] if role == COORDINATOR else []
    return [name for name in dict.fromkeys([role, "localhost", "127.0.0.1", *own]) if name]


def _names_before(path: Path) -> list[str]:
    """Host names and addresses of the existing certificate: a renewal keeps earlier ``--host`` values."""
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return []
    return [str(one.value) for one in found]


def _listed(name: str, folder: Path, issued: Issued, made: bool, days: int, now: datetime.datetime) -> Certificate:
    since, until = issued.certificate.not_valid_before_utc, issued.certificate.not_valid_after_utc
    note = ""
    if name == "ca":
        left = until - now
        if left < datetime.timedelta(days=days):
            note = (
                f"the authority ends at {moment(until)}, and with it every certificate: before that, another --out "
                "folder makes a new authority, and every device needs its new files"
            )
    elif until - now <= SOON:
        note = f"{name}.pem ends at {moment(until)}"
    return Certificate(name, folder / f"{name}.pem", since, until, made, note)


def _authority(fleet: Fleet, folder: Path, now: datetime.datetime) -> tuple[Issued, bool]:
    """The existing authority, or a new one that is not written yet."""
    certificate, key = folder / "ca.pem", folder / "ca.key"
    if certificate.is_file() != key.is_file():
        raise BadFile(
            "the folder has half an authority: of ca.pem and ca.key one is missing",
            where=str(folder),
            cure="bring the other back, or choose an empty --out folder and give every member its new files",
        )
    if certificate.is_file():
        try:
            there = read_issued(certificate, key)
        except (OSError, ValueError, TypeError) as error:
            cure = "choose an empty --out folder and give every device its new files"
            raise BadFile(f"the authority cannot be read: {error}", where=str(folder), cure=cure) from error
        _check_authority(there, folder, now)
        return there, False
    made = issue(
        f"edgevit {fleet.name} authority",
        [],
        valid=datetime.timedelta(days=AUTHORITY_DAYS),
        purpose="certificates",
        authority=True,
        early=_EARLY,
        now=now,
    )
    return made, True


def _check_authority(authority: Issued, folder: Path, now: datetime.datetime) -> None:
    """Refuse an authority whose signatures other machines would not accept."""
    since, until = authority.certificate.not_valid_before_utc, authority.certificate.not_valid_after_utc
    here = f"this machine's clock says {moment(now)}"
    if authority.key.public_key() != authority.certificate.public_key():
        cure = "bring the right ca.key back, or choose an empty --out folder and give every device its new files"
        raise BadFile("ca.key does not belong to ca.pem", where=str(folder), cure=cure)
    if now >= until:
        raise BadFile(
            "the authority is not valid any more: what it signs is refused everywhere",
            where=f"{folder / 'ca.pem'}: valid until {moment(until)}; {here}",
            cure="choose an empty --out folder for a new one and give every device its new files",
        )
    if now < since:
        raise BadFile(
            "the authority is not valid yet: most likely this machine's clock is wrong",
            where=f"{folder / 'ca.pem'}: valid from {moment(since)}; {here}",
            cure="set this machine's clock: sudo timedatectl set-ntp true",
        )


def _check_own(path: Path, key: Path, authority: Issued, fresh: bool) -> None:
    """Refuse to replace a certificate of another authority, or a key that existed before a fresh authority."""
    from cryptography import x509

    if not path.exists() and not (fresh and key.exists()):
        return
    try:
        ours = signed_by(x509.load_pem_x509_certificate(path.read_bytes()), authority.certificate)
    except (OSError, ValueError):
        ours = False
    if not ours:
        raise BadFile(
            f"{(path if path.exists() else key).name} is there and not of this authority; nothing was written",
            where=str(path.parent),
            cure=f"mv {shlex.quote(str(path.with_suffix('')))}.* elsewhere, or choose another --out folder",
        )


def _still_good(
    path: Path, key: Path, name: str, names: Sequence[str], authority: Issued, now: datetime.datetime
) -> Issued | None:
    """The existing certificate, if the other side would accept it and it does not end soon."""
    from cryptography import x509

    try:
        kept = read_issued(path, key)
        alternatives = kept.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, TypeError, x509.ExtensionNotFound):
        return None
    certificate = kept.certificate
    right = (
        signed_by(certificate, authority.certificate)
        and kept.key.public_key() == certificate.public_key()
        and certificate.subject.rfc4514_string() == f"CN={name}"
        and set(names) <= {str(one.value) for one in alternatives}
        and certificate.not_valid_before_utc <= now
    )
    return kept if right and certificate.not_valid_after_utc - now > SOON else None
