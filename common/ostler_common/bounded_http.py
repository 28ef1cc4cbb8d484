"""HTTP in which no call exceeds its limit: not even if the server sends a byte now and then.

The timeouts of HTTP libraries begin anew with each byte. Here each wait of a connection is cut to what is left of the
call's limit. Only the resolver of names has a limit of its own.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import cast

import httpcore
import httpx

from ostler_common.call_limit import CallLimit

_RECORD_BYTES = 16 << 10  # TLS sends no more at once, so that the time of a longer piece is the sum of several waits
_DEFAULT_S = 60.0


class BoundedTransport(httpx.BaseTransport):
    """Sends requests, each within the CallLimit in its extension "limit". Not for use by several threads at once."""

    def __init__(self, trust: ssl.SSLContext) -> None:
        self._network = _Network()
        self._pool = httpcore.ConnectionPool(ssl_context=trust, network_backend=self._network)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Raises TooSlowError, and errors of httpcore."""
        self._network.limit = request.extensions.get("limit") or CallLimit(_DEFAULT_S, _DEFAULT_S)
        url = request.url
        answer = self._pool.handle_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=cast("httpx.SyncByteStream", request.stream),
                extensions=request.extensions,
            )
        )
        return httpx.Response(answer.status, headers=answer.headers, stream=_Body(answer))

    def close(self) -> None:
        self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        yield from self._answer.iter_stream()

    def close(self) -> None:
        self._answer.close()


class _Network(httpcore.NetworkBackend):
    """limit: of the call that goes on."""

    def __init__(self) -> None:
        self._inner = httpcore.SyncBackend()
        self.limit = CallLimit(_DEFAULT_S, _DEFAULT_S)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Tries all addresses of the name."""
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in _addresses(host, port):
            try:
                with self.waiting(timeout) as wait_s:
                    stream = self._inner.connect_tcp(address, port, wait_s, local_address, socket_options)
                return _Stream(stream, self)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    @contextmanager
    def waiting(self, timeout: float | None) -> Iterator[float]:
        """For one wait. Yields how long it may take. Raises TooSlowError when the limit ends it."""
        left_s = self.limit.left_s()
        try:
            yield left_s if timeout is None else min(left_s, timeout)
        except httpcore.TimeoutException:
            if timeout is None or left_s <= timeout:
                raise self.limit.error() from None
            raise


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, network: _Network) -> None:
        self._inner, self._network = inner, network

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with self._network.waiting(timeout) as wait_s:
            data = self._inner.read(max_bytes, wait_s)
        self._network.limit.moved(len(data))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for offset in range(0, len(buffer), _RECORD_BYTES):
            piece = buffer[offset : offset + _RECORD_BYTES]
            with self._network.waiting(timeout) as wait_s:
                self._inner.write(piece, wait_s)
            self._network.limit.moved(len(piece))

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        with self._network.waiting(timeout) as wait_s:
            return _Stream(self._inner.start_tls(ssl_context, server_hostname, wait_s), self._network)

    def close(self) -> None:
        self._inner.close()

    def get_extra_info(self, info: str) -> object:
        return self._inner.get_extra_info(info)


def _addresses(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise httpcore.ConnectError(str(error)) from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
