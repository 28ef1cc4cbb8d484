"""A small S3 server with one bucket, over TLS with a CA of its own. It is a fake, but it checks what a real one checks:
signatures and their time, MD5 and order of parts, and it keeps incomplete uploads until they are aborted.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import re
import ssl
import sys
import threading
import uuid
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlsplit

from ostler_common.identity import Identity, Kind
from ostler_common.secret import Secret
from ostler_control.objects.bucket import Bucket

from tests.fakes.certificates import ThrowawayCa

ACCESS_KEY, SECRET_KEY, REGION = "AKIDOSTLER", "a+secret/of=the~store", "eu-test-1"
NAME = "backups"


@dataclass
class S3:
    """What the server has. fail: answers with status and code, one for each request of that kind ("PUT", "complete",
    ...), before it does anything; cut: bytes after which it hangs up, once each; asked: kinds of all requests."""

    address: str = "127.0.0.1"
    port: int = 0
    ca_pem: bytes = b""
    objects: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, tuple[str, dict[int, bytes]]] = field(default_factory=dict)
    fail: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    cut: list[int] = field(default_factory=list)
    silent: threading.Event = field(default_factory=threading.Event)
    asked: list[str] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

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
    served = S3(address)
    files = ThrowawayCa(directory, "s3").issue(Identity(Kind.HOST, "s3"), addresses=(address,))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    server = _Server((address, 0), _handler(served))
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    served.port, served.ca_pem = server.server_port, files.trust.read_bytes()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield served
    finally:
        served.silent.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Tests have callers that go, and that do not trust it: nothing to print."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _RefusedError(Exception):
    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


def _handler(s3: S3) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _serve(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                status, headers, body = self._answer(data)
            except _RefusedError as error:
                status, headers = error.status, {}
                body = f"<Error><Code>{error.code}</Code><Message>refused by a test</Message></Error>".encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            if s3.cut and self.command == "GET" and len(body) > s3.cut[0]:
                self.wfile.write(body[: s3.cut.pop(0)])
                self.close_connection = True
                return
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

        def _answer(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
            path, query = self._signed()
            bucket, _, key = path.lstrip("/").partition("/")
            kind = self._kind(query)
            with s3.lock:
                s3.asked.append(kind)
                if s3.fail.get(kind):
                    raise _RefusedError(*s3.fail[kind].pop(0))
                if bucket != NAME:
                    raise _RefusedError(404, "NoSuchBucket")
                found: tuple[int, dict[str, str], bytes] = getattr(self, f"_{kind.lower().replace('-', '_')}")(
                    key, query, data
                )
                return found

        def _kind(self, query: dict[str, str]) -> str:
            if self.command == "POST":
                return "begin" if "uploads" in query else "complete"
            if "uploadId" in query:
                return "put-part" if self.command == "PUT" else "abort"
            return "uploads" if "uploads" in query else self.command

        def _put(self, key: str, query: dict[str, str], data: bytes) -> tuple[int, dict[str, str], bytes]:
            s3.objects[key] = data
            return 200, {"ETag": _etag(data)}, b""

        def _get(self, key: str, query: dict[str, str], data: bytes) -> tuple[int, dict[str, str], bytes]:
            found = self._object(key)
            if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
                first = int(wanted[1])
                return 206, {"Content-Range": f"bytes {first}-{len(found) - 1}/{len(found)}"}, found[first:]
            return 200, {}, found

        def _head(self, key: str, query: dict[str, str], data: bytes) -> tuple[int, dict[str, str], bytes]:
            return 200, {"Content-Length": str(len(self._object(key)))}, b""

        def _delete(self, key: str, query: dict[str, str], data: bytes) -> tuple[int, dict[str, str], bytes]:
            s3.objects.pop(key, None)
            return 204, {}, b""

        def _uploads(self, key: str, query: dict[str, str], data: bytes) -> tuple[int, dict[str, str], bytes]:
            found = "".join(
                f"<Upload><Key>{name}</Key><UploadId>{upload_id}</UploadId></Upload>"
                for upload_id, (name, _) in s3.uploads.items()
                if name.startswith(query["prefix"])
            )
            return 200, {}, f"<ListMultipartUploadsResult>{found}</ListMultipartUploadsResult>".encode()

        def _begin(self, key: str, query: dict[str, str], data: bytes) -> tuple[int, dict[str, str], bytes]:
            upload_id = f"{uuid.uuid4()}+/="  # such as some stores make
            s3.uploads[upload_id] = (key, {})
            return 200, {}, f"<R><Key>{key}</Key><UploadId>{upload_id}</UploadId></R>".encode()

        def _put_part(self, key: str, query: dict[str, str], data: bytes) -> tuple[int, dict[str, str], bytes]:
            if b64encode(hashlib.md5(data).digest()).decode() != self.headers.get("Content-MD5", ""):
                raise _RefusedError(400, "BadDigest")
            self._upload(key, query)[int(query["partNumber"])] = data
            return 200, {"ETag": _etag(data)}, b""

        def _complete(self, key: str, query: dict[str, str], data: bytes) -> tuple[int, dict[str, str], bytes]:
            parts = self._upload(key, query)
            told = re.findall(r"<PartNumber>(\d+)</PartNumber><ETag>([^<]*)</ETag>", data.decode())
            if told != [(str(number), _etag(part)) for number, part in sorted(parts.items())]:
                raise _RefusedError(400, "InvalidPart")
            s3.objects[key] = b"".join(part for _, part in sorted(parts.items()))
            del s3.uploads[query["uploadId"]]
            return 200, {}, b"<CompleteMultipartUploadResult/>"

        def _abort(self, key: str, query: dict[str, str], data: bytes) -> tuple[int, dict[str, str], bytes]:
            self._upload(key, query)
            del s3.uploads[query["uploadId"]]
            return 204, {}, b""

        def _object(self, key: str) -> bytes:
            if key not in s3.objects:
                raise _RefusedError(404, "NoSuchKey")
            return s3.objects[key]

        def _upload(self, key: str, query: dict[str, str]) -> dict[int, bytes]:
            name, parts = s3.uploads.get(query["uploadId"], ("", {}))
            if name != key:
                raise _RefusedError(404, "NoSuchUpload")
            return parts

        def _signed(self) -> tuple[str, dict[str, str]]:
            """Path and query of a request whose signature holds now."""
            parts = urlsplit(self.path)
            query = dict(parse_qsl(parts.query, keep_blank_values=True))
            signature, told = query.pop("X-Amz-Signature", ""), query.get("X-Amz-Credential", "").split("/")
            if told[0] != ACCESS_KEY:
                raise _RefusedError(403, "InvalidAccessKeyId")
            signed = "&".join(f"{quote(name, safe='')}={quote(query[name], safe='')}" for name in sorted(query))
            text = f"{self.command}\n{parts.path}\n{signed}\nhost:{self.headers['Host']}\n\nhost\nUNSIGNED-PAYLOAD"
            begin, scope = query["X-Amz-Date"], "/".join(told[1:])
            text = f"AWS4-HMAC-SHA256\n{begin}\n{scope}\n{hashlib.sha256(text.encode()).hexdigest()}"
            key = f"AWS4{SECRET_KEY}".encode()
            for part in (begin[:8], REGION, "s3", "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            if hmac.digest(key, text.encode(), "sha256").hex() != signature:
                raise _RefusedError(403, "SignatureDoesNotMatch")
            age = datetime.datetime.now(datetime.UTC).replace(tzinfo=None) - datetime.datetime.strptime(
                begin, "%Y%m%dT%H%M%SZ"
            )
            if not -900 < age.total_seconds() < int(query["X-Amz-Expires"]):
                raise _RefusedError(403, "AccessDenied")
            return parts.path, query

    return Handler


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'
