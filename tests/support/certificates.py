"""Certificates for TLS in tests: an authority, a server and a client that it has signed."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from pathlib import Path


class Authority(NamedTuple):
    """An authority: its certificate, the context of a server on 127.0.0.1, and the files of a client."""

    trusted: Path
    context: ssl.SSLContext
    client_cert: Path
    client_key: Path


def make_authority(home: Path, name: str) -> Authority:
    """Make an authority of this name, with its files in this directory."""
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = _certificate(name, name, ca_key, ca=True).sign(ca_key, hashes.SHA256())
    trusted = home / f"{name}.pem"
    trusted.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    files = {}
    for subject in ("server", "client"):
        key = ec.generate_private_key(ec.SECP256R1())
        san = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
        certificate = _certificate(subject, name, key, ca=False).add_extension(san, critical=False)
        certificate = certificate.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        cert_file, key_file = home / f"{name}-{subject}.pem", home / f"{name}-{subject}.key"
        cert_file.write_bytes(certificate.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        key_file.chmod(0o600)
        files[subject] = (cert_file, key_file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files["server"])
    return Authority(trusted, context, *files["client"])


def _certificate(subject: str, issuer: str, key: Any, *, ca: bool) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in (subject, issuer)]
    return (
        x509.CertificateBuilder(*reversed(names), key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
