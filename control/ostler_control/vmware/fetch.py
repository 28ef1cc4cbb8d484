"""Fetching one disk of a lease, through broken connections, in pieces."""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx
from ostler_common.errors import FailedPreconditionError, UnavailableError

from ostler_control.vmware.connection import Connection
from ostler_control.vmware.lease import LeaseFile, LeaseLostError
from ostler_control.vmware.sink import Digest, Hasher, Part
from ostler_control.vmware.trust import pinned

# About a minute in all: a switch that restarts is no reason to give up.
_MAX_TRIES = 8
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.5, 30.0
# A host that sends nothing for this long is asked again.
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_SESSION_COOKIE = "vmware_soap_session"
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)", re.ASCII)
# A stream-optimized VMDK of data that does not compress is a little larger than the disk.
_MAX_OVERHEAD_BYTES = 64 << 20


class StoppedError(Exception):
    """The fetch was told to stop."""


@dataclass
class Fetch:
    """What fetches of one lease have in common. stop: set to end them; on_bytes: told how many more bytes came, or
    how many fewer when a disk starts over."""

    connection: Connection
    stop: threading.Event
    on_bytes: Callable[[int], None]

    def __post_init__(self) -> None:
        self._contexts: dict[tuple[str, int], ssl.SSLContext] = {}
        self._lock = threading.Lock()

    def run(self, file: LeaseFile, part: Part) -> Digest:
        """Brings a disk into `part`; leaves it unfinished. Returns what came.

        Raises UnavailableError DISK_STREAM_BROKE after several tries, LeaseLostError, FailedPreconditionError
        DISK_TOO_LARGE, DISK_REFUSED or VCENTER_UNTRUSTED; StoppedError.
        """
        hasher, failure = Hasher(), ""
        try:
            with httpx.Client(verify=self._context(file), timeout=_TIMEOUT, trust_env=False) as client:
                for attempt in range(_MAX_TRIES):
                    if attempt and self.stop.wait(min(_FIRST_PAUSE_S * 2 ** (attempt - 1), _MAX_PAUSE_S)):
                        raise StoppedError
                    try:
                        self._read(client, file, part, hasher)
                        return hasher.digest()
                    except (httpx.TransportError, _AgainError) as error:
                        failure = str(error)[:200] or type(error).__name__
            raise UnavailableError(
                f"{file.host} breaks off the transfer of a disk again and again: {failure}",
                "DISK_STREAM_BROKE",
                {"host": file.host},
            )
        except BaseException:
            self.on_bytes(-hasher.size_bytes)
            raise

    def _read(self, client: httpx.Client, file: LeaseFile, part: Part, hasher: Hasher) -> None:
        """One try: goes on where the last one broke off, where the server can."""
        with client.stream("GET", file.url, headers=self._headers(file, hasher.size_bytes)) as response:
            if _starts_over(response, hasher.size_bytes, file):
                part.restart()
                self.on_bytes(-hasher.size_bytes)
                hasher.restart()
            for piece in _pieces(response, hasher.size_bytes, file):
                if self.stop.is_set():
                    raise StoppedError
                part.write(piece)
                hasher.update(piece)
                self.on_bytes(len(piece))

    def _context(self, file: LeaseFile) -> ssl.SSLContext:
        """An ESXi host shows a certificate of its own, whose thumbprint the vCenter has told."""
        server = self.connection.server
        if file.is_on == (server.host, server.port) or not file.sha1_thumbprint:
            return self.connection.ssl_context
        with self._lock:
            if file.is_on not in self._contexts:
                self._contexts[file.is_on] = pinned(file.host, file.port, "sha1", file.sha1_thumbprint, 10.0)
            return self._contexts[file.is_on]

    def _headers(self, file: LeaseFile, offset: int) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        server = self.connection.server
        if file.is_on == (server.host, server.port):  # nobody else is to have the session
            headers["Cookie"] = f'{_SESSION_COOKIE}="{self.connection.session_id}"'
        return headers


class _AgainError(Exception):
    """This try failed; the next one may not."""


def _starts_over(response: httpx.Response, offset: int, file: LeaseFile) -> bool:
    """Whether the answer begins at the disk's first byte although `offset` bytes are here: servers need not resume."""
    status = response.status_code
    if status == httpx.codes.PARTIAL_CONTENT:
        range_match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if range_match is None or int(range_match[1]) != offset:
            raise _AgainError("an answer with a range that was not asked for")
        return False
    if status == httpx.codes.OK:
        return offset > 0
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN, httpx.codes.NOT_FOUND, httpx.codes.GONE):
        raise LeaseLostError(f"{file.host} does not serve the export's disk any more (HTTP {status})", "LEASE_LOST")
    if status >= 500 or status in (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS):
        raise _AgainError(f"HTTP {status}")
    raise FailedPreconditionError(f"{file.host} refuses to send a disk: HTTP {status}", "DISK_REFUSED")


def _pieces(response: httpx.Response, offset: int, file: LeaseFile) -> Iterator[bytes]:
    """The answer's body, proved to be as long as announced and no longer than the disk can need."""
    announced = response.headers.get("Content-Length", "")
    expected = int(announced) if announced.isascii() and announced.isdigit() else None
    most = file.capacity_bytes + file.capacity_bytes // 20 + _MAX_OVERHEAD_BYTES
    count = 0
    for piece in response.iter_raw():
        count += len(piece)
        if offset + count > most:
            raise FailedPreconditionError(
                f"{file.host} sends more of a disk than the disk can hold", "DISK_TOO_LARGE", {"host": file.host}
            )
        yield piece
    if expected is not None and count != expected:
        raise _AgainError(f"{count} bytes instead of {expected}")
