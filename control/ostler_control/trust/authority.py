"""The two certificate authorities of a fleet, and what they sign.

The fleet CA signs hosts, their QEMUs and the control plane; agents, libvirt and QEMU trust it alone, so that no user's
certificate can ever speak to them. The users CA signs users.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ostler_common import pki
from ostler_common.errors import FailedPreconditionError, InvalidArgumentError
from ostler_common.identity import Identity, Kind
from ostler_common.pki import CertificateAuthority

from ostler_control.state_dir import StateDir
from ostler_control.trust import certificates

# A certificate starts a little in the past, for clocks that differ; that would use up a very short lifetime.
_SHORT = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class Lifetimes:
    """How long certificates are valid."""

    host: datetime.timedelta = datetime.timedelta(days=7)
    control: datetime.timedelta = datetime.timedelta(days=30)
    user: datetime.timedelta = datetime.timedelta(days=365)

    def of(self, kind: Kind) -> datetime.timedelta:
        return {Kind.HOST: self.host, Kind.QEMU: self.host, Kind.CONTROL: self.control, Kind.USER: self.user}[kind]


class Authority:
    """Signs the certificates that the control plane issues and records them."""

    def __init__(self, fleet: CertificateAuthority, users: CertificateAuthority, lifetimes: Lifetimes) -> None:
        self._fleet = fleet
        self._users = users
        self._lifetimes = lifetimes

    @classmethod
    def load(cls, state: StateDir, lifetimes: Lifetimes) -> Authority:
        """Raises FailedPreconditionError when `ostler-control init` has not created the CAs."""
        return cls(_load(state.fleet_ca), _load(state.users_ca), lifetimes)

    @property
    def fleet_pem(self) -> bytes:
        """The fleet CA's certificate."""
        return self._fleet.certificate_pem

    @property
    def fleet_fingerprint(self) -> str:
        """SHA-256 of that certificate, hex."""
        return pki.fingerprint(self.fleet_pem)

    @property
    def callers_pem(self) -> bytes:
        """Both CAs' certificates."""
        return self._fleet.certificate_pem + self._users.certificate_pem

    def issue(self, csr_pem: bytes, identity: Identity, addresses: Sequence[str] = ()) -> bytes:
        """A certificate (PEM) for the request's key under `identity`, recorded as issued.

        Call it in the transaction that creates or changes the holder. addresses: names and IP addresses that a host is
        reached at. Raises InvalidArgumentError (BAD_CERTIFICATE_REQUEST).
        """
        ca, name = (
            (self._users, certificates.USERS) if identity.kind is Kind.USER else (self._fleet, certificates.FLEET)
        )
        lifetime = self._lifetimes.of(identity.kind)
        start = datetime.datetime.now(datetime.UTC) if lifetime < _SHORT else None
        try:
            pem = ca.sign(csr_pem, identity, lifetime, addresses, start)
        except ValueError as error:
            raise _bad_request(error) from error
        certificates.record(pem, name, identity)
        return pem

    def check_request(self, csr_pem: bytes) -> None:
        """Raises InvalidArgumentError (BAD_CERTIFICATE_REQUEST) for what `issue` would refuse."""
        try:
            self._users.sign(csr_pem, Identity(Kind.USER, "nobody"), _SHORT)  # only to see whether it could
        except ValueError as error:
            raise _bad_request(error) from error

    def fleet_crl(self) -> bytes:
        """The fleet CA's revocation list (PEM), empty when nothing is revoked."""
        revoked = certificates.revoked(certificates.FLEET)
        if not revoked:
            return b""
        # The time serves as the list's number: it grows without being stored.
        return self._fleet.crl(revoked, int(datetime.datetime.now(datetime.UTC).timestamp() * 1000))


def create_ca(path: Path, name: str) -> bool:
    """Creates a CA's file unless it exists; returns whether it did."""
    if path.exists():
        return False
    ca = CertificateAuthority.create(name)
    pki.write_private(path, ca.key_pem + ca.certificate_pem)
    return True


def _bad_request(error: ValueError) -> InvalidArgumentError:
    return InvalidArgumentError(f"bad certificate request: {error}", "BAD_CERTIFICATE_REQUEST")


def _load(path: Path) -> CertificateAuthority:
    try:
        pem = path.read_bytes()
        return CertificateAuthority.load(pem, pem)
    except FileNotFoundError as error:
        raise FailedPreconditionError(f"{path} is missing (run `ostler-control init`)", "NOT_INITIALIZED") from error
    except (OSError, ValueError) as error:
        raise FailedPreconditionError(f"{path} cannot be used: {error}", "BAD_CA_FILE") from error
