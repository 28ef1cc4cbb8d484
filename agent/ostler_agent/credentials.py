"""A host's credentials: certificates and keys (its own and its QEMU's), CA, revocation list, and the control plane's
address.

`<state>/credentials` is a link to a directory with one complete set. A new set is a new directory and one rename of the
link, so that a reader always finds a consistent set, also after a crash.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ostler_common import pki
from ostler_common.errors import FailedPreconditionError
from ostler_common.identity import Identity, Kind
from ostler_common.tls import TlsFiles

from ostler_agent.files import fsync_directory

REJOIN_HINT = (
    "on the control plane run `ostler host token CLUSTER --rejoin {host}`, "
    "then on this host `ostler-agent join ADDRESS --token TOKEN`"
)


@dataclass(frozen=True, repr=False)
class HostCredentials:
    """One complete set.

    qemu_certificate_pem, qemu_key_pem: the pair that QEMU may read, valid only between QEMUs; ca_pem: one or more
    certificates; crl_pem: empty if nothing is revoked; control_address, address: "host:port" of the control plane's
    main port and of this agent.
    """

    certificate_pem: bytes
    key_pem: bytes
    qemu_certificate_pem: bytes
    qemu_key_pem: bytes
    ca_pem: bytes
    crl_pem: bytes
    control_address: str
    address: str

    @property
    def host_id(self) -> str:
        """UUID from the certificate."""
        identity, _ = pki.identity_and_serial(self.certificate_pem)
        if identity is None or identity.kind is not Kind.HOST:
            raise FailedPreconditionError("the certificate is not a host's (join again)", "BAD_CREDENTIALS")
        return identity.name

    @property
    def identity(self) -> Identity:
        return Identity(Kind.HOST, self.host_id)

    @property
    def expire_time(self) -> datetime:
        return pki.expires(self.certificate_pem)

    def expired(self, now: datetime | None = None) -> bool:
        return (now or datetime.now(UTC)) >= self.expire_time

    def check(self) -> None:
        """Raises FailedPreconditionError (BAD_CREDENTIALS) unless the set is consistent. Ignores expiry."""
        pairs = ((self.certificate_pem, self.key_pem), (self.qemu_certificate_pem, self.qemu_key_pem))
        try:
            for certificate, key in pairs:
                pki.check_pair(certificate, key)
                when = pki.renew_at(certificate)  # a time at which the certificate is valid
                if not any(_issued(certificate, ca, when) for ca in pki.split_pem(self.ca_pem)):
                    raise ValueError("a certificate is not signed by the fleet's CA")
            qemu, _ = pki.identity_and_serial(self.qemu_certificate_pem)
            if qemu != Identity(Kind.QEMU, self.host_id):
                raise ValueError("QEMU's certificate does not belong to this host's QEMU")
        except ValueError as error:
            raise FailedPreconditionError(
                f"the host's credentials are not usable: {error}", "BAD_CREDENTIALS"
            ) from error


class CredentialsStore:
    """The credentials on disk. Thread-safe; the next load sees a join by another process."""

    def __init__(self, state_dir: Path) -> None:
        self._directory = state_dir
        self._link = state_dir / "credentials"
        self.lock = threading.RLock()  # hold it to load, change and save

    @property
    def files(self) -> TlsFiles:
        """For servers and channels. The certificate's file also holds the key."""
        return TlsFiles(self._link / "host.pem", self._link / "host.pem", self._link / "ca.pem")

    @property
    def joined(self) -> bool:
        return (self._link / "host.pem").exists()

    def load(self) -> HostCredentials:
        """Raises FailedPreconditionError: NOT_JOINED, BAD_CREDENTIALS."""
        for _ in range(10):  # another process may replace the set during the read
            directory = self._link.resolve()
            try:
                return _read(directory)
            except FileNotFoundError:
                continue
            except (OSError, ValueError, KeyError, IndexError) as error:
                raise FailedPreconditionError(
                    f"the host's credentials cannot be read: {error}", "BAD_CREDENTIALS"
                ) from error
        raise FailedPreconditionError(
            "this host has not joined a fleet (on the control plane run `ostler host token CLUSTER`, then here "
            "`ostler-agent join ADDRESS --token TOKEN`)",
            "NOT_JOINED",
        )

    def save(self, credentials: HostCredentials) -> None:
        """Replaces the current set. Raises FailedPreconditionError (BAD_CREDENTIALS) if the new set is inconsistent."""
        credentials.check()
        facts = {
            "host_id": credentials.host_id,
            "control_address": credentials.control_address,
            "address": credentials.address,
        }
        with self.lock:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh = self._directory / f"credentials.{secrets.token_hex(4)}"
            fresh.mkdir(mode=0o700)
            pki.write_private(fresh / "host.pem", credentials.certificate_pem + credentials.key_pem)
            pki.write_private(fresh / "qemu.pem", credentials.qemu_certificate_pem + credentials.qemu_key_pem)
            pki.write_public(fresh / "ca.pem", credentials.ca_pem)
            pki.write_public(fresh / "crl.pem", credentials.crl_pem)
            pki.write_public(fresh / "host.json", json.dumps(facts).encode())
            link = fresh.with_suffix(fresh.suffix + ".link")
            link.symlink_to(fresh.name)
            os.replace(link, self._link)
            fsync_directory(self._directory)
            for other in self._directory.glob("credentials.*"):  # the previous set, and leftovers of a crash
                if other.is_symlink():
                    other.unlink()
                elif other != fresh:
                    shutil.rmtree(other)


def _issued(certificate_pem: bytes, ca_pem: bytes, when: datetime) -> bool:
    try:
        pki.check_issued(certificate_pem, ca_pem, when)
    except ValueError:
        return False
    return True


def _read(directory: Path) -> HostCredentials:
    certificate, key = _read_pair(directory / "host.pem")
    qemu_certificate, qemu_key = _read_pair(directory / "qemu.pem")
    facts = json.loads((directory / "host.json").read_text())
    return HostCredentials(
        certificate_pem=certificate,
        key_pem=key,
        qemu_certificate_pem=qemu_certificate,
        qemu_key_pem=qemu_key,
        ca_pem=(directory / "ca.pem").read_bytes(),
        crl_pem=(directory / "crl.pem").read_bytes(),
        control_address=facts["control_address"],
        address=facts["address"],
    )


def _read_pair(path: Path) -> tuple[bytes, bytes]:
    both = path.read_bytes()
    certificate = pki.split_pem(both)[0]
    return certificate, both.replace(certificate, b"")
