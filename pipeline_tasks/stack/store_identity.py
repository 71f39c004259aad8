"""The one certificate with which the parts of the object store know each other; who has none is refused by each."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Mapping
from pathlib import Path

HOSTS = ("localhost", "s3")  # `s3` is the store's name in docker-compose.yml
_GRPC_PARTS = ("MASTER", "VOLUME", "FILER", "S3", "ADMIN", "WORKER", "CLIENT")
_HTTPS_PARTS = ("MASTER", "VOLUME", "FILER", "ADMIN", "CLIENT")


def new_identity() -> str:
    """Return a private key and a certificate signed by itself, as PEM.

    Both sides of a connection show it and trust it alone, so no authority's key exists that could sign a second one.
    It never ends: a store that stops on a date protects nothing (99991231235959Z as in RFC 5280, 4.1.2.5).
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dethrone object store")])
    hosts = [*map(x509.DNSName, HOSTS), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(dt.datetime(2000, 1, 1, tzinfo=dt.UTC))  # a clock that is behind stops nothing
        .not_valid_after(dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC))
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return (private + certificate.public_bytes(serialization.Encoding.PEM)).decode().strip()


def identity_settings(path: Path) -> Mapping[str, str]:
    """Return the settings of SeaweedFS (security.toml, as environment) that close every port but S3's own.

    The file serves as certificate, key and only authority of gRPC and HTTP, on both sides.
    """
    parts = [f"GRPC_{part}" for part in _GRPC_PARTS] + [f"HTTPS_{part}" for part in _HTTPS_PARTS]
    files = [f"{part}_{what}" for part in parts for what in ("CERT", "KEY")]
    authorities = ["GRPC_CA", *(f"HTTPS_{part}_CA" for part in _HTTPS_PARTS)]
    return {f"WEED_{name}": str(path) for name in (*files, *authorities)} | {"WEED_HTTPS_CLIENT_ENABLED": "true"}
