"""Checks this machine's certificate before anything is dialled: readable, signed, right name, valid now.

The engine retries for ever and says nothing where a handshake is refused, so what can be known here is checked here.
"""

from __future__ import annotations

import datetime
import ipaddress
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgevit.errors import BadFile, MissingDependency
from edgevit.schema.plan import Fleet

SOON = datetime.timedelta(days=14)
"""What ends within this time is warned of: long enough for somebody who looks once a week to renew it."""
_CLOCK = "set this machine's clock, then start again: sudo timedatectl set-ntp true, or without a network sudo date -s"


@dataclass(frozen=True)
class Credentials:
    """A role's certificate that passed all checks.

    Attributes:
        name: of the role.
        path: of the file that ends first, the certificate or the authority.
        ends: end of its validity.
        renew: the command that makes new ones.
    """

    name: str
    path: Path
    ends: datetime.datetime
    renew: str

    def ended(self, now: datetime.datetime | None = None) -> bool:
        """Whether its validity is over."""
        return (now or clock()) >= self.ends

    def warning(self, now: datetime.datetime | None = None) -> str:
        """One line about a certificate that ends soon or has ended; empty for all others."""
        left = self.ends - (now or clock())
        if left > SOON:
            return ""
        if left <= datetime.timedelta(0):
            return f"{self.path} ended at {moment(self.ends)}: no connection is accepted any more; {self.renew}"
        amount = f"{left.days} day(s)" if left.days else f"{left.total_seconds() / 3600:.1f} hours"
        return f"{self.path} ends in {amount}, at {moment(self.ends)}; {self.renew}"


def clock() -> datetime.datetime:
    """The current time in UTC by this machine's clock, which decides whether a certificate is valid."""
    return datetime.datetime.now(datetime.UTC)


def moment(when: datetime.datetime) -> str:
    """A date and time as shown in messages."""
    return f"{when:%Y-%m-%d %H:%M} UTC"


def renewal(folder: Path, name: str, plan: Path | None) -> str:
    """The command that renews a role's files, and the machine to run it on."""
    which = shlex.quote(str(plan)) if plan else "PLAN"
    if (folder / "ca.key").is_file():
        return f"edgevit fleet certs {which} --out {shlex.quote(str(folder))} --renew"
    command = f"edgevit fleet certs {which} --out DIR --renew"
    return f"where DIR with ca.key is: {command}; then copy {name}.pem and {name}.key here"


def check_role(
    folder: Path, name: str, *, plan: Path | None = None, now: datetime.datetime | None = None
) -> Credentials:
    """Check the files of a role as the other side will.

    Args:
        folder: of the certificates.
        name: ``coordinator``, ``client`` or a member's.
        plan: what `edgevit fleet certs` takes, for the cure; None where it is not known.
        now: None for this machine's clock.

    Raises:
        MissingDependency: cryptography is not installed.
        BadFile: a file is missing or cannot be read, belongs to somebody else, or is not valid now.
    """
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise MissingDependency("cryptography", "certificates", extra="fleet") from error
    check_files(folder, name)
    authority, own = _certificate(folder / "ca.pem"), _certificate(folder / f"{name}.pem")
    _check_owner(folder, name, own, plan)
    _check_key(folder, name, own, plan)
    _check_issuer(folder, name, own, authority)
    now = now or clock()
    renew = renewal(folder, name, plan)
    _check_dates(folder / f"{name}.pem", own, now, renew)
    _check_dates(folder / "ca.pem", authority, now, new_authority(plan))
    first = min((own, folder / f"{name}.pem", renew), (authority, folder / "ca.pem", new_authority(plan)), key=_end)
    return Credentials(name, first[1], first[0].not_valid_after_utc, first[2])


def _end(one: tuple[Any, Path, str]) -> datetime.datetime:
    return one[0].not_valid_after_utc


def new_authority(plan: Path | None) -> str:
    """The cure where the authority itself has expired: nothing that it signs is accepted."""
    which = shlex.quote(str(plan)) if plan else "PLAN"
    return f"edgevit fleet certs {which} --out new-certs makes a new authority; every device needs its new files"


def check_files(folder: Path, name: str) -> None:
    """Refuse a folder that lacks a role's files.

    Raises:
        BadFile: one is missing.
    """
    for leaf in ("ca.pem", f"{name}.pem", f"{name}.key"):
        if not (folder / leaf).is_file():
            raise BadFile(
                f"there is no {leaf} in {folder}",
                cure=f"edgevit fleet certs makes it; this role needs ca.pem, {name}.pem and {name}.key",
            )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        cure = f"let the user that runs edgevit read it: sudo chown $USER {shlex.quote(str(path))}"
        raise BadFile(f"{path.name} cannot be read: {error.strerror}", where=str(path), cure=cure) from error


def _certificate(path: Path) -> Any:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(_read(path))
    except ValueError as error:
        cure = "copy it again from the folder that `edgevit fleet certs` filled"
        raise BadFile(f"{path.name} is not a certificate", where=str(path), cure=cure) from error


def _check_owner(folder: Path, name: str, own: Any, plan: Path | None) -> None:
    from cryptography.x509.oid import NameOID

    subjects = [str(one.value) for one in own.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if subjects != [name]:
        raise BadFile(
            f"{name}.pem is the certificate of {', '.join(subjects) or 'nobody'}, not of {name}",
            where=str(folder / f"{name}.pem"),
            cure=f"copy {name}.pem and {name}.key from the folder that made them, or {renewal(folder, name, plan)}",
        )


def _check_key(folder: Path, name: str, own: Any, plan: Path | None) -> None:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    path = folder / f"{name}.key"
    try:
        key = serialization.load_pem_private_key(_read(path), None)
    except TypeError as error:
        cure = "nobody is there to type it when a device starts: " + renewal(folder, name, plan)
        raise BadFile(f"{path.name} is protected by a passphrase", where=str(path), cure=cure) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        cure = renewal(folder, name, plan)
        raise BadFile(f"{path.name} is not a private key", where=str(path), cure=cure) from error
    if key.public_key() != own.public_key():
        raise BadFile(
            f"{path.name} does not belong to {name}.pem: they were made at different times",
            where=str(path),
            cure=f"copy both from the same folder, or {renewal(folder, name, plan)}",
        )


def _check_issuer(folder: Path, name: str, own: Any, authority: Any) -> None:
    if not signed_by(own, authority):
        raise BadFile(
            f"{name}.pem was signed by another authority than the ca.pem beside it",
            where=str(folder),
            cure=f"copy ca.pem, {name}.pem and {name}.key from one folder: the one that the coordinator's come from",
        )


def signed_by(certificate: Any, authority: Any) -> bool:
    """Whether an authority signed a certificate."""
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _check_dates(path: Path, certificate: Any, now: datetime.datetime, renew: str) -> None:
    starts, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    here = f"this machine's clock says {moment(now)}"
    if now < starts:
        raise BadFile(
            f"{path.name} is not valid yet: most likely this machine's clock is wrong",
            where=f"{path}: valid from {moment(starts)}; {here}",
            cure=_CLOCK,
        )
    if now >= ends:
        raise BadFile(
            f"{path.name} is not valid any more",
            where=f"{path}: valid until {moment(ends)}; {here}",
            cure=f"if the clock is right, {renew}",
        )


def why_refused(folder: Path, name: str, now: datetime.datetime | None = None) -> str:
    """The reason why a member cannot connect, from a copy of its certificate; empty without a copy or a fault.

    The coordinator sees that a handshake failed and not whose it was; the folder that made the certificates often
    lies beside it.
    """
    path = folder / f"{name}.pem"
    if not path.is_file():
        return ""
    try:
        _check_issuer(folder, name, own := _certificate(path), _certificate(folder / "ca.pem"))
        _check_dates(path, own, now or clock(), "")
    except BadFile as error:
        return f"{error.message}, {error.where}"
    return ""


def not_covered(folder: Path, address: str) -> str:
    """The warning that the coordinator's certificate does not cover the host that members dial; else empty."""
    from cryptography import x509

    host = address.rpartition(":")[0].strip("[]")
    if is_wildcard(host):
        return ""
    certificate = _certificate(folder / "coordinator.pem")
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return f"coordinator.pem is for no host: members that dial {host} will refuse it"
    known = {str(one.value) for one in names}
    if host in known:
        return ""
    return f"coordinator.pem is for {', '.join(sorted(known))}: members that dial {host} will refuse it"


def is_wildcard(host: str) -> bool:
    """Whether a host stands for all addresses of a machine, so that nobody can dial it."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return host in ("", "*")


def certificate_host(fleet: Fleet) -> str:
    """The host of a fleet file that members dial, or an empty string for a wildcard address."""
    host = fleet.listen.rpartition(":")[0].strip("[]")
    return "" if is_wildcard(host) else host
