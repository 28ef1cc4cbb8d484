"""Reading areas of a disk's base file over HTTPS, from the datastore browser's /folder."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from urllib.parse import quote, urlencode

import httpx
from ostler_common.errors import AbortedError, FailedPreconditionError, UnavailableError
from pyVmomi import vim

from ostler_control.vmware.areas import Area
from ostler_control.vmware.connection import Connection
from ostler_control.vmware.fetch import StoppedError
from ostler_control.vmware.inventory import Disk
from ostler_control.vmware.properties import Managed, read_one

# About a minute in all, as for the export.
_MAX_TRIES = 8
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.5, 30.0
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_SESSION_COOKIE = "vmware_soap_session"
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)", re.ASCII)
_FILE_NAME = re.compile(r"\[([^\]]+)\] (.+)\.vmdk")
_MAX_DEPTH = 64


def datacenter_path(connection: Connection, host_ref: str) -> str:
    """Path of the datacenter that an ESXi host is in, as /folder wants it: "folder/name"."""
    at: Managed = vim.HostSystem(host_ref, connection.stub)
    names: list[str] = []
    for _ in range(_MAX_DEPTH):
        found = read_one(connection, type(at), str(at._moId), ("name", "parent"))
        parent = found.get("parent")
        if isinstance(at, vim.Datacenter) or names:
            if parent is None:  # the root folder has no name that counts
                return "/".join(reversed(names))
            names.append(str(found.get("name")))
        if parent is None:
            break
        at = parent
    raise FailedPreconditionError(f"{connection.server.name} has host {host_ref} in no datacenter", "VCENTER_FAULT")


class DiskReader:
    """Reads one disk. stop: set to end it. Leave its block to close the connection."""

    def __init__(self, connection: Connection, disk: Disk, datacenter: str, stop: threading.Event) -> None:
        """Raises FailedPreconditionError DISK_NOT_FLAT for a disk that is not one base file."""
        self._connection = connection
        self._disk = disk
        self._stop = stop
        self._url = _url(connection, disk, datacenter)
        self._client = httpx.Client(verify=connection.ssl_context, timeout=_TIMEOUT, trust_env=False)

    def __enter__(self) -> DiskReader:
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()

    def read(self, area: Area) -> Iterator[bytes]:
        """The area's bytes, through broken connections and expired sessions.

        Raises UnavailableError DISK_STREAM_BROKE after several tries, AbortedError DISK_MOVED, FailedPreconditionError
        DISK_NOT_FLAT or DISK_REFUSED; StoppedError.
        """
        done, failure = 0, ""
        for attempt in range(_MAX_TRIES):
            if attempt and self._stop.wait(min(_FIRST_PAUSE_S * 2 ** (attempt - 1), _MAX_PAUSE_S)):
                raise StoppedError
            try:
                for piece in self._get(Area(area.start + done, area.length - done)):
                    if self._stop.is_set():
                        raise StoppedError
                    done += len(piece)
                    yield piece
                if done == area.length:
                    return
                failure = f"{done} bytes instead of {area.length}"
            except httpx.TransportError as error:
                failure = str(error)[:200] or type(error).__name__
            except _AgainError as error:
                failure = str(error)
        raise UnavailableError(
            f"{self._connection.server.name} breaks off the transfer of {self._disk.label} again and again: {failure}",
            "DISK_STREAM_BROKE",
        )

    def _get(self, area: Area) -> Iterator[bytes]:
        headers = {
            "Accept-Encoding": "identity",
            "Range": f"bytes={area.start}-{area.end - 1}",
            "Cookie": f'{_SESSION_COOKIE}="{self._connection.session_id}"',
        }
        with self._client.stream("GET", self._url, headers=headers) as response:
            self._check(response, area)
            left = area.length
            for piece in response.iter_raw(1 << 20):
                if len(piece) > left:
                    raise FailedPreconditionError(
                        f"{self._connection.server.name} sends more of {self._disk.label} than was asked for",
                        "DISK_REFUSED",
                    )
                left -= len(piece)
                yield piece

    def _check(self, response: httpx.Response, area: Area) -> None:
        status, server = response.status_code, self._connection.server.name
        if status == httpx.codes.PARTIAL_CONTENT:
            found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if found is None or (int(found[1]), int(found[2])) != (area.start, area.end - 1):
                raise _AgainError("an answer with a range that was not asked for")
            if int(found[3]) != self._disk.capacity_bytes:
                raise _not_flat(self._disk, "its base file has another size than the disk")
            return
        if status == httpx.codes.UNAUTHORIZED:
            # The cheapest call that needs a session, so that `call` logs in again.
            self._connection.call(vim.ServiceInstance("ServiceInstance", self._connection.stub).CurrentTime)
            raise _AgainError("the session had expired")
        if status == httpx.codes.NOT_FOUND:
            raise AbortedError(f"{server} does not have the file of {self._disk.label} any more", "DISK_MOVED")
        if status >= 500 or status in (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS):
            raise _AgainError(f"HTTP {status}")
        raise FailedPreconditionError(
            f"{server} refuses to send {self._disk.label}: HTTP {status} (the role needs Datastore.Browse and"
            " Datastore.FileManagement)",
            "DISK_REFUSED",
        )


class _AgainError(Exception):
    """This try failed; the next one may not."""


def _url(connection: Connection, disk: Disk, datacenter: str) -> str:
    found = _FILE_NAME.fullmatch(disk.file_name)
    if found is None or disk.has_parent:
        raise _not_flat(disk, "it is not one base file")
    query = {"dcPath": datacenter, "dsName": found[1]} if connection.is_vcenter else {"dsName": found[1]}
    return f"https://{connection.server.name}/folder/{quote(found[2])}-flat.vmdk?{urlencode(query, quote_via=quote)}"


def _not_flat(disk: Disk, why: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"{disk.label} cannot be read while the VM runs: {why}; import it without --warm", "DISK_NOT_FLAT"
    )
