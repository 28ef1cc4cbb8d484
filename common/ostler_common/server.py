"""A gRPC server as both the agent and the control plane run it.

With TLS, authorization, errors as google.rpc.Status, an access log, health checking and reflection.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from ostler_common.channel import TRANSPORT_OPTIONS
from ostler_common.errors import UnauthenticatedError
from ostler_common.gate import HEALTH, NO_LIMITS, Authorize, Call, Explain, Gate, Limits, current_call
from ostler_common.identity import Identity

__all__ = ["HEALTH", "Authorize", "Call", "Limits", "Registration", "Server", "caller", "current_call", "serve"]

Registration = Callable[[grpc.Server], None]

REFLECTION = reflection.SERVICE_NAME
_STREAMS_PER_WORKER = 4
# The largest request: a piece of an upload, or a VM's definition with its user data. Bytes.
_MAX_REQUEST_BYTES = 4 << 20
_OPTIONS = (
    *(option for option in TRANSPORT_OPTIONS if option[0] != "grpc.max_receive_message_length"),
    ("grpc.max_receive_message_length", _MAX_REQUEST_BYTES),
    ("grpc.so_reuseport", 0),  # a second server on the same port is an error, not a silent share of the calls
    (
        "grpc.http2.min_ping_interval_without_data_ms",
        10_000,
    ),  # clients ping every 30 s; less would be answered by GOAWAY
)


class Server:
    """A running server. port: the one it listens on, also when 0 was asked for."""

    def __init__(self, server: grpc.Server, port: int, status: health.HealthServicer, gate: Gate) -> None:
        self._server = server
        self._status = status
        self._gate = gate
        self.port = port

    def set_serving(self, serving: bool) -> None:
        """What health checks answer from now on."""
        states = health_pb2.HealthCheckResponse.ServingStatus
        self._status.set("", states.SERVING if serving else states.NOT_SERVING)

    def stop(self, grace_s: float | None) -> threading.Event:
        """Takes no new calls, lets running ones end for `grace_s`, then cuts them; sets the event when all is over."""
        self._status.enter_graceful_shutdown()
        return self._server.stop(grace_s)

    def cut_unauthorized(self) -> None:
        """Ends running calls that would not be let in any more: a stream may outlive its caller's certificate."""
        self._gate.cut_unauthorized()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits until it has stopped; False when the time is over first."""
        return not self._server.wait_for_termination(timeout_s)


def serve(
    address: str,
    *,
    credentials: grpc.ServerCredentials,
    services: Mapping[str, Registration],
    authorize: Authorize | None,
    workers: int = 64,
    limits: Limits = NO_LIMITS,
    explain: Explain = lambda _: None,
) -> Server:
    """Starts a server at "host:port" with these services (by full name), health checking and reflection.

    authorize: asked for every call before its message is read, health and reflection included; None lets everybody in:
    such a server has no reflection and no Health/Watch. workers: how many short calls run at once; more wait. Streams
    and calls that may last have threads of their own. explain: see `Explain`. Raises OSError for a used address.
    """
    short = ThreadPoolExecutor(workers, thread_name_prefix="rpc")
    long = ThreadPoolExecutor(workers * _STREAMS_PER_WORKER, thread_name_prefix="stream")
    gate = Gate(authorize, limits, long, explain)
    server = grpc.server(short, interceptors=[gate], options=_OPTIONS, maximum_concurrent_rpcs=workers * 16)
    for register in services.values():
        register(server)
    status = health.HealthServicer(experimental_non_blocking=False)  # its other way by-passes the gate's wrapper
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    for name in services:
        status.set(name, health_pb2.HealthCheckResponse.SERVING)
    if authorize is not None:
        reflection.enable_server_reflection([*services, HEALTH, REFLECTION], server)
    try:
        port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: the port is in use or the address is not local") from error
    server.start()
    return Server(server, port, status, gate)


def caller(context: grpc.ServicerContext) -> Identity:
    """Who calls; UnauthenticatedError when the caller has no certificate."""
    identity = current_call(context).peer.identity
    if identity is None:
        raise UnauthenticatedError("this call needs a client certificate", "NO_CERTIFICATE")
    return identity
