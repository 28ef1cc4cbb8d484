"""What a small S3 server keeps, and its answers to requests whose signature was found good."""

from __future__ import annotations

import hashlib
import re
import threading
import uuid
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

NAME = "backups"
_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"

Content = Sequence[tuple[str, "str | Content"]]
"""Tags with what is in them."""


class RefusedError(Exception):
    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code

    @property
    def body(self) -> bytes:
        return f"<Error><Code>{self.code}</Code><Message>refused by a test</Message></Error>".encode()


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    data: bytes = b""

    @property
    def bucket(self) -> str:
        return self.path.lstrip("/").partition("/")[0]

    @property
    def key(self) -> str:
        return self.path.lstrip("/").partition("/")[2]

    @property
    def kind(self) -> str:
        """ "PUT", "put-part", "complete", ..."""
        if self.method == "POST":
            return "begin" if "uploads" in self.query else "complete"
        if "uploadId" in self.query:
            return "put-part" if self.method == "PUT" else "abort"
        return "uploads" if "uploads" in self.query else self.method


@dataclass(frozen=True)
class Answer:
    """headers: an empty one is left out, also of those that each answer has."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Store:
    """One bucket. page: how many uploads it lists at once; prefix: of tags of its XML; fail: answers with status and
    code, one for each request of that kind, before it does anything; asked: kinds of all requests."""

    objects: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, tuple[str, dict[int, bytes]]] = field(default_factory=dict)
    fail: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    page: int = 1000
    prefix: str = ""
    asked: list[str] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def answer(self, request: Request) -> Answer:
        """Raises RefusedError."""
        answers = {
            "PUT": self._put,
            "GET": self._get,
            "HEAD": self._head,
            "DELETE": self._delete,
            "uploads": self._uploads,
            "begin": self._begin,
            "put-part": self._put_part,
            "complete": self._complete,
            "abort": self._abort,
        }
        with self.lock:
            self.asked.append(request.kind)
            if self.fail.get(request.kind):
                raise RefusedError(*self.fail[request.kind].pop(0))
            if request.bucket != NAME:
                raise RefusedError(404, "NoSuchBucket")
            return answers[request.kind](request)

    def _put(self, request: Request) -> Answer:
        self.objects[request.key] = request.data
        return Answer(headers={"ETag": _etag(request.data)})

    def _get(self, request: Request) -> Answer:
        found = self._object(request.key)
        if wanted := re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", "")):
            first = int(wanted[1])
            return Answer(206, found[first:], {"Content-Range": f"bytes {first}-{len(found) - 1}/{len(found)}"})
        return Answer(body=found)

    def _head(self, request: Request) -> Answer:
        return Answer(headers={"Content-Length": str(len(self._object(request.key)))})

    def _delete(self, request: Request) -> Answer:
        self.objects.pop(request.key, None)
        return Answer(204)

    def _uploads(self, request: Request) -> Answer:
        marker = (request.query.get("key-marker", ""), request.query.get("upload-id-marker", ""))
        following = sorted(
            (name, upload_id)
            for upload_id, (name, _) in self.uploads.items()
            if name.startswith(request.query["prefix"]) and (name, upload_id) > marker
        )
        shown = following[: self.page]
        parts = [("Upload", [("Key", name), ("UploadId", upload_id)]) for name, upload_id in shown]
        truncated = len(following) > len(shown)
        markers = zip(("NextKeyMarker", "NextUploadIdMarker"), shown[-1], strict=True) if truncated else ()
        return self._xml("ListMultipartUploadsResult", [("IsTruncated", str(truncated).lower()), *markers, *parts])

    def _begin(self, request: Request) -> Answer:
        upload_id = f"{uuid.uuid4()}+/="  # such as some stores make
        self.uploads[upload_id] = (request.key, {})
        return self._xml("InitiateMultipartUploadResult", [("Key", request.key), ("UploadId", upload_id)])

    def _xml(self, name: str, content: Content) -> Answer:
        prefix = f"{self.prefix}:" if self.prefix else ""
        text = _tags(f"{prefix}{name}", content, prefix)
        declared = f' xmlns{":" if self.prefix else ""}{self.prefix}="{_NAMESPACE}"'
        text = text.replace(">", f"{declared}>", 1)
        return Answer(body=f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode())

    def _put_part(self, request: Request) -> Answer:
        if b64encode(hashlib.md5(request.data).digest()).decode() != request.headers.get("Content-MD5", ""):
            raise RefusedError(400, "BadDigest")
        self._upload(request)[int(request.query["partNumber"])] = request.data
        return Answer(headers={"ETag": _etag(request.data)})

    def _complete(self, request: Request) -> Answer:
        parts = self._upload(request)
        told = re.findall(r"<PartNumber>(\d+)</PartNumber><ETag>([^<]*)</ETag>", request.data.decode())
        if told != [(str(number), _etag(part)) for number, part in sorted(parts.items())]:
            raise RefusedError(400, "InvalidPart")
        self.objects[request.key] = b"".join(part for _, part in sorted(parts.items()))
        del self.uploads[request.query["uploadId"]]
        return self._xml("CompleteMultipartUploadResult", [("Key", request.key)])

    def _abort(self, request: Request) -> Answer:
        self._upload(request)
        del self.uploads[request.query["uploadId"]]
        return Answer(204)

    def _object(self, key: str) -> bytes:
        if key not in self.objects:
            raise RefusedError(404, "NoSuchKey")
        return self.objects[key]

    def _upload(self, request: Request) -> dict[int, bytes]:
        name, parts = self.uploads.get(request.query["uploadId"], ("", {}))
        if name != request.key:
            raise RefusedError(404, "NoSuchUpload")
        return parts


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


def _tags(name: str, content: str | Content, prefix: str) -> str:
    if not isinstance(content, str):
        content = "".join(_tags(prefix + tag, inner, prefix) for tag, inner in content)
    return f"<{name}>{content}</{name}>"
