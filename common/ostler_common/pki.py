"""Keys, certificate requests, certificates, revocation lists: ECDSA P-256 throughout.

A certificate's subject is `O=Ostler hosts|qemu|control|users, CN=<name>`; its identity is the URI SAN `ostler://KIND/NAME`.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ostler_common.identity import Identity, Kind

ORGANIZATION = {
    Kind.HOST: "Ostler hosts",
    Kind.QEMU: "Ostler qemu",
    Kind.CONTROL: "Ostler control",
    Kind.USER: "Ostler users",
}
_DOMAIN = "ostler.internal"  # names that only identities have
CONTROL_SERVER_NAME = f"control.{_DOMAIN}"
_CLOCK_SKEW = timedelta(minutes=5)
_PEM_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n?", re.DOTALL)


def host_server_name(host_id: str) -> str:
    """The DNS SAN by which a host's agent is verified, whatever address it is reached at."""
    return f"{host_id}.host.{_DOMAIN}"


def qemu_server_name(host_id: str) -> str:
    """The DNS SAN by which a host's QEMU is verified by the QEMU that sends to it."""
    return f"{host_id}.qemu.{_DOMAIN}"


def new_key_and_csr(identity: Identity | None) -> tuple[bytes, bytes]:
    """A fresh key and a request signed with it, both PEM. identity None: not known yet, the CA decides."""
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(_subject(identity) if identity else x509.Name([]))
    return _key_pem(key), csr.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def expires(certificate_pem: bytes) -> datetime:
    """When the certificate ends (UTC)."""
    return x509.load_pem_x509_certificate(certificate_pem).not_valid_after_utc


def renew_at(certificate_pem: bytes) -> datetime:
    """When one third of the certificate's lifetime is left (UTC)."""
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    end = certificate.not_valid_after_utc
    return end - (end - certificate.not_valid_before_utc) / 3


def fingerprint(certificate_pem: bytes) -> str:
    """SHA-256 over the certificate's DER form, lower-case hex."""
    return x509.load_pem_x509_certificate(certificate_pem).fingerprint(hashes.SHA256()).hex()


def split_pem(bundle: bytes) -> list[bytes]:
    """The certificates of a bundle, in order, without any private key beside them."""
    return _PEM_CERTIFICATE.findall(bundle)


@functools.lru_cache(maxsize=4096)  # a connection presents the same certificate with every call
def identity_and_serial(certificate_pem: bytes) -> tuple[Identity | None, int | None]:
    """Identity and serial of a certificate; an identity of None when it has no identity of ours, or more than one."""
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None, certificate.serial_number
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return (Identity.parse(uris[0]) if len(uris) == 1 else None), certificate.serial_number


def check_pair(certificate_pem: bytes, key_pem: bytes) -> None:
    """Raises ValueError unless the key is the certificate's."""
    key = serialization.load_pem_private_key(key_pem, password=None)
    if key.public_key() != x509.load_pem_x509_certificate(certificate_pem).public_key():
        raise ValueError("the private key does not belong to the certificate")


def check_issued(certificate_pem: bytes, ca_pem: bytes, now: datetime | None = None) -> None:
    """Raises ValueError unless the CA signed the certificate and it is valid at `now`."""
    certificate, ca = x509.load_pem_x509_certificate(certificate_pem), x509.load_pem_x509_certificate(ca_pem)
    try:
        certificate.verify_directly_issued_by(ca)
    except (InvalidSignature, TypeError, ValueError) as error:
        raise ValueError("the certificate is not signed by the CA") from error
    if not certificate.not_valid_before_utc <= (now or datetime.now(UTC)) < certificate.not_valid_after_utc:
        raise ValueError(f"the certificate is not valid now (it ends {certificate.not_valid_after_utc:%F %T} UTC)")


@functools.lru_cache(maxsize=16)
def revoked_serials(crl_pem: bytes) -> frozenset[int]:
    """The serials that a revocation list names; empty for an empty list."""
    if not crl_pem.strip():
        return frozenset()
    return frozenset(entry.serial_number for entry in x509.load_pem_x509_crl(crl_pem))


@dataclass(frozen=True, repr=False)
class CertificateAuthority:
    """Signs certificates. It keeps no record of them: its owner does."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, name: str, lifetime: timedelta = timedelta(days=3650)) -> CertificateAuthority:
        """A new self-signed CA. It can sign parties only, not further CAs."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _certificate(subject, subject, key.public_key(), lifetime)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
        return cls(builder.sign(key, hashes.SHA256()), key)

    @classmethod
    def load(cls, certificate_pem: bytes, key_pem: bytes) -> CertificateAuthority:
        """Raises ValueError when the two do not belong together."""
        check_pair(certificate_pem, key_pem)
        key = serialization.load_pem_private_key(key_pem, password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("a CA's key must be an ECDSA key")
        return cls(x509.load_pem_x509_certificate(certificate_pem), key)

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return _key_pem(self.key)

    def sign(
        self,
        csr_pem: bytes,
        identity: Identity,
        lifetime: timedelta,
        addresses: Sequence[str] = (),
        start: datetime | None = None,
    ) -> bytes:
        """A certificate for `identity` and the request's key, PEM; all else in the request is ignored.

        addresses: further names that the holder is reached at (IP addresses or DNS names), for libvirt.
        start: beginning of the lifetime; default five minutes ago for clocks that differ, so that less than that is no
        life at all. Raises ValueError when the request is not one, is not signed by its key, the key is not ECDSA
        P-256, or an address is a name that identities have.
        """
        csr = x509.load_pem_x509_csr(csr_pem)
        key = csr.public_key()
        if not csr.is_signature_valid:
            raise ValueError("the certificate request is not signed by its own key")
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
            raise ValueError("the certificate request's key is not ECDSA P-256")
        builder = _certificate(_subject(identity), self.certificate.subject, key, lifetime, start)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if identity.kind is not Kind.USER:
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        names = x509.SubjectAlternativeName(_alternative_names(identity, addresses))
        builder = builder.add_extension(names, critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = builder.add_extension(issuer, critical=False)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def crl(self, revoked: Iterable[tuple[int, datetime]], number: int) -> bytes:
        """A revocation list, PEM. revoked: serials and when; number: higher than that of every list before.

        It stays valid for ten years: it is pushed when it changes, and GnuTLS (libvirt, QEMU) refuses every
        certificate once a list is out of date.
        """
        now = datetime.now(UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject)
        builder = builder.last_update(now - _CLOCK_SKEW).next_update(now + timedelta(days=3650))
        builder = builder.add_extension(x509.CRLNumber(number), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = builder.add_extension(issuer, critical=False)
        for serial, when in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(when)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def write_private(path: Path, data: bytes) -> None:
    """Replaces a file whole, readable by its owner only; after a crash it holds the old content or the new."""
    replace_file(path, data, 0o600)


def write_public(path: Path, data: bytes) -> None:
    """Replaces a file whole, readable by all."""
    replace_file(path, data, 0o644)


def replace_file(path: Path, data: bytes, mode: int, group: int = -1) -> bool:
    """Replaces a file whole unless it holds the data already; returns whether it did. Sets mode and group anyway."""
    try:
        if path.read_bytes() == data:
            os.chown(path, -1, group)
            path.chmod(mode)
            return False
    except FileNotFoundError:
        pass
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600 from the start
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            os.fchown(file.fileno(), -1, group)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return True


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _subject(identity: Identity) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION[identity.kind]),
            x509.NameAttribute(NameOID.COMMON_NAME, identity.name),
        ]
    )


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    lifetime: timedelta,
    start: datetime | None = None,
) -> x509.CertificateBuilder:
    begin = start or datetime.now(UTC) - _CLOCK_SKEW
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(begin).not_valid_after(begin + lifetime)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=not signs_certificates,  # libvirt refuses a certificate without it
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative_names(identity: Identity, addresses: Sequence[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity.uri())]
    if identity.kind is Kind.HOST:
        names.append(x509.DNSName(host_server_name(identity.name)))
    elif identity.kind is Kind.CONTROL:
        names.append(x509.DNSName(CONTROL_SERVER_NAME))
    elif identity.kind is Kind.QEMU:
        names.append(x509.DNSName(qemu_server_name(identity.name)))
    for address in dict.fromkeys(addresses):
        if f".{address.lower()}".endswith(f".{_DOMAIN}"):
            raise ValueError(f"{address} cannot be the address of a certificate's holder")
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(address)))
        except ValueError:
            names.append(x509.DNSName(address))
    return names
