"""Exporting a VM as an OVF template: its disks through a lease, several at once, then the descriptor and a manifest.

A lease that is lost (the session ended, or nobody kept it alive) is asked for again; disks that are whole are kept as
long as the VM's configuration is still the same.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from ostler_common.errors import AbortedError, FailedPreconditionError, OstlerError, UnavailableError

from ostler_control.vmware.connection import Connection
from ostler_control.vmware.descriptor import read_descriptor
from ostler_control.vmware.fetch import Fetch, StoppedError
from ostler_control.vmware.inventory import SourceVm
from ostler_control.vmware.lease import Lease, LeaseFile, LeaseLostError, open_lease
from ostler_control.vmware.read_inventory import read_vm
from ostler_control.vmware.sink import Digest, Hasher, Sink
from ostler_control.vmware.tasks import Check

MAX_STREAMS = 10
DESCRIPTOR_NAME, MANIFEST_NAME = "vm.ovf", "vm.mf"
_MAX_LEASES = 5
_MAX_CORRUPT = 3
_MAX_UPLOADS = 5
_UPLOAD_PAUSE_S = 1.0
_TICK_S = 0.5

Progress = Callable[[int, int], None]
"""Told now and then: bytes fetched, and bytes in all (an estimate)."""


@dataclass(frozen=True)
class Export:
    """What was exported. files: digest by file name; disks: file name by device key."""

    files: Mapping[str, Digest]
    disks: Mapping[int, str]


def stream_count(setting: int, disks: int) -> int:
    """How many disks are fetched at once. setting: -1 or 1 for one, 0 for one stream per disk; never more than 10."""
    if setting in (-1, 1) or disks < 2:
        return 1
    return max(1, min(setting or disks, disks, MAX_STREAMS))


def disk_file_name(key: int) -> str:
    """The name of a disk's file: by its device key, so that it cannot be mistaken for another one."""
    return f"disk-{key}.vmdk"


class _Keeper:
    """Keeps a lease alive, through outages that are shorter than the lease's own limit."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._next = 0.0
        self._last = time.monotonic()

    def tell(self, percent: int) -> None:
        """To be called often. Raises LeaseLostError, or UnavailableError when the outage lasts."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._lease.keep_alive_s
        try:
            self._lease.tell_progress(percent)
            self._last = time.monotonic()
        except LeaseLostError:
            raise
        except UnavailableError:
            if now > self._last + self._lease.timeout_s:
                raise


@dataclass
class Exporter:
    """Exports one VM. ref: what is exported, `source` itself or its clone; streams: see `stream_count`."""

    connection: Connection
    source: SourceVm
    ref: str
    sink: Sink
    streams: int
    check: Check
    on_progress: Progress

    def __post_init__(self) -> None:
        self._done: dict[int, Digest] = {}
        self._fetched_bytes = 0
        self._lock = threading.Lock()
        self._corrupt: dict[int, int] = {}

    def run(self) -> Export:
        """Brings all files into the sink. When it fails, the lease is ended and what is in the sink is the caller's
        to delete or to go on with.

        Raises an OstlerError: what `open_lease` and `Fetch.run` raise, FailedPreconditionError DISK_CORRUPT or
        OVF_REFUSED, AbortedError SOURCE_CHANGED.
        """
        self._keep_finished()
        for attempt in range(_MAX_LEASES):
            lease = open_lease(self.connection, self.ref, self.source, self.check)
            try:
                self._check_unchanged()
                self._fetch_missing(lease)
                descriptor = read_descriptor(self.connection, self.ref, self.source.name, self._ovf_files(lease))
                lease.complete()
                return self._write_texts(descriptor)
            except BaseException as error:
                lease.abort()
                if not isinstance(error, LeaseLostError) or attempt + 1 == _MAX_LEASES:
                    raise
        raise AssertionError("unreachable")

    def _keep_finished(self) -> None:
        """Disks that an earlier try brought whole."""
        for disk in self.source.disks:
            digest = self.sink.finished(disk_file_name(disk.key))
            if digest is not None:
                self._done[disk.key] = digest
                self._fetched_bytes += digest.size_bytes

    def _check_unchanged(self) -> None:
        """Disks of two different moments would make a broken VM. While the lease lasts nothing can change any more."""
        if self.ref == self.source.ref and read_vm(self.connection, self.ref).revision != self.source.revision:
            raise AbortedError(
                f"VM {self.source.name} was changed while it was being exported; try again", "SOURCE_CHANGED"
            )

    def _fetch_missing(self, lease: Lease) -> None:
        while missing := [file for file in lease.files if file.disk_key not in self._done]:
            self._fetch(lease, missing)
            self._drop_corrupt(lease)

    def _fetch(self, lease: Lease, files: list[LeaseFile]) -> None:
        stop = threading.Event()
        fetch = Fetch(self.connection, stop, self._count)
        with ThreadPoolExecutor(self.streams, thread_name_prefix="export") as pool:
            pending: set[Future[None]] = {pool.submit(self._fetch_one, fetch, file) for file in files}
            keeper = _Keeper(lease)
            try:
                while pending:
                    ended, pending = wait(pending, _TICK_S, FIRST_COMPLETED)
                    for future in ended:
                        future.result()
                    self.check()
                    done_bytes, total_bytes = self._progress(lease)
                    self.on_progress(done_bytes, total_bytes)
                    keeper.tell(min(99, done_bytes * 100 // max(total_bytes, 1)))
            except BaseException:
                stop.set()
                for future in pending:
                    future.cancel()
                raise

    def _fetch_one(self, fetch: Fetch, file: LeaseFile) -> None:
        for attempt in range(_MAX_UPLOADS):
            if attempt and fetch.stop.wait(_UPLOAD_PAUSE_S * 2 ** (attempt - 1)):
                return
            try:
                with self.sink.create(disk_file_name(file.disk_key)) as part:
                    digest = fetch.run(file, part)
                    part.finish(digest)
            except StoppedError:
                return
            except OstlerError as error:
                # The sink's host may be back in a moment, as after an update of its agent.
                if error.reason != "HOST_UNREACHABLE" or attempt + 1 == _MAX_UPLOADS:
                    raise
            else:
                self._done[file.disk_key] = digest
                return

    def _drop_corrupt(self, lease: Lease) -> None:
        """Compares with what the server says it sent; a disk that differs is fetched again."""
        sent = {entry.device_id: entry for entry in lease.manifest()}
        for file in lease.files:
            entry, digest = sent.get(file.device_id), self._done.get(file.disk_key)
            if entry is None or digest is None:
                continue
            ours = digest.sha256 if entry.algorithm == "sha256" else digest.sha1
            if (entry.size_bytes, entry.digest) == (digest.size_bytes, ours):
                continue
            count = self._corrupt[file.disk_key] = self._corrupt.get(file.disk_key, 0) + 1
            if count == _MAX_CORRUPT:
                raise FailedPreconditionError(
                    f"a disk of VM {self.source.name} comes damaged from {file.host} again and again",
                    "DISK_CORRUPT",
                    {"disk_key": str(file.disk_key)},
                )
            del self._done[file.disk_key]
            self._count(-digest.size_bytes)

    def _count(self, size_bytes: int) -> None:
        with self._lock:
            self._fetched_bytes += size_bytes

    def _progress(self, lease: Lease) -> tuple[int, int]:
        sizes = [file.size_bytes for file in lease.files]
        total_bytes = sum(sizes) if all(sizes) else self.source.used_bytes or self.source.capacity_bytes
        return self._fetched_bytes, max(total_bytes, self._fetched_bytes)

    def _ovf_files(self, lease: Lease) -> list[tuple[str, str, int]]:
        """Device id, file name and size of each disk."""
        return [
            (file.device_id, disk_file_name(file.disk_key), self._done[file.disk_key].size_bytes)
            for file in lease.files
        ]

    def _write_texts(self, descriptor: bytes) -> Export:
        names = {disk.key: disk_file_name(disk.key) for disk in self.source.disks}
        files = {names[key]: digest for key, digest in self._done.items()}
        files[DESCRIPTOR_NAME] = self._put(DESCRIPTOR_NAME, descriptor)
        self._put(MANIFEST_NAME, manifest_text(files).encode())
        return Export(files, names)

    def _put(self, name: str, data: bytes) -> Digest:
        hasher = Hasher()
        hasher.update(data)
        with self.sink.create(name) as part:
            part.write(data)
            part.finish(hasher.digest())
        return hasher.digest()


def manifest_text(files: Mapping[str, Digest]) -> str:
    """A manifest (.mf) as DSP0243 has it: with it a damaged file is found at once, not after minutes of conversion."""
    return "".join(f"SHA256({name})= {digest.sha256}\n" for name, digest in sorted(files.items()))
