"""ostler.control.v1.EnrollmentService (enrollment port) and HostAgentService (main port, hosts only)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
from ostler.control.v1 import enrollment_pb2 as pb
from ostler.control.v1 import enrollment_pb2_grpc
from ostler_common import pki
from ostler_common.address import split_addresses
from ostler_common.errors import NotFoundError, bad_field

from ostler_control.api.caller import caller_of, serial_of
from ostler_control.api.convert.times import timestamp
from ostler_control.api.session import with_sessions
from ostler_control.operations import replicas
from ostler_control.templates import store as template_store
from ostler_control.trust import enrollment, revocation
from ostler_control.trust.authority import Authority
from ostler_control.trust.host_names import one_spelling

_PIECE_BYTES = 1 << 20


@with_sessions
class EnrollmentService(enrollment_pb2_grpc.EnrollmentServiceServicer):
    def __init__(self, authority: Authority, control_address: str, poke: Callable[[], None]) -> None:
        """control_address: where this replica's main port is reached; poke: called when a host joined."""
        self._authority = authority
        self._control_address = control_address
        self._poke = poke

    def JoinHost(self, request: pb.JoinHostRequest, context: grpc.ServicerContext) -> pb.JoinHostResponse:
        requests = enrollment.Requests(request.csr_pem, request.qemu_csr_pem)
        control_address = replicas.addresses(self._control_address)
        credentials = enrollment.join(
            self._authority,
            request.token,
            requests,
            request.hostname,
            request.address,
            request.hypervisor_type,
            # No host may claim to be the control plane.
            {one_spelling(part.rpartition(":")[0].strip("[]")) for part in split_addresses(control_address)},
        )
        self._poke()
        trust = revocation.current(self._authority)
        return pb.JoinHostResponse(
            host_id=credentials.host_id,
            certificate_pem=credentials.certificate_pem,
            qemu_certificate_pem=credentials.qemu_certificate_pem,
            ca_pem=trust.ca_pem,
            crl_pem=trust.crl_pem,
            control_address=control_address,
        )


@with_sessions
class HostAgentService(enrollment_pb2_grpc.HostAgentServiceServicer):
    def __init__(self, authority: Authority, templates: Path) -> None:
        """templates: directory of the templates' files, each named by its id."""
        self._authority = authority
        self._templates = templates

    def RenewCertificate(
        self, request: pb.RenewCertificateRequest, context: grpc.ServicerContext
    ) -> pb.RenewCertificateResponse:
        requests = enrollment.Requests(request.csr_pem, request.qemu_csr_pem)
        credentials = enrollment.renew(self._authority, caller_of(context).id, requests, serial_of(context))
        trust = revocation.current(self._authority)
        return pb.RenewCertificateResponse(
            certificate_pem=credentials.certificate_pem,
            qemu_certificate_pem=credentials.qemu_certificate_pem,
            ca_pem=trust.ca_pem,
            crl_pem=trust.crl_pem,
            expire_time=timestamp(pki.expires(credentials.certificate_pem).replace(tzinfo=None)),
        )

    def DownloadTemplate(
        self, request: pb.DownloadTemplateRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.DownloadTemplateResponse]:
        missing = NotFoundError(f"template {request.template_id} does not exist", "TEMPLATE_NOT_FOUND")
        if not template_store.is_known(request.template_id):
            raise missing
        try:
            file = (self._templates / request.template_id).open("rb")
        except FileNotFoundError:
            raise missing from None
        with file:
            size_bytes = os.fstat(file.fileno()).st_size
            if not 0 <= request.offset <= size_bytes:
                raise bad_field("offset", f"must be 0 to {size_bytes}")
            file.seek(request.offset)
            while piece := file.read(_PIECE_BYTES):
                yield pb.DownloadTemplateResponse(data=piece)
