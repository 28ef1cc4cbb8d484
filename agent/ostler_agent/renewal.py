"""Keeps the host's credentials valid: renews the certificate in time and applies updates of the fleet's trust."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import grpc
import structlog
from ostler.control.v1 import enrollment_pb2, enrollment_pb2_grpc
from ostler_common import notify, pki
from ostler_common.channel import CONTROL_SERVER_NAME, open_channel
from ostler_common.errors import FailedPreconditionError, InvalidArgumentError, OstlerError, from_rpc_error

from ostler_agent.credentials import REJOIN_HINT, CredentialsStore, HostCredentials
from ostler_agent.hypervisors.driver import CredentialsConsumer

log = structlog.get_logger(__name__)

_TIMEOUT_S = 30
_RETRY_S = (30.0, 1800.0)
_POLL_INTERVAL_S = 60.0  # how often to check for a join by another process


class CredentialsManager:
    """Changes the credentials, and installs each new set for the hypervisor if its driver uses them."""

    def __init__(self, store: CredentialsStore, user: CredentialsConsumer | None, control_address: str = "") -> None:
        self._store = store
        self._user = user
        self._control_address = control_address

    def install(self) -> None:
        """Installs the current set for the hypervisor; completes an installation that a crash cut short."""
        if self._user:
            self._user.install(self._store.load())

    def renew(self) -> HostCredentials:
        """Obtains certificates for new keys. If it raises OstlerError, the old credentials stay."""
        with self._store.lock:
            old = self._store.load()
            key_pem, csr_pem = pki.new_key_and_csr(old.identity)
            qemu_key_pem, qemu_csr_pem = pki.new_key_and_csr(None)
            address = self._control_address or old.control_address
            with open_channel(address, self._store.files, CONTROL_SERVER_NAME) as channel:
                stub = enrollment_pb2_grpc.HostAgentServiceStub(channel)
                request = enrollment_pb2.RenewCertificateRequest(csr_pem=csr_pem, qemu_csr_pem=qemu_csr_pem)
                try:
                    answer = stub.RenewCertificate(request, timeout=_TIMEOUT_S)
                except grpc.RpcError as error:
                    raise from_rpc_error(error) from error
            credentials = replace(
                old,
                certificate_pem=answer.certificate_pem,
                key_pem=key_pem,
                qemu_certificate_pem=answer.qemu_certificate_pem,
                qemu_key_pem=qemu_key_pem,
                ca_pem=answer.ca_pem,
                crl_pem=answer.crl_pem,
            )
            if credentials.host_id != old.host_id:
                raise FailedPreconditionError(
                    "the control plane answered with another host's certificate", "BAD_CREDENTIALS"
                )
            self._store.save(credentials)
            self.install()
        return credentials

    def update(self, ca_pem: bytes, crl_pem: bytes, control_address: str = "") -> None:
        """Replaces the fleet's CA certificate(s) and revocation list (crl_pem empty: nothing is revoked), and the
        control plane's addresses unless that is empty.

        Raises InvalidArgumentError (BAD_TRUST) if they are not PEM or do not cover this host's own certificate.
        """
        with self._store.lock:
            old = self._store.load()
            address = control_address or old.control_address
            credentials = replace(old, ca_pem=ca_pem, crl_pem=crl_pem, control_address=address)
            try:
                pki.revoked_serials(crl_pem)
                credentials.check()
            except (ValueError, FailedPreconditionError) as error:
                raise InvalidArgumentError(
                    f"the CA certificate or revocation list is unusable: {error}", "BAD_TRUST"
                ) from error
            self._store.save(credentials)
            self.install()


class Renewer:
    """Renews the certificate in time, in its own thread."""

    def __init__(
        self,
        store: CredentialsStore,
        manager: CredentialsManager,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._manager = manager
        self._now = now
        self._jitter = jitter
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="renew", daemon=True)
        self._failures = 0
        self._last: bytes | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def turn(self) -> float:
        """Does what is due now; returns the time to wait until the next call, seconds."""
        credentials = self._store.load()
        if credentials.certificate_pem != self._last:
            self._manager.install()
            self._last, self._failures = credentials.certificate_pem, 0
        if credentials.expired(self._now()):
            message = (
                f"the host's certificate expired at {credentials.expire_time:%F %T} UTC; the agent refuses all calls: "
                + REJOIN_HINT.format(host=credentials.host_id)
            )
            log.error(message)
            notify.status(message)
            return _POLL_INTERVAL_S
        due = due_at(credentials, self._jitter())
        if self._now() < due:
            return min(_POLL_INTERVAL_S, (due - self._now()).total_seconds())
        try:
            renewed = self._manager.renew()
        except OstlerError as error:
            self._failures += 1
            low, high = _RETRY_S
            wait_s = min(high, low * 2.0 ** (self._failures - 1)) * (0.5 + self._jitter() / 2)
            left = credentials.expire_time - self._now()
            wait_s = max(1.0, min(wait_s, left.total_seconds() / 4))
            log.warning(
                "cannot renew the certificate",
                reason=error.message,
                ends=f"{credentials.expire_time:%F %T}",
                retry_s=wait_s,
            )
            return wait_s
        self._last, self._failures = renewed.certificate_pem, 0
        log.info("certificate renewed", ends=f"{renewed.expire_time:%F %T}")
        return 0.0

    def _run(self) -> None:
        wait_s = 0.0
        while not self._stop.wait(wait_s):
            try:
                wait_s = self.turn()
            except Exception:
                log.exception("certificate renewal failed unexpectedly")
                wait_s = _POLL_INTERVAL_S


def due_at(credentials: HostCredentials, jitter: float) -> datetime:
    """When to renew: when a third of the lifetime is left, spread over a tenth of that third (jitter: 0 to 1)."""
    begin = pki.renew_at(credentials.certificate_pem)
    return begin + (credentials.expire_time - begin) * 0.1 * jitter
