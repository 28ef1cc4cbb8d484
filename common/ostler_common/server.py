"""A gRPC server as both the agent and the control plane run it.

With TLS, authorization, errors as google.rpc.Status, an access log, health checking and reflection.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from ostler_common.channel import TRANSPORT_OPTIONS
from ostler_common.errors import InternalError, OstlerError, PermissionDeniedError, UnauthenticatedError, to_status
from ostler_common.identity import Identity
from ostler_common.tls import Peer, peer_of

log = structlog.get_logger(__name__)

Registration = Callable[[grpc.Server], None]
# Given who calls and the full method ("/ostler.agent.v1.VmService/StartVm"): returns what handlers should know of the
# caller, or raises PermissionDeniedError / UnauthenticatedError.
Authorize = Callable[[Peer, str], object]

HEALTH = "grpc.health.v1.Health"
REFLECTION = reflection.SERVICE_NAME
_OPTIONS = (
    *TRANSPORT_OPTIONS,
    ("grpc.so_reuseport", 0),  # a second server on the same port is an error, not a silent share of the calls
    (
        "grpc.http2.min_ping_interval_without_data_ms",
        10_000,
    ),  # clients ping every 30 s; less would be answered by GOAWAY
)
# Answers carry an error's text in HTTP/2 headers, whose size is limited.
_MESSAGE_LIMIT = 4000


@dataclass(frozen=True)
class Call:
    """The call being served."""

    method: str
    peer: Peer
    authorized: Any


class Server:
    """A running server. port: the one it listens on, also when 0 was asked for."""

    def __init__(self, server: grpc.Server, port: int, status: health.HealthServicer, gate: _Gate) -> None:
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
) -> Server:
    """Starts a server at "host:port" with these services (by full name), health checking and reflection.

    authorize: asked before every call, health and reflection included; None lets everybody in (enrollment only).
    workers: how many calls run at once; more wait. Raises OSError when the address cannot be had.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="rpc")
    gate = _Gate(authorize)
    server = grpc.server(pool, interceptors=[gate], options=_OPTIONS, maximum_concurrent_rpcs=workers * 16)
    for register in services.values():
        register(server)
    status = health.HealthServicer(experimental_non_blocking=False)  # its other way by-passes the gate's wrapper
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    for name in services:
        status.set(name, health_pb2.HealthCheckResponse.SERVING)
    reflection.enable_server_reflection([*services, HEALTH, REFLECTION], server)
    try:
        port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: the port is in use or the address is not local") from error
    server.start()
    return Server(server, port, status, gate)


def current_call(context: grpc.ServicerContext) -> Call:
    """The call that a handler is serving."""
    call: Call = context._ostler_call  # type: ignore[attr-defined]
    return call


def caller(context: grpc.ServicerContext) -> Identity:
    """Who calls; UnauthenticatedError when the caller has no certificate."""
    identity = current_call(context).peer.identity
    if identity is None:
        raise UnauthenticatedError("this call needs a client certificate", "NO_CERTIFICATE")
    return identity


class _Gate(grpc.ServerInterceptor):
    """Around every handler of all four kinds: authorize, map errors, log."""

    def __init__(self, authorize: Authorize | None) -> None:
        self._authorize = authorize
        self._running: set[grpc.ServicerContext] = set()

    def cut_unauthorized(self) -> None:
        if self._authorize is None:
            return
        for context in list(self._running):
            call = current_call(context)
            try:
                self._authorize(call.peer, call.method)
            except (PermissionDeniedError, UnauthenticatedError) as error:
                log.warning("a running call is cut", method=call.method, peer=call.peer.address, reason=error.reason)
                context.cancel()

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        kind, behaviour, make = _KINDS[handler.request_streaming, handler.response_streaming](handler)

        def one(request: object, context: grpc.ServicerContext) -> object:
            with self._call(method, context):
                return behaviour(request, context)

        def many(request: object, context: grpc.ServicerContext) -> Iterator[object]:
            with self._call(method, context):
                yield from behaviour(request, context)

        guarded = many if kind else one
        return make(guarded, handler.request_deserializer, handler.response_serializer)

    @contextlib.contextmanager
    def _call(self, method: str, context: grpc.ServicerContext) -> Iterator[None]:
        begin = time.monotonic()
        peer = peer_of(context.auth_context(), context.peer())
        code = "OK"
        try:
            authorized = self._authorize(peer, method) if self._authorize else None
            context._ostler_call = Call(method, peer, authorized)  # type: ignore[attr-defined]
            self._running.add(context)
            yield
            # A handler of grpc's own (health, reflection) may have set a code without raising.
            code = context.code().name if context.code() else "OK"  # type: ignore[attr-defined]
        except OstlerError as error:
            code = error.code
            _abort(context, error)
        except GeneratorExit:
            code = "CANCELLED"
            raise
        except Exception as error:
            if not context.is_active():  # the client is gone, and reading its requests said so
                code = "CANCELLED"
                raise
            if _aborted(context):
                code = context.code().name  # type: ignore[attr-defined]
                raise
            incident = secrets.token_hex(4)
            code = "INTERNAL"
            log.exception("call failed by a bug", method=method, incident=incident, error=type(error).__name__)
            message = f"internal error, incident {incident} (see the server's log)"
            _abort(context, InternalError(message, "INTERNAL", {"incident": incident}))
        finally:
            self._running.discard(context)
            level = "debug" if method.startswith(f"/{HEALTH}/") and code == "OK" else "info"
            getattr(log, level)(
                "call",
                method=method,
                caller=peer.identity.uri() if peer.identity else "-",
                peer=peer.address,
                code=code,
                duration_ms=round((time.monotonic() - begin) * 1000, 1),
            )


def _aborted(context: grpc.ServicerContext) -> bool:
    """Whether the handler itself ended the call by context.abort(), which raises a bare Exception."""
    code = context.code()  # type: ignore[attr-defined]
    return code is not None and code is not grpc.StatusCode.OK


def _abort(context: grpc.ServicerContext, error: OstlerError) -> None:
    status = to_status(error)
    status.message = status.message[:_MESSAGE_LIMIT]
    context.abort_with_status(rpc_status.to_status(status))


_KINDS: dict[
    tuple[bool, bool], Callable[[Any], tuple[bool, Callable[..., Any], Callable[..., grpc.RpcMethodHandler[Any, Any]]]]
] = {
    (False, False): lambda handler: (False, handler.unary_unary, grpc.unary_unary_rpc_method_handler),
    (False, True): lambda handler: (True, handler.unary_stream, grpc.unary_stream_rpc_method_handler),
    (True, False): lambda handler: (False, handler.stream_unary, grpc.stream_unary_rpc_method_handler),
    (True, True): lambda handler: (True, handler.stream_stream, grpc.stream_stream_rpc_method_handler),
}
