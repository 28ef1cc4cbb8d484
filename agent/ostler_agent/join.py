"""Joins a fleet: exchanges a one-time token for certificates, after verifying the control plane."""

from __future__ import annotations

import socket
import ssl

import grpc
from ostler.control.v1 import enrollment_pb2, enrollment_pb2_grpc
from ostler_common import pki
from ostler_common.address import split_address
from ostler_common.channel import CONTROL_SERVER_NAME, secure_channel
from ostler_common.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    PermissionDeniedError,
    UnavailableError,
    from_rpc_error,
)
from ostler_common.identity import Identity, Kind
from ostler_common.token import JoinToken

from ostler_agent.credentials import CredentialsStore, HostCredentials

ENROLL_PORT = 8441
_TIMEOUT_S = 30


def join(
    store: CredentialsStore, token: JoinToken, enroll_address: str, agent_address: str, hypervisor_type: str = ""
) -> HostCredentials:
    """Joins (or rejoins) a fleet and saves the credentials. A rejoin token for this host keeps the host's id.

    enroll_address: "host[:port]"; empty: the token's. agent_address: "host:port" at which the control plane reaches
    this agent. hypervisor_type: what the driver states, so that a cluster of another type refuses at once. Saves
    nothing if it fails, although the token may be used up. Raises PermissionDeniedError (WRONG_CONTROL_PLANE, or the
    control plane's refusal of the token), UnavailableError, FailedPreconditionError (BAD_CREDENTIALS).
    """
    control = enroll_address or token.enroll_address
    if not control:
        raise InvalidArgumentError("the control plane's address is missing: name it as ADDRESS", "ADDRESS_MISSING")
    host, port = split_address(control, "ADDRESS", ENROLL_PORT)
    ca_pem = verified_ca(host, port, token.ca_sha256)
    key_pem, csr_pem = pki.new_key_and_csr(None)
    qemu_key_pem, qemu_csr_pem = pki.new_key_and_csr(None)
    request = enrollment_pb2.JoinHostRequest(
        token=token.secret,
        csr_pem=csr_pem,
        qemu_csr_pem=qemu_csr_pem,
        hostname=socket.gethostname(),
        address=agent_address,
        hypervisor_type=hypervisor_type,
    )
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    with secure_channel(target, grpc.ssl_channel_credentials(ca_pem), CONTROL_SERVER_NAME) as channel:
        try:
            answer = enrollment_pb2_grpc.EnrollmentServiceStub(channel).JoinHost(request, timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
    credentials = HostCredentials(
        certificate_pem=answer.certificate_pem,
        key_pem=key_pem,
        qemu_certificate_pem=answer.qemu_certificate_pem,
        qemu_key_pem=qemu_key_pem,
        ca_pem=answer.ca_pem,
        crl_pem=answer.crl_pem,
        control_address=answer.control_address,
        address=agent_address,
    )
    credentials.check()
    if token.ca_sha256 not in map(pki.fingerprint, pki.split_pem(answer.ca_pem)):
        raise FailedPreconditionError("the control plane's CA is not the token's", "BAD_CREDENTIALS")
    if credentials.identity != Identity(Kind.HOST, answer.host_id):
        raise FailedPreconditionError("the control plane answered with another host's certificate", "BAD_CREDENTIALS")
    store.save(credentials)
    return credentials


def verified_ca(host: str, port: int, ca_sha256: str) -> bytes:
    """Returns the fleet's CA certificate (PEM) from the server's chain if the token names it.

    The agent sends nothing to a server before this check. Raises PermissionDeniedError (WRONG_CONTROL_PLANE),
    UnavailableError.
    """
    chain = _presented_chain(host, port)
    ca = next((pem for pem in chain if pki.fingerprint(pem) == ca_sha256), None)
    wrong = PermissionDeniedError(
        f"{host}:{port} is not the control plane that created this token: its certificate authority differs (check the "
        "address, and that nobody intercepts the connection)",
        "WRONG_CONTROL_PLANE",
    )
    if ca is None:
        raise wrong
    try:
        pki.check_issued(chain[0], ca)
    except ValueError as error:
        raise wrong from error
    return ca


def _presented_chain(host: str, port: int) -> list[bytes]:
    """The certificates that a TLS server sends, its own first. The caller must verify them."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    try:
        raw = socket.create_connection((host, port), timeout=_TIMEOUT_S)
        with raw, context.wrap_socket(raw, server_hostname=CONTROL_SERVER_NAME) as stream:
            # Public as SSLSocket.get_unverified_chain from Python 3.13 on.
            chain = stream._sslobj.get_unverified_chain()  # type: ignore[attr-defined]
            return [certificate.public_bytes().encode() for certificate in chain]
    except OSError as error:
        raise UnavailableError(
            f"no TLS connection to the enrollment port {host}:{port}: {error}", "CONTROL_UNREACHABLE"
        ) from error
