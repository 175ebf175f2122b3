"""A certificate that this computer signs for itself, for one session: a browser asks once whether to trust it."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from edgevit.errors import MissingDependency

_VALID = datetime.timedelta(days=2)


def self_signed(names: list[str], folder: Path) -> tuple[Path, Path]:
    """Write a certificate and its key for host names and addresses.

    Args:
        names: of this computer; the first is the subject.
        folder: an existing one that only its owner can read.

    Raises:
        MissingDependency: cryptography is not installed.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError as error:
        raise MissingDependency("cryptography", "HTTPS for browsers", extra="browser") from error
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"edgevit on {names[0]}"[:64])])
    now = datetime.datetime.now(datetime.UTC)
    entries: list[x509.GeneralName] = []
    for one in names:
        try:
            entries.append(x509.IPAddress(ipaddress.ip_address(one)))
        except ValueError:
            entries.append(x509.DNSName(one))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + _VALID)
        .add_extension(x509.SubjectAlternativeName(entries), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, secret = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.touch(mode=0o600)
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate, secret
