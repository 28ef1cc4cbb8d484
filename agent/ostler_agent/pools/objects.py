"""Puts parts of files to a store and gets objects from it, by URLs that the control plane has signed.

A transfer that stalls is given up, and what was transferred is compared with what was meant. No error names a URL.
"""

from __future__ import annotations

import hashlib
import os
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx
from ostler_common import object_store
from ostler_common.call_limit import CallLimit
from ostler_common.errors import FailedPreconditionError, NotFoundError, OstlerError, UnavailableError
from ostler_common.secret import Secret

from ostler_agent.jobs import JobContext
from ostler_agent.spec import RemoteObject

T = TypeVar("T")

ATTEMPTS, FIRST_PAUSE_S = 5, 1.0
MAX_ETAG = 256
_PIECE_BYTES = 1 << 20
# What moves less than this in that time is given up. It is far below what URLs hold for.
STALL_S, PROGRESS_BYTES = 60.0, 1 << 20

Sent = Callable[[int], None]
"""Told how many bytes of a part are sent."""


@dataclass(frozen=True)
class Part:
    """A part of a file, and where to put it. Its URL is a secret."""

    url: Secret
    offset: int
    size_bytes: int


def put(file: int, part: Part, client: httpx.Client, job: JobContext, sent: Sent) -> str:
    """Puts a part of an open file and returns the ETag that the store gives it. The store checks its MD5.

    Raises UnavailableError STORE_NOT_REACHED, STORE_TOO_SLOW, after some attempts; FailedPreconditionError
    STORE_UNTRUSTED, STORE_CREDENTIALS, STORE_REFUSED; NotFoundError BUCKET_NOT_FOUND, OBJECT_NOT_FOUND if the upload
    was aborted; what job.check() raises.
    """
    digest = hashlib.md5(usedforsecurity=False)
    for piece in _pieces(file, part, job):
        digest.update(piece)
    limit = _limit(part.size_bytes)
    return _tried(job, limit, lambda: _put_once(file, part, client, limit, job, sent, digest.digest()))


def _put_once(
    file: int, part: Part, client: httpx.Client, limit: CallLimit, job: JobContext, sent: Sent, md5: bytes
) -> str:
    url = part.url.reveal().decode()

    def content() -> Iterator[bytes]:
        done = 0
        for piece in _pieces(file, part, job):
            yield piece
            done += len(piece)
            sent(done)

    headers = {"Content-Length": str(part.size_bytes), "Content-MD5": b64encode(md5).decode()}
    with object_store.answer(client, "PUT", url, limit, content(), headers) as response:
        etag: str = response.headers.get("ETag", "")
    if not etag or len(etag) > MAX_ETAG or not etag.isprintable():
        raise FailedPreconditionError(
            f"{object_store.server_of(url)} answers without an ETag: it is no S3-compatible store", "STORE_REFUSED"
        )
    return etag


def get(remote: RemoteObject, path: Path, job: JobContext) -> None:
    """Gets an object to a new file, and checks its size and digest. The caller removes the file, also if it raises.

    Raises what `put` raises; NotFoundError VOLUME_NOT_FOUND if there is no such object; FailedPreconditionError
    OBJECT_DAMAGED if it is not as it was sent; OSError.
    """
    digest, done, limit = hashlib.sha256(), 0, _limit(remote.size_bytes)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with object_store.client(remote.ca_pem) as client:

            def get_rest() -> None:
                nonlocal done
                for piece in _received(client, remote, done, limit):
                    job.check()
                    if done + len(piece) > remote.size_bytes:
                        raise _damaged(remote, "is larger than what was sent")
                    _write(file, piece)
                    digest.update(piece)
                    done += len(piece)
                    job.report("downloading", done, remote.size_bytes, percent=0)
                if done < remote.size_bytes:
                    raise UnavailableError(f"{_where(remote)} ended an answer early", "STORE_NOT_REACHED")

            _tried(job, limit, get_rest)
    finally:
        os.close(file)
    if digest.hexdigest() != remote.sha256:
        raise _damaged(remote, "is not what was sent")


def _received(client: httpx.Client, remote: RemoteObject, offset: int, limit: CallLimit) -> Iterator[bytes]:
    """The bytes of an object from an offset."""
    url = remote.url.reveal().decode()
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    try:
        with object_store.answer(client, "GET", url, limit, headers=headers) as response:
            if _total(response) not in (None, remote.size_bytes):
                raise _damaged(remote, "has another size than what was sent")
            skip = offset if response.status_code == httpx.codes.OK else 0
            for piece in response.iter_raw(_PIECE_BYTES):
                if len(piece) > skip:
                    yield piece[skip:]
                skip = max(0, skip - len(piece))
    except NotFoundError as error:
        if error.reason != "OBJECT_NOT_FOUND":
            raise
        raise NotFoundError(error.message, "VOLUME_NOT_FOUND") from None


def _total(response: httpx.Response) -> int | None:
    """Size of the whole object, as the answer says it."""
    if response.status_code == httpx.codes.PARTIAL_CONTENT:
        told: str = response.headers.get("Content-Range", "").rpartition("/")[2]
    else:
        told = response.headers.get("Content-Length", "")
    return int(told) if told.isdigit() else None


def _limit(size_bytes: int) -> CallLimit:
    """Of a transfer of so much."""
    return CallLimit(STALL_S * (size_bytes // PROGRESS_BYTES + ATTEMPTS + 1), STALL_S, PROGRESS_BYTES)


def _tried(job: JobContext, limit: CallLimit, work: Callable[[], T]) -> T:
    pause_s = FIRST_PAUSE_S
    for _ in range(ATTEMPTS - 1):
        try:
            return work()
        except UnavailableError:
            if limit.is_over():
                raise
            job.wait(pause_s)
            pause_s *= 2
    return work()


def _pieces(file: int, part: Part, job: JobContext) -> Iterator[bytes]:
    """The bytes of a part. Raises what job.check() raises, FailedPreconditionError SIZE_MISMATCH."""
    offset, end = part.offset, part.offset + part.size_bytes
    while offset < end:
        job.check()
        piece = os.pread(file, min(_PIECE_BYTES, end - offset), offset)
        if not piece:
            raise FailedPreconditionError("the file is smaller than what is to be sent", "SIZE_MISMATCH")
        yield piece
        offset += len(piece)


def _write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _where(remote: RemoteObject) -> str:
    return object_store.server_of(remote.url.reveal().decode())


def _damaged(remote: RemoteObject, why: str) -> OstlerError:
    return FailedPreconditionError(f"the object at {_where(remote)} {why}", "OBJECT_DAMAGED")
