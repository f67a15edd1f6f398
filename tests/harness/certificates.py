"""Certificates made for a test, and connections that show them or do not."""

import socket
import ssl
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@dataclass
class Pair:
    """A private key and its certificate, as files."""

    key: Path
    certificate: Path


class Authority:
    """Signs certificates into the folder it lies in; `file` is its own certificate."""

    def __init__(self, folder: Path, name: str):
        self.folder, self.name = folder, name
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        builder = _builder(name, name, self._key, 365)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
        self.file = folder / f"{name}.crt"
        self.file.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def sign(self, name: str, names: list[str], *, days: int = 30, passphrase: bytes | None = None) -> Pair:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        builder = _builder(name, self.name, key, days)
        builder = builder.add_extension(x509.SubjectAlternativeName([_alternative(other) for other in names]), critical=False)
        usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        pair = Pair(self.folder / f"{name}.key", self.folder / f"{name}.crt")
        encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
        pair.key.touch(0o600)
        pair.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
        pair.certificate.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return pair


def _builder(name: str, issuer: str, key, days: int) -> x509.CertificateBuilder:
    now = datetime.now(timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=60))
        .not_valid_after(now + timedelta(days=days))
    )


def _alternative(name: str):
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def client(authorities: Path, pair: Pair | None = None) -> ssl.SSLContext:
    """A client that trusts these authorities, and shows a certificate if it has one."""
    context = ssl.create_default_context(cafile=str(authorities))
    if pair:
        context.load_cert_chain(pair.certificate, pair.key)
    return context


def ask(port: int, context: ssl.SSLContext | None, path: str = "/", *, host: str = "localhost", headers: str = "") -> bytes:
    """The whole answer to a GET, or nothing at all if the other side does not want to talk.

    With TLS 1.3 a client without a certificate learns only with the answer that it is refused.
    """
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
            stream = context.wrap_socket(plain, server_hostname=host) if context else plain
            stream.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n{headers}\r\n".encode())
            answer = b""
            while piece := stream.recv(65536):
                answer += piece
            return answer
    except (ssl.SSLError, ConnectionError):
        return b""


def status(answer: bytes) -> int | None:
    """The status of an answer of `ask`; None for no answer, or one that is not HTTP."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else None
