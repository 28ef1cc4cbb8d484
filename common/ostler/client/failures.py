"""Failed calls raise the control plane's own error instead of gRPC's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar, cast

import grpc
from ostler_common.errors import from_rpc_error

if TYPE_CHECKING:
    from grpc import ClientCallDetails, _CallFuture, _CallIterator

Q = TypeVar("Q")
A = TypeVar("A")


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
        return _ended(continuation(details, request))

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
