"""Failed calls raise the control plane's own error instead of gRPC's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar, cast

import grpc
from ostler_common.errors import UnavailableError, from_rpc_error

if TYPE_CHECKING:
    from grpc import ClientCallDetails, _CallFuture, _CallIterator

Q = TypeVar("Q")
A = TypeVar("A")


# A change that names its request is the same change when it is sent again: to another replica, most likely.
_PAUSES_S = (0.2, 1.0, 2.0)


class RaisesOstlerErrors(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Interceptor of a channel, for blocking calls and streams (a stub's `future` blocks with it)."""

    def intercept_unary_unary(
        self, continuation: Callable[[ClientCallDetails, Q], _CallFuture[A]], details: ClientCallDetails, request: Q
    ) -> _CallFuture[A]:
        call = continuation(details, request)
        for pause_s in _PAUSES_S:
            if not _may_be_repeated(call, request):
                break
            time.sleep(pause_s)
            call = continuation(details, request)
        return _ended(call)

    def intercept_stream_unary(
        self,
        continuation: Callable[[ClientCallDetails, Iterator[Q]], _CallFuture[A]],
        details: ClientCallDetails,
        requests: Iterator[Q],
    ) -> _CallFuture[A]:
        return _ended(continuation(details, requests))

    def intercept_unary_stream(
        self, continuation: Callable[[ClientCallDetails, Q], _CallIterator[A]], details: ClientCallDetails, request: Q
    ) -> _CallIterator[A]:
        return cast("_CallIterator[A]", _Answers(continuation(details, request)))

    def intercept_stream_stream(
        self,
        continuation: Callable[[ClientCallDetails, Iterator[Q]], _CallIterator[A]],
        details: ClientCallDetails,
        requests: Iterator[Q],
    ) -> _CallIterator[A]:
        return cast("_CallIterator[A]", _Answers(continuation(details, requests)))


def _may_be_repeated(call: _CallFuture[A], request: object) -> bool:
    """Whether the connection failed, and the control plane would recognize the request."""
    error = call.exception()
    if not isinstance(error, grpc.RpcError) or not getattr(request, "request_id", ""):
        return False
    found = from_rpc_error(error)
    return isinstance(found, UnavailableError) and found.reason == "RPC"


def _ended(call: _CallFuture[A]) -> _CallFuture[A]:
    error = call.exception()
    if isinstance(error, grpc.RpcError):
        raise from_rpc_error(error) from error
    return call


class _Answers(Generic[A]):
    """The answers of a streaming call; everything else (`cancel`, `code`, ...) is the call's own."""

    def __init__(self, call: _CallIterator[A]) -> None:
        self._call = call

    def __iter__(self) -> Iterator[A]:
        return self

    def __next__(self) -> A:
        try:
            return next(self._call)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def __getattr__(self, name: str) -> object:
        return getattr(self._call, name)
