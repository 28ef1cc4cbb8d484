"""What every call passes through: authorization, limits, errors as google.rpc.Status, the access log.

A call is authorized as soon as its headers are here. Only then is its message read, under a deadline, and parsed: so
nobody who is not let in makes the server read, parse or wait. grpc hands a handler of a unary call the message only, so
the gate registers every method as one that takes a stream (on the wire they are the same) and reads the one message.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError, Message
from grpc_status import rpc_status

from ostler_common import tracing
from ostler_common.channel import deadline_s
from ostler_common.errors import (
    InternalError,
    InvalidArgumentError,
    OstlerError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnimplementedError,
    to_status,
)
from ostler_common.limits import NO_LIMITS, CallCounter, Limits, ReadDeadlines
from ostler_common.metrics import count_call
from ostler_common.tls import Peer, peer_of

__all__ = ["HEALTH", "NO_LIMITS", "Authorize", "Call", "Explain", "Gate", "Limits", "current_call"]

log = structlog.get_logger(__name__)

# Given who calls and the full method ("/ostler.agent.v1.VmService/StartVm"): returns what handlers should know of the
# caller, or raises PermissionDeniedError / UnauthenticatedError.
Authorize = Callable[[Peer, str], object]

# Given an exception that is no OstlerError: returns the error that the caller gets; None for a bug.
Explain = Callable[[Exception], OstlerError | None]

HEALTH = "grpc.health.v1.Health"
_MAX_SHORT_S = 30  # a call that may take longer runs on the threads for long ones


@dataclass(frozen=True)
class Call:
    """The call being served. authorized: what `Authorize` returned."""

    method: str
    peer: Peer
    authorized: Any


def current_call(context: grpc.ServicerContext) -> Call:
    """The call that a handler is serving."""
    call: Call = context._ostler_call  # type: ignore[attr-defined]
    return call


class Gate(grpc.ServerInterceptor):
    """Around every handler of all four kinds."""

    def __init__(self, authorize: Authorize | None, limits: Limits, long: ThreadPoolExecutor, explain: Explain) -> None:
        """authorize None: everybody is let in; long: the threads of calls that may last."""
        self._explain = explain
        self._authorize = authorize
        self._limits = limits
        self._long = long
        self._counters = {False: CallCounter(limits.short), True: CallCounter(limits.long)}
        self._deadlines = ReadDeadlines(limits.read_s)
        self._running: set[grpc.ServicerContext] = set()

    def cut_unauthorized(self) -> None:
        """Cancels running calls whose callers would not be let in any more."""
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
        behavior = _behavior(handler)
        long = handler.request_streaming or handler.response_streaming or _may_last(method)
        parse = handler.request_deserializer

        def argument(messages: Iterator[bytes], context: grpc.ServicerContext) -> Any:
            requests = self._requests(messages, parse, context)
            return requests if handler.request_streaming else next(requests)

        def one(messages: Iterator[bytes], context: grpc.ServicerContext) -> object:
            with self._call(method, context, long):
                return behavior(argument(messages, context), context)

        def many(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[object]:
            with self._call(method, context, long):
                yield from behavior(argument(messages, context), context)

        guarded: Any = many if handler.response_streaming else one
        if long:
            guarded.experimental_thread_pool = self._long
        make: Any = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        # Without a deserializer grpc hands over the bytes: parsing is the gate's, and so is its failure.
        wrapped: grpc.RpcMethodHandler[Any, Any] = make(guarded, None, handler.response_serializer)
        return wrapped

    def _requests(
        self, messages: Iterator[bytes], parse: Callable[[bytes], Any] | None, context: grpc.ServicerContext
    ) -> Iterator[Any]:
        with self._deadlines.reading(context):
            first = next(messages, None)
        if first is None:
            if context.is_active():
                raise InvalidArgumentError("the call has no request message", "REQUEST_MISSING")
            return
        yield self._parsed(first, parse)
        for message in messages:
            yield self._parsed(message, parse)

    def _parsed(self, data: bytes, parse: Callable[[bytes], Any] | None) -> Any:
        if parse is None:
            return data
        try:
            request = parse(data)
        except DecodeError:
            raise InvalidArgumentError("the request message cannot be parsed", "BAD_REQUEST") from None
        if isinstance(request, Message):
            self._limits.check(request)
        return request

    @contextlib.contextmanager
    def _call(self, method: str, context: grpc.ServicerContext, long: bool) -> Iterator[None]:
        begin = time.monotonic()
        peer = peer_of(context.auth_context(), context.peer())
        code = "OK"
        try:
            authorized = self._admit(peer, method)
            with self._counters[long].call(_keys(peer)):
                context._ostler_call = Call(method, peer, authorized)  # type: ignore[attr-defined]
                self._running.add(context)
                with _traced(method, context, long):
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
            if (known := self._explain(error)) is not None:
                code = known.code
                log.warning("a call failed", method=method, reason=known.reason, error=type(error).__name__)
                _abort(context, known)
            incident = secrets.token_hex(4)
            code = "INTERNAL"
            log.exception("call failed by a bug", method=method, incident=incident, error=type(error).__name__)
            message = f"internal error, incident {incident} (see the server's log)"
            _abort(context, InternalError(message, "INTERNAL", {"incident": incident}))
        finally:
            self._running.discard(context)
            duration_s = time.monotonic() - begin
            count_call(method, code, duration_s)
            level = "debug" if method.startswith(f"/{HEALTH}/") and code == "OK" else "info"
            getattr(log, level)(
                "call",
                method=method,
                caller=peer.identity.uri() if peer.identity else "-",
                peer=peer.address,
                code=code,
                duration_ms=round(duration_s * 1000, 1),
            )

    def _admit(self, peer: Peer, method: str) -> object:
        if self._authorize is not None:
            return self._authorize(peer, method)
        if method == f"/{HEALTH}/Watch":  # it lasts as long as the caller likes
            raise UnimplementedError("this port answers Health/Check only", "NOT_SUPPORTED_HERE")
        return None


@contextlib.contextmanager
def _traced(method: str, context: grpc.ServicerContext, long: bool) -> Iterator[None]:
    """A span for the call, below its caller's. Without that a call that may last has none: it would be a trace without
    an end."""
    caller = tracing.in_metadata(context.invocation_metadata()) if tracing.enabled() else ""
    span = tracing.span(method.removeprefix("/")) if caller or not long else contextlib.nullcontext()
    with tracing.continued(caller), span:
        yield


def _keys(peer: Peer) -> list[str]:
    """What a call counts under: its caller, its certificate, its connection; without a certificate, the address."""
    if peer.identity is None:
        return [f"address {peer.address.rpartition(':')[0]}"]
    return [f"caller {peer.identity.uri()}", f"certificate {peer.serial}", f"connection {peer.address}"]


def _may_last(method: str) -> bool:
    service, _, name = method.removeprefix("/").partition("/")
    allowed_s = deadline_s(service, name)
    return allowed_s is None or allowed_s > _MAX_SHORT_S


def _behavior(handler: grpc.RpcMethodHandler[Any, Any]) -> Callable[..., Any]:
    found: Callable[..., Any] | None = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
    assert found is not None
    return found


def _aborted(context: grpc.ServicerContext) -> bool:
    """Whether the handler itself ended the call by context.abort(), which raises a bare Exception."""
    code = context.code()  # type: ignore[attr-defined]
    return code is not None and code is not grpc.StatusCode.OK


def _abort(context: grpc.ServicerContext, error: OstlerError) -> None:
    context.abort_with_status(rpc_status.to_status(to_status(error)))
