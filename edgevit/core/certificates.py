"""X.509 certificates: one that signs itself for a browser, or an authority and one leaf for each member of a fleet."""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgevit.errors import MissingDependency


@dataclass(frozen=True)
class Issued:
    """A certificate with its private key."""

    certificate: Any
    key: Any

    def write(self, certificate: Path, key: Path) -> None:
        """Write certificate and key as PEM, atomically; only the owner can read the key."""
        from cryptography.hazmat.primitives import serialization

        secret = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = self.certificate.public_bytes(serialization.Encoding.PEM)
        for path, data, mode in ((key, secret, 0o600), (certificate, public, 0o644)):
            _write_with_mode(path, data, mode)


def _write_with_mode(path: Path, data: bytes, mode: int) -> None:
    """Write a new file with its own mode: an old file that others may read must not receive a new key."""
    scratch = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            file.write(data)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def issue(
    subject: str,
    names: Sequence[str],
    *,
    valid: datetime.timedelta,
    purpose: str,
    extra: str = "fleet",
    issuer: Issued | None = None,
    authority: bool = False,
    early: datetime.timedelta = datetime.timedelta(hours=1),
    now: datetime.datetime | None = None,
) -> Issued:
    """Make a certificate with a fresh P-256 key.

    Args:
        subject: common name.
        names: host names and addresses that it is valid for.
        valid: end of validity, counted from now; never later than the issuer's own.
        purpose: what needs the certificate, for the error message.
        extra: the extra that installs cryptography, for the error message.
        issuer: the signing certificate; None for a self-signed one.
        authority: whether it may sign other certificates.
        early: how long before now its validity starts, for machines whose clocks are slow.
        now: None for this machine's clock.

    Raises:
        MissingDependency: cryptography is not installed.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID
    except ImportError as error:
        raise MissingDependency("cryptography", purpose, extra=extra) from error
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject[:64])])
    now = now or datetime.datetime.now(datetime.UTC)
    ends = now + valid
    if issuer is not None:
        ends = min(ends, issuer.certificate.not_valid_after_utc)
    # Where the issuer has ended, or the lifetime is negative: a certificate that was valid for no time that is left.
    starts = min(now - early, ends - datetime.timedelta(seconds=1))
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.certificate.subject if issuer else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(starts)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=0 if authority else None), critical=True)
        .add_extension(_usage(x509, authority), critical=True)
    )
    if names:
        entries = [_entry(x509, one) for one in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(entries), critical=False)
    if not authority:
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(both), critical=False)
    return Issued(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)


def _entry(x509: Any, name: str) -> Any:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(x509: Any, authority: bool) -> Any:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def read_issued(certificate: Path, key: Path) -> Issued:
    """Read the certificate and key that `Issued.write` wrote.

    Raises:
        ValueError: not PEM of that kind.
        OSError: it cannot be read.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    return Issued(
        x509.load_pem_x509_certificate(certificate.read_bytes()),
        serialization.load_pem_private_key(key.read_bytes(), None),
    )
