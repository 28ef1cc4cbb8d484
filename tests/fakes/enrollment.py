"""A control plane that can only enrol and renew, for tests of the agent's side."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import grpc
from ostler.control.v1 import enrollment_pb2, enrollment_pb2_grpc
from ostler_common import pki, server
from ostler_common.errors import PermissionDeniedError, UnimplementedError
from ostler_common.identity import Identity, Kind
from ostler_common.tls import Peer, server_credentials
from ostler_common.token import JoinToken

from tests.fakes.certificates import ThrowawayCa

CONTROL = Identity(Kind.CONTROL, "c1")


class Enrollment(
    enrollment_pb2_grpc.EnrollmentServiceServicer,
    enrollment_pb2_grpc.HostAgentServiceServicer,
):
    """Tokens by their secret, each for one host, each good once. lifetime: of the certificates that it signs."""

    def __init__(self, directory: Path) -> None:
        self.issuer = ThrowawayCa(directory)
        self.tokens: dict[str, str] = {}
        self.lifetime = timedelta(days=1)
        self.refuse = False
        self.requests: list[enrollment_pb2.JoinHostRequest] = []
        self.renewals = 0
        self.enroll_port = self.control_port = 0
        self._lock = threading.Lock()

    def token(self, host_id: str, secret: str = "s3cret") -> JoinToken:
        self.tokens[secret] = host_id
        digest = pki.fingerprint(self.issuer.ca.certificate_pem)
        return JoinToken(secret, digest, f"127.0.0.1:{self.enroll_port}")

    def JoinHost(
        self, request: enrollment_pb2.JoinHostRequest, context: grpc.ServicerContext
    ) -> enrollment_pb2.JoinHostResponse:
        self.requests.append(request)
        with self._lock:
            host_id = self.tokens.pop(request.token, None)
        if host_id is None:
            raise PermissionDeniedError("the token is not good (make another one)", "BAD_TOKEN")
        return enrollment_pb2.JoinHostResponse(
            host_id=host_id,
            certificate_pem=self._sign(request.csr_pem, host_id),
            qemu_certificate_pem=self._sign(request.qemu_csr_pem, host_id, Kind.QEMU),
            ca_pem=self.issuer.ca.certificate_pem,
            control_address=f"127.0.0.1:{self.control_port}",
        )

    def RenewCertificate(
        self, request: enrollment_pb2.RenewCertificateRequest, context: grpc.ServicerContext
    ) -> enrollment_pb2.RenewCertificateResponse:
        if self.refuse:
            raise PermissionDeniedError("the host was removed", "HOST_REMOVED")
        self.renewals += 1
        host_id = server.caller(context).name
        return enrollment_pb2.RenewCertificateResponse(
            certificate_pem=self._sign(request.csr_pem, host_id),
            qemu_certificate_pem=self._sign(request.qemu_csr_pem, host_id, Kind.QEMU),
            ca_pem=self.issuer.ca.certificate_pem,
        )

    def DownloadTemplate(
        self, request: enrollment_pb2.DownloadTemplateRequest, context: grpc.ServicerContext
    ) -> Iterator[enrollment_pb2.DownloadTemplateResponse]:
        raise UnimplementedError("there are no templates here", "NO_TEMPLATES")

    def _sign(self, csr_pem: bytes, host_id: str, kind: Kind = Kind.HOST) -> bytes:
        addresses = ("127.0.0.1",) if kind is Kind.HOST else ()
        return self.issuer.ca.sign(csr_pem, Identity(kind, host_id), self.lifetime, addresses)


def _hosts_only(peer: Peer, method: str) -> Identity:
    if peer.identity is None or peer.identity.kind is not Kind.HOST:
        raise PermissionDeniedError("hosts only", "HOSTS_ONLY")
    return peer.identity


@contextmanager
def enrollment(directory: Path) -> Iterator[Enrollment]:
    """Runs one, with its two ports."""
    fake = Enrollment(directory)
    files = fake.issuer.issue(CONTROL)
    enroll = server.serve(
        "127.0.0.1:0",
        credentials=server_credentials(files, client_certificates=False),
        services={
            "ostler.control.v1.EnrollmentService": lambda s: (
                enrollment_pb2_grpc.add_EnrollmentServiceServicer_to_server(fake, s)
            )
        },
        authorize=None,
        workers=4,
    )
    main = server.serve(
        "127.0.0.1:0",
        credentials=server_credentials(files),
        services={
            "ostler.control.v1.HostAgentService": lambda s: enrollment_pb2_grpc.add_HostAgentServiceServicer_to_server(
                fake, s
            )
        },
        authorize=_hosts_only,
        workers=4,
    )
    fake.enroll_port, fake.control_port = enroll.port, main.port
    try:
        yield fake
    finally:
        for running in (enroll, main):
            running.stop(0).wait()
