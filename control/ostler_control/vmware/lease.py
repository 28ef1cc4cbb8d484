"""Export leases: a VM's disks as addresses to fetch them from, for as long as the lease is kept alive."""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from ostler_common.errors import (
    AbortedError,
    DeadlineExceededError,
    FailedPreconditionError,
    NotFoundError,
    OstlerError,
    UnavailableError,
)
from pyVmomi import vim

from ostler_control.vmware.connection import Connection
from ostler_control.vmware.errors import fault_error
from ostler_control.vmware.inventory import SourceVm
from ostler_control.vmware.tasks import POLL_S, Check

# A lease that a dead process left runs out after 5 minutes, or when its session ends.
_BUSY_TIMEOUT_S = 420.0
_READY_TIMEOUT_S = 900.0
_MAX_KEEP_ALIVE_S = 30.0

_DEVICE = re.compile(r"(?P<controller>[A-Za-z]+)(?P<bus>\d+):(?P<unit>\d+)", re.ASCII)


class LeaseLostError(UnavailableError):
    """The lease has ended before it was to: it ran out, or its session did. Another one may be asked for."""


@dataclass(frozen=True)
class LeaseFile:
    """A disk of a lease. disk_key: device key of the source's disk; url: complete; sha1_thumbprint: of the certificate
    that the URL's host shows, "" for the server's own; size_bytes: of the file when known, else 0."""

    device_id: str
    disk_key: int
    capacity_bytes: int
    url: str
    host: str
    port: int
    sha1_thumbprint: str = ""
    size_bytes: int = 0

    @property
    def is_on(self) -> tuple[str, int]:
        """Host and port that serve it."""
        return self.host, self.port


@dataclass(frozen=True)
class ManifestEntry:
    """What the server says that it sent of a disk. digest: hex, of algorithm "sha1" or "sha256"."""

    device_id: str
    size_bytes: int
    algorithm: str
    digest: str


@dataclass(frozen=True)
class Lease:
    """A lease that is ready. timeout_s: it ends when its progress is not told for that long."""

    connection: Connection
    ref: str
    files: tuple[LeaseFile, ...]
    timeout_s: float

    @property
    def keep_alive_s(self) -> float:
        """How often its progress is to be told."""
        return min(_MAX_KEEP_ALIVE_S, self.timeout_s / 4)

    def tell_progress(self, percent: int) -> None:
        """Keeps the lease alive. Raises LeaseLostError."""
        try:
            self.connection.call(lambda: self._object().HttpNfcLeaseProgress(min(max(percent, 0), 100)))
        except (NotFoundError, FailedPreconditionError):
            raise _lost(self.connection) from None

    def manifest(self) -> tuple[ManifestEntry, ...]:
        """What the server says it sent; a server may not know. Raises LeaseLostError."""
        try:
            entries = self.connection.call(self._object().HttpNfcLeaseGetManifest)
        except FailedPreconditionError:
            return ()
        except NotFoundError:
            raise _lost(self.connection) from None
        found = []
        for entry in entries or ():
            algorithm = str(entry.checksumType or "sha1") if entry.checksum else "sha1"
            digest = str(entry.checksum or entry.sha1 or "").lower()
            if digest:
                found.append(ManifestEntry(str(entry.key), int(entry.size), algorithm, digest))
        return tuple(found)

    def complete(self) -> None:
        """Ends the lease after all was fetched. Raises LeaseLostError."""
        try:
            self.connection.call(self._object().HttpNfcLeaseComplete)
        except (NotFoundError, FailedPreconditionError):
            raise _lost(self.connection) from None

    def abort(self) -> None:
        """Ends the lease, whatever was fetched; one that has ended, or a server that is away, is a success."""
        with contextlib.suppress(OstlerError):
            self.connection.call(lambda: self._object().HttpNfcLeaseAbort(None))

    def _object(self) -> vim.HttpNfcLease:
        return vim.HttpNfcLease(self.ref, self.connection.stub)


def open_lease(connection: Connection, ref: str, source: SourceVm, check: Check) -> Lease:
    """Asks for an export of a VM (`source` itself, or its clone), and waits until it is ready.

    Raises FailedPreconditionError VCENTER_POWER_STATE when the VM runs, LEASE_INCOMPLETE when it lacks a disk;
    AbortedError VCENTER_VM_BUSY; DeadlineExceededError LEASE_TIMEOUT.
    """
    lease = _ask(connection, ref, check)
    end = time.monotonic() + _READY_TIMEOUT_S
    try:
        while True:
            state = connection.call(lambda: str(lease.state), repeatable=True)
            if state == "ready":
                return _ready(connection, lease, source)
            if state == "error":
                raise fault_error(connection.server.name, connection.call(lambda: lease.error, repeatable=True))
            if time.monotonic() > end:
                raise DeadlineExceededError(
                    f"{connection.server.name} has not made the export of VM {source.name} ready", "LEASE_TIMEOUT"
                )
            check()
            time.sleep(POLL_S / 4)
    except BaseException:
        Lease(connection, str(lease._moId), (), 0).abort()
        raise


def _ask(connection: Connection, ref: str, check: Check) -> vim.HttpNfcLease:
    end = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            return connection.call(vim.VirtualMachine(ref, connection.stub).ExportVm)
        except AbortedError:
            if time.monotonic() > end:
                raise
        check()
        time.sleep(POLL_S)


def _ready(connection: Connection, lease: vim.HttpNfcLease, source: SourceVm) -> Lease:
    info = connection.call(lambda: lease.info, repeatable=True)
    assert info is not None
    keys = {disk.address: disk for disk in source.disks}
    files = []
    for url in info.deviceUrl:
        place = _DEVICE.fullmatch(str(url.key).rpartition("/")[2])
        if not url.disk or place is None:
            continue  # an NVRAM or a CD image
        disk = keys.pop((place["controller"], int(place["bus"]), int(place["unit"])), None)
        if disk is None:
            raise _incomplete(source, f"the export has a disk {url.key} that the VM does not have")
        address = urlsplit(str(url.url).replace("://*", f"://{connection.server.name}", 1))
        if address.scheme != "https" or not address.hostname:
            raise _incomplete(source, f"the export offers {disk.label} at an address that is not HTTPS")
        files.append(
            LeaseFile(
                device_id=str(url.key),
                disk_key=disk.key,
                capacity_bytes=disk.capacity_bytes,
                url=address.geturl(),
                host=address.hostname,
                port=address.port or 443,
                sha1_thumbprint=str(url.sslThumbprint or ""),
                size_bytes=int(url.fileSize or 0),
            )
        )
    if keys:
        labels = ", ".join(disk.label for disk in keys.values())
        raise _incomplete(source, f"the export lacks {labels}")
    return Lease(connection, str(lease._moId), tuple(files), float(info.leaseTimeout or 300))


def _incomplete(source: SourceVm, what: str) -> FailedPreconditionError:
    return FailedPreconditionError(f"VM {source.name}: {what}", "LEASE_INCOMPLETE", {"vm": source.name})


def _lost(connection: Connection) -> LeaseLostError:
    return LeaseLostError(f"{connection.server.name} has ended the export's lease", "LEASE_LOST")
