"""Certificates for tests, from a throw-away CA."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from ostler_agent.credentials import HostCredentials
from ostler_common import pki
from ostler_common.identity import Identity, Kind
from ostler_common.tls import TlsFiles


class ThrowawayCa:
    """A certificate authority in a directory that signs on demand."""

    def __init__(self, directory: Path, name: str = "fleet") -> None:
        self.directory = directory
        self.ca = pki.CertificateAuthority.create(f"Ostler {name} CA")
        self.trust = directory / f"{name}-ca.pem"
        pki.write_public(self.trust, self.ca.certificate_pem)

    def issue(
        self,
        identity: Identity,
        *,
        trust: Path | None = None,
        lifetime: timedelta = timedelta(days=1),
        addresses: tuple[str, ...] = ("127.0.0.1", "localhost"),
    ) -> TlsFiles:
        """A certificate and its key in one file; trust: what the holder trusts, by default this CA."""
        key, csr = pki.new_key_and_csr(identity)
        certificate = self.ca.sign(csr, identity, lifetime, addresses)
        path = self.directory / f"{self.trust.stem}-{identity.kind}-{identity.name}.pem"
        pki.write_private(path, certificate + key)
        return TlsFiles(path, path, trust or self.trust)

    def host_credentials(
        self, host_id: str, address: str, crl_pem: bytes = b"", addresses: tuple[str, ...] = ("127.0.0.1", "localhost")
    ) -> HostCredentials:
        """What a host gets when it joins. address: of its agent; addresses: further names in its certificate."""
        own = self.issue(Identity(Kind.HOST, host_id), addresses=addresses).read()
        qemu = self.issue(Identity(Kind.QEMU, host_id), addresses=()).read()
        (certificate,), (qemu_certificate,) = pki.split_pem(own.certificate), pki.split_pem(qemu.certificate)
        return HostCredentials(
            certificate_pem=certificate,
            key_pem=own.key.replace(certificate, b""),
            qemu_certificate_pem=qemu_certificate,
            qemu_key_pem=qemu.key.replace(qemu_certificate, b""),
            ca_pem=own.trust,
            crl_pem=crl_pem,
            control_address="control:8440",
            address=address,
        )
