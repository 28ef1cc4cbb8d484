"""The context of traces in calls that a channel sends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

import grpc

from ostler_common import tracing

if TYPE_CHECKING:
    from grpc import ClientCallDetails, _CallFuture, _CallIterator

Q = TypeVar("Q")
A = TypeVar("A")


class _Details(NamedTuple):
    """What grpc.ClientCallDetails declares; grpc gives no class to make one of."""

    method: str
    timeout: float | None
    metadata: list[tuple[str, str | bytes]]
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class _Carry(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    def intercept_unary_unary(
        self, continuation: Callable[[ClientCallDetails, Q], _CallFuture[A]], details: ClientCallDetails, request: Q
    ) -> _CallFuture[A]:
        return continuation(_with_span(details), request)

    def intercept_unary_stream(
        self, continuation: Callable[[ClientCallDetails, Q], _CallIterator[A]], details: ClientCallDetails, request: Q
    ) -> _CallIterator[A]:
        return continuation(_with_span(details), request)

    def intercept_stream_unary(
        self,
        continuation: Callable[[ClientCallDetails, Iterator[Q]], _CallFuture[A]],
        details: ClientCallDetails,
        requests: Iterator[Q],
    ) -> _CallFuture[A]:
        return continuation(_with_span(details), requests)

    def intercept_stream_stream(
        self,
        continuation: Callable[[ClientCallDetails, Iterator[Q]], _CallIterator[A]],
        details: ClientCallDetails,
        requests: Iterator[Q],
    ) -> _CallIterator[A]:
        return continuation(_with_span(details), requests)


def _with_span(details: ClientCallDetails) -> ClientCallDetails:
    """The call with the span around in its metadata; as it is without one."""
    parent = tracing.parent()
    if not parent:
        return details
    carrying = _Details(
        details.method,
        details.timeout,
        [*(details.metadata or ()), (tracing.HEADER, parent)],
        details.credentials,
        getattr(details, "wait_for_ready", None),
        getattr(details, "compression", None),
    )
    return cast("ClientCallDetails", carrying)


def carrying(channel: grpc.Channel) -> grpc.Channel:
    """The channel, whose calls carry the span around; the channel itself where no spans are started."""
    return grpc.intercept_channel(channel, _Carry()) if tracing.enabled() else channel
