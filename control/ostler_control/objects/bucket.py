"""What the control plane does with the objects of a bucket, and the URLs with which hosts put and get them."""

from __future__ import annotations

import datetime
import html
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import httpx
from ostler_common import object_store
from ostler_common.call_limit import CallLimit
from ostler_common.errors import FailedPreconditionError, NotFoundError, OstlerError, UnavailableError
from ostler_common.secret import Secret
from ostler_common.xml_document import Element, XmlError

from ostler_control.objects.signing import Credentials, presign

T = TypeVar("T")

_OWN_LIFE_S = 300
_ATTEMPTS, _PAUSE_S = 3, 0.5
# Of a verb with all its calls and their attempts, and of one attempt. A probe and what it cleans up fit into a call of
# ours. A store may need minutes to put parts together, and then sends spaces meanwhile.
_TOTAL_S, _ATTEMPT_S = 60.0, 25.0
_PROBE_S, _CLEAN_S, _PROBE_ATTEMPT_S = 20.0, 8.0, 12.0
_COMPLETE_S, _COMPLETE_ATTEMPT_S = 600.0, 280.0
_MAX_ANSWER_BYTES = 4 << 20
_PROBE = b"Ostler tries whether it can put, get and delete an object."


@dataclass(frozen=True)
class _Answer:
    """size_bytes: as the header says it, -1 if it does not."""

    body: bytes
    size_bytes: int


@dataclass(frozen=True)
class Bucket:
    """A bucket with its keys. endpoint: https://HOST[:PORT]; prefix: "" or what names of objects begin with."""

    endpoint: str
    name: str
    prefix: str
    region: str
    access_key: str
    secret_key: Secret
    ca_pem: str = ""

    @property
    def url(self) -> str:
        """For people, and to tell it from others."""
        return "/".join(part for part in (self.endpoint, self.name, self.prefix) if part)

    def probe(self) -> None:
        """Puts and gets a small object, begins and aborts an upload of parts, and deletes the object.

        Raises UnavailableError STORE_NOT_REACHED, STORE_TOO_SLOW; NotFoundError BUCKET_NOT_FOUND;
        FailedPreconditionError STORE_UNTRUSTED, STORE_CREDENTIALS, STORE_REFUSED; InvalidArgumentError
        INVALID_CERTIFICATE.
        """
        key, limit = f"ostler-probe-{secrets.token_hex(8)}", CallLimit(_PROBE_S, _PROBE_ATTEMPT_S)
        self._tried(limit, lambda client: self._once(client, limit, "PUT", self._sign("PUT", key), _PROBE))
        try:
            found = self._call(limit, "GET", key)
            self._begin_upload(limit, key)
        finally:
            self._remove(CallLimit(_CLEAN_S, _CLEAN_S), key)
        if found.body != _PROBE:
            raise FailedPreconditionError(
                f"{object_store.server_of(self.endpoint)} gives other bytes than were put: it is no S3 store",
                "STORE_REFUSED",
            )

    def get_url(self, key: str, life_s: int) -> str:
        """Allows to get an object."""
        return self._sign("GET", key, life_s=life_s)

    def part_url(self, key: str, upload_id: str, number: int, life_s: int) -> str:
        """Allows to put a part of an upload. number: from 1."""
        return self._sign("PUT", key, {"partNumber": str(number), "uploadId": upload_id}, life_s)

    def begin_upload(self, key: str) -> str:
        """The id of a new upload of parts. Those of the same object that were begun before are aborted."""
        return self._begin_upload(_limit(), key)

    def _begin_upload(self, limit: CallLimit, key: str) -> str:
        self._abort_uploads(limit, key)
        found = self._ask(limit, "POST", key, {"uploads": ""}).text_of("UploadId")
        if not found:
            raise self._not_understood("begins an upload without an id")
        return found

    def complete_upload(self, key: str, upload_id: str, etags: Sequence[str], size_bytes: int) -> None:
        """Makes the parts an object, and checks its size. Idempotent.

        Raises FailedPreconditionError STORE_REFUSED when it is not as large as what was sent.
        """
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{html.escape(etag, quote=False)}</ETag></Part>"
            for number, etag in enumerate(etags, 1)
        )
        body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        try:
            limit = CallLimit(_COMPLETE_S, _COMPLETE_ATTEMPT_S)
            self._ask(limit, "POST", key, {"uploadId": upload_id}, content=body)
        except OstlerError:
            # A repeated call finds no such upload, but the object.
            if self.size_of(key) != size_bytes:
                raise
            return
        found = self.size_of(key)
        if found is None:
            raise self._not_understood("does not have an object that it has put together")
        if found != size_bytes:
            raise self._not_understood(f"has {found} bytes of an object of {size_bytes}")

    def abort_uploads(self, key: str) -> None:
        """Ends all uploads of an object that are not complete; the store deletes their parts. Idempotent."""
        self._abort_uploads(_limit(), key)

    def _abort_uploads(self, limit: CallLimit, key: str) -> None:
        """What is listed later does not depend on what was aborted: pages are asked for by names."""
        markers: dict[str, str] = {}
        while True:
            query = {"prefix": self._name(key), "uploads": "", **markers}
            page = self._ask(limit, "GET", "", query)
            for upload in page.children:
                if upload.name == "Upload" and upload.text_of("Key") == self._name(key):
                    self._delete(limit, key, {"uploadId": upload.text_of("UploadId")})
            if page.text_of("IsTruncated").lower() != "true":
                return
            names = {"key-marker": "NextKeyMarker", "upload-id-marker": "NextUploadIdMarker"}
            following = {marker: page.text_of(name) for marker, name in names.items() if page.text_of(name)}
            if not following or following == markers:
                raise self._not_understood("lists uploads without an end")
            markers = following

    def size_of(self, key: str) -> int | None:
        """Size of an object, bytes; None if there is none."""
        try:
            size_bytes = self._call(_limit(), "HEAD", key).size_bytes
        except NotFoundError:
            return None
        if size_bytes < 0:
            raise self._not_understood("does not say how large an object is")
        return size_bytes

    def delete(self, key: str) -> None:
        """Deletes an object. Idempotent. A bucket that is gone has none."""
        self._delete(_limit(), key)

    def remove(self, key: str) -> None:
        """Deletes an object and all that was sent for it."""
        self._remove(_limit(), key)

    def _remove(self, limit: CallLimit, key: str) -> None:
        try:
            self._abort_uploads(limit, key)
        except NotFoundError:
            return
        self._delete(limit, key)

    def _delete(self, limit: CallLimit, key: str, query: Mapping[str, str] | None = None) -> None:
        try:
            self._call(limit, "DELETE", key, query)
        except NotFoundError:
            pass

    def _name(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _sign(self, method: str, key: str, query: Mapping[str, str] | None = None, life_s: int = _OWN_LIFE_S) -> str:
        url = f"{self.endpoint}/{self.name}" + (f"/{self._name(key)}" if key else "")
        moment = datetime.datetime.now(datetime.UTC)
        return presign(method, url, Credentials(self.access_key, self.secret_key, self.region), life_s, moment, query)

    def _ask(self, limit: CallLimit, method: str, key: str, query: Mapping[str, str], content: bytes = b"") -> Element:
        """A call whose answer is XML."""
        return self._tried(
            limit, lambda client: self._told(client, limit, method, self._sign(method, key, query), content)
        )

    def _call(self, limit: CallLimit, method: str, key: str, query: Mapping[str, str] | None = None) -> _Answer:
        return self._tried(limit, lambda client: self._once(client, limit, method, self._sign(method, key, query)))

    def _tried(self, limit: CallLimit, work: Callable[[httpx.Client], T]) -> T:
        """Every call may be repeated: what it finds done already is no other state."""
        with object_store.client(self.ca_pem.encode()) as client:
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    return work(client)
                except UnavailableError:
                    if attempt == _ATTEMPTS or limit.is_over():
                        raise
                    time.sleep(_PAUSE_S * attempt)
        raise AssertionError

    def _told(self, client: httpx.Client, limit: CallLimit, method: str, url: str, content: bytes) -> Element:
        try:
            told = object_store.parse(self._once(client, limit, method, url, content).body)
        except XmlError as error:
            raise self._not_understood(f"answers what is no XML of an S3 store: {error}") from None
        if told.name == "Error":  # a store may fail after it has begun to answer with success
            raise object_store.refusal_told(httpx.codes.OK, told, self.endpoint)
        return told

    def _once(self, client: httpx.Client, limit: CallLimit, method: str, url: str, content: bytes = b"") -> _Answer:
        with object_store.answer(client, method, url, limit, content or None) as response:
            length = response.headers.get("Content-Length", "")
            body = b""
            for piece in response.iter_raw():
                body += piece
                if len(body) > _MAX_ANSWER_BYTES:
                    raise self._not_understood("answers with too much")
        return _Answer(body, int(length) if length.isdigit() else -1)

    def _not_understood(self, what: str) -> OstlerError:
        return FailedPreconditionError(f"{object_store.server_of(self.endpoint)} {what}", "STORE_REFUSED")


def _limit() -> CallLimit:
    """Of a verb with all its calls."""
    return CallLimit(_TOTAL_S, _ATTEMPT_S)
