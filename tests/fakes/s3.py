"""A small S3 server with one bucket, over TLS with a CA of its own. It is a fake, but it checks what a real one checks:
signatures and their time, MD5 and order of parts, and it keeps incomplete uploads until they are aborted.
"""

from __future__ import annotations

import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import SO_RCVBUF, SOL_SOCKET
from urllib.parse import parse_qsl, urlsplit

from ostler_common.identity import Identity, Kind
from ostler_common.secret import Secret
from ostler_control.objects.bucket import Bucket

from tests.fakes import s3_signature
from tests.fakes.certificates import ThrowawayCa
from tests.fakes.s3_signature import ACCESS_KEY, REGION, SECRET_KEY
from tests.fakes.s3_store import NAME, Answer, RefusedError, Request, Store

__all__ = ["ACCESS_KEY", "NAME", "REGION", "S3", "SECRET_KEY", "serving"]

_DRIP_S = 0.02


@dataclass
class S3(Store):
    """cut: bytes after which it hangs up, once each; drip: what it does for requests of that kind a little at a time,
    and never to the end: "take" what is sent, "headers", or "body"; ended: when the test is over."""

    address: str = "127.0.0.1"
    port: int = 0
    ca_pem: bytes = b""
    cut: list[int] = field(default_factory=list)
    drip: dict[str, str] = field(default_factory=dict)
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def endpoint(self) -> str:
        return f"https://{self.address}:{self.port}"

    def bucket(self, prefix: str = "fleet/one", **changed: str) -> Bucket:
        """With the keys that the server knows, unless changed."""
        values = {"endpoint": self.endpoint, "name": NAME, "access_key": ACCESS_KEY, "ca_pem": self.ca_pem.decode()}
        values |= {"region": REGION, "secret_key": SECRET_KEY} | changed
        secret = Secret(values.pop("secret_key").encode())
        return Bucket(prefix=prefix, secret_key=secret, **values)


@contextmanager
def serving(directory: Path, address: str = "127.0.0.1") -> Iterator[S3]:
    """directory: where its CA is kept; address: where it listens, and for what its certificate is."""
    served = S3(address=address)
    files = ThrowawayCa(directory, "s3").issue(Identity(Kind.HOST, "s3"), addresses=(address,))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    server = _Server(served)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    served.port, served.ca_pem = server.server_port, files.trust.read_bytes()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield served
    finally:
        served.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, s3: S3) -> None:
        super().__init__((s3.address, 0), _handler(s3))

    def handle_error(self, request: object, client_address: object) -> None:
        """Tests have callers that go, and that do not trust it: nothing to print."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def _handler(s3: S3) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        state = s3

    return Handler


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: S3

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        request = Request(self.command, parts.path, query, dict(self.headers))
        drip = self.state.drip.get(request.kind, "")
        if drip == "take":
            self._take_slowly()
            return
        request = replace(request, data=self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        try:
            s3_signature.check(request)
            answer = self.state.answer(request)
        except RefusedError as error:
            answer = Answer(error.status, error.body)
        if drip:
            self._answer_slowly(answer.status, drip)
        else:
            self._answer(answer)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

    def _answer(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.state.cut
        if cut and self.command == "GET" and len(answer.body) > cut[0]:
            self.wfile.write(answer.body[: cut.pop(0)])
            self.close_connection = True
            return
        self.wfile.write(answer.body)

    def _answer_slowly(self, status: int, drip: str) -> None:
        begin = f"HTTP/1.1 {status} Slow\r\n".encode()
        self.wfile.write(begin + (b"X-Filler: " if drip == "headers" else b"Content-Length: 1000000\r\n\r\n"))
        self._repeat(lambda: self.wfile.write(b"x"))

    def _take_slowly(self) -> None:
        self.connection.setsockopt(SOL_SOCKET, SO_RCVBUF, 64 << 10)
        self._repeat(lambda: self.rfile.read1(1024))

    def _repeat(self, step: Callable[[], object]) -> None:
        """Until the caller has gone."""
        while not self.state.ended.wait(_DRIP_S):
            step()
        self.close_connection = True
