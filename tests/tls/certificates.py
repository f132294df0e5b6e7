"""Certificates made for a test."""

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NAME = "jobd.example"


class Certificate:
    """A certificate, and the key that belongs to it; signed by itself, or by an issuer."""

    def __init__(self, issuer: "Certificate | None" = None, *, name: str = NAME, is_ca: bool = False) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} {id(self)}")])
        now = datetime.datetime.now(datetime.UTC)
        names = x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        made = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(issuer._name if issuer else self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(names, critical=False)
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .sign((issuer or self)._key, hashes.SHA256())
        )
        self.pem = made.public_bytes(serialization.Encoding.PEM).decode()

    def key(self, password: bytes = b"") -> str:
        how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        kind = serialization.PrivateFormat.PKCS8
        return self._key.private_bytes(serialization.Encoding.PEM, kind, how).decode()

    def write(self, directory: Path) -> dict[str, str]:
        """The files of [tls]."""
        paths = {"certificate_file": directory / "tls.crt", "key_file": directory / "tls.key"}
        paths["certificate_file"].write_text(self.pem)
        paths["key_file"].write_text(self.key())
        return {name: str(path) for name, path in paths.items()}
