"""A small HTTPS server with one file, with a certificate from a throw-away CA."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from ostler_common.identity import Identity, Kind

from tests.fakes.certificates import ThrowawayCa


@dataclass
class Web:
    """A server for `host`. resumes: whether it knows ranges; breaks: after so many bytes it hangs up, once each;
    redirects: path to address; asked: path, Range and Host of every request."""

    host: str
    data: bytes
    port: int = 0
    ca_pem: bytes = b""
    resumes: bool = True
    breaks: list[int] = field(default_factory=list)
    status: int = 200
    redirects: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    def url(self, path: str = "/image") -> str:
        return f"https://{self.host}:{self.port}{path}"


@contextmanager
def serving(directory: Path, host: str, data: bytes, listen: str = "127.0.0.1") -> Iterator[Web]:
    """A server with a certificate for `host`, a name or an address. directory: where its CA is kept."""
    served = Web(host, data)
    issuer = ThrowawayCa(directory, "web")
    files = issuer.issue(Identity(Kind.HOST, "web"), addresses=(host,))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    server = ThreadingHTTPServer((listen, 0), _handler(served))
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True)
    served.port, served.ca_pem = server.server_port, files.trust.read_bytes()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(web: Web) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            web.asked.append((self.path, self.headers.get("Range", ""), self.headers.get("Host", "")))
            if self.path in web.redirects:
                self.send_response(302)
                self.send_header("Location", web.redirects[self.path])
                self.end_headers()
            elif web.status != 200:
                self.send_error(web.status)
            else:
                self._send()

        def _send(self) -> None:
            first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
            begin, end = int(first), int(last or len(web.data) - 1)
            if web.resumes:
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {begin}-{end}/{len(web.data)}")
            else:
                begin, end = 0, len(web.data) - 1
                self.send_response(200)
            self.send_header("Content-Length", str(end + 1 - begin))
            self.end_headers()
            body = web.data[begin : end + 1]
            self.wfile.write(body[: web.breaks.pop(0)] if web.breaks else body)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    return Handler
