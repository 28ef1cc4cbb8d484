"""The files that a party speaks TLS with, and gRPC server credentials that follow them as they change."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import structlog

from ostler_common import pki
from ostler_common.identity import Identity

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class TlsFiles:
    """PEM files. certificate: own certificate (and chain); key: its private key, which may be the same file, so that
    both change in one rename; trust: the CA certificates that sign the other side."""

    certificate: Path
    key: Path
    trust: Path

    def read(self) -> TlsPems:
        """Reads the files; OSError when one is missing."""
        return TlsPems(self.certificate.read_bytes(), self.key.read_bytes(), self.trust.read_bytes())

    def version(self) -> tuple[tuple[int, int, int], ...]:
        """Changes whenever a file has been replaced."""
        stats = [path.stat() for path in (self.certificate, self.key, self.trust)]
        return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats)


@dataclass(frozen=True, repr=False)
class TlsPems:
    """What the files hold."""

    certificate: bytes
    key: bytes
    trust: bytes


@dataclass(frozen=True)
class Peer:
    """The other end of a call. identity, serial: of its certificate; None where it has none that is ours."""

    identity: Identity | None
    serial: int | None
    address: str


def peer_of(auth_context: Mapping[str, Any], address: str) -> Peer:
    """Who called, from gRPC's auth context. The handshake has proved the chain; this only reads the names."""
    certificates = auth_context.get("x509_pem_cert", [])
    if len(certificates) != 1:
        return Peer(None, None, address)
    identity, serial = pki.identity_and_serial(certificates[0])
    return Peer(identity, serial, address)


def server_credentials(files: TlsFiles, *, client_certificates: bool = True) -> grpc.ServerCredentials:
    """Credentials that take up replaced files at the next handshake, without a restart.

    client_certificates: demand one signed by `files.trust`. Only enrollment does not; there the server sends its CA
    along, so that a joining host can hold it against its token. Raises OSError or ValueError when the files are
    missing or do not belong together; later, such files are reported and the last good ones stay.
    """
    source = _Source(files, client_certificates)
    # The stubs do not know that a fetcher answers None for "unchanged".
    return grpc.dynamic_ssl_server_credentials(source.first, source.changed, client_certificates)  # type: ignore[arg-type]


class _Source:
    """Hands gRPC a new configuration when the files have changed; called at every handshake, from any thread."""

    def __init__(self, files: TlsFiles, with_trust: bool) -> None:
        self._files = files
        self._with_trust = with_trust
        self._lock = threading.Lock()
        self._version = files.version()
        self.first = self._load()

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        with self._lock:
            try:
                version = self._files.version()
                if version == self._version:
                    return None
                configuration = self._load()
                self._version = version
            except (OSError, ValueError) as error:
                log.error("cannot use the new TLS files; keeping the old ones", reason=str(error))
                return None
            log.info("TLS files reloaded", certificate=str(self._files.certificate))
            return configuration

    def _load(self) -> grpc.ServerCertificateConfiguration:
        pems = self._files.read()
        pki.check_pair(pems.certificate, pems.key)
        if self._with_trust:
            return grpc.ssl_server_certificate_configuration([(pems.key, pems.certificate)], pems.trust)
        chain = dict.fromkeys(pki.split_pem(pems.certificate) + pki.split_pem(pems.trust))
        return grpc.ssl_server_certificate_configuration([(pems.key, b"".join(chain))])
