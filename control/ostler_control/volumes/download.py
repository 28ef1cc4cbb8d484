"""Downloads: an export is written, relayed to the caller, and deleted.

The caller's passphrase lives only in this process's memory, from the call to the copy: no row and no journal has it.
The operation holds the volume while it is copied and cleans up after it. When the process dies, the one that resumes
the operation has no caller, and only cleans up.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ostler.agent.v1 import volume_pb2
from ostler_common.errors import AbortedError, OstlerError
from ostler_common.secret import Secret

from ostler_control.agents import Agents
from ostler_control.database import session
from ostler_control.hosts.rows import address_of
from ostler_control.models import Operation, VolumeFile, new_id
from ostler_control.operations import Run, record_operation, workflow
from ostler_control.operations.records import error_from_json, request_cancel
from ostler_control.operations.run import cancelled
from ostler_control.volumes import export_encryption, exports, matrix, streams, wire
from ostler_control.volumes.export_encryption import ExportEncryption
from ostler_control.volumes.sources import SourceRow, lock_source

_POLL_S = 0.2


@dataclass
class Transfer:
    """A download that runs in this process. ready: the export can be read on `host_id`; finished: the caller has all of
    it, or nobody wants it any more; error: why it has not, if that is to end the operation; ended: the operation does
    not keep the export any longer."""

    passphrase: Secret | None
    operation_id: str = field(default_factory=new_id)
    host_id: str = ""
    ready: threading.Event = field(default_factory=threading.Event)
    finished: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    error: OstlerError | None = None


@dataclass(frozen=True)
class Chunk:
    """What the caller is sent next. percent: of the export, before the first data; sha256: of all, at the end."""

    percent: int = 0
    data: bytes = b""
    file_size_bytes: int = 0
    sha256: str = ""


_transfers: dict[str, Transfer] = {}


@contextmanager
def transfer(passphrase: Secret | None) -> Iterator[Transfer]:
    """A new transfer; when the block ends before the caller has everything, its operation is cancelled."""
    new = Transfer(passphrase)
    _transfers[new.operation_id] = new
    try:
        yield new
    finally:
        del _transfers[new.operation_id]
        if not new.finished.is_set():
            request_cancel(new.operation_id)
            new.finished.set()


def find_transfer(operation_id: str) -> Transfer | None:
    """The transfer of an operation that was requested from this process."""
    return _transfers.get(operation_id)


def download(row: SourceRow, format: str, encryption: ExportEncryption, user: str, operation_id: str) -> Operation:
    """Records the operation that writes an export of a Volume or Snapshot and keeps it until it is read.

    Raises what `export_encryption.check` and `sources.lock_source` raise.
    """
    export_encryption.check(encryption, row)
    source = lock_source(row, encryption.passphrase is not None)
    matrix.check(matrix.Operation.DOWNLOAD, source.row, source.host is not None)
    export_encryption.record(encryption, source, user, f"a download as {format}", operation_id)
    return record_operation(
        f"{source.kind}.download",
        source.row,
        user,
        exports.record(source, encryption, format, operation_id),
        also=source.also,
        operation_id=operation_id,
    )


def relay(transfer: Transfer, agents: Agents, is_wanted: Callable[[], bool]) -> Iterator[Chunk]:
    """What to send to the caller, for as long as it is wanted. Raises the error with which the operation fails."""
    yield from progress(transfer, is_wanted)
    if not transfer.ready.is_set():
        return
    with session():
        file = VolumeFile.get(VolumeFile.operation_id == transfer.operation_id)
    digest = hashlib.sha256()
    first = True

    def check() -> None:
        if transfer.ended.is_set():
            raise operation_error(transfer.operation_id)

    for total, data in streams.read(agents, address_of(transfer.host_id), wire.plain_ref(file), check):
        if not is_wanted():
            return
        digest.update(data)
        yield Chunk(data=data, file_size_bytes=total if first else 0)
        first = False
    yield Chunk(sha256=digest.hexdigest())
    transfer.finished.set()


def progress(transfer: Transfer, is_wanted: Callable[[], bool]) -> Iterator[Chunk]:
    """The progress of the operation, until what it prepares is ready. Raises the error with which it fails."""
    last_percent = -1
    while not transfer.ready.wait(_POLL_S) and is_wanted():
        with session():
            operation = Operation.get_by_id(transfer.operation_id)
        if operation.state.is_over:
            raise operation_error(transfer.operation_id)
        if operation.percent != last_percent:
            last_percent = operation.percent
            yield Chunk(percent=last_percent)


def operation_error(operation_id: str) -> OstlerError:
    """With what an operation has ended."""
    with session():
        operation = Operation.get_by_id(operation_id)
    return error_from_json(operation.error) if operation.error else cancelled()


@workflow("volume.download")
def _download_volume(run: Run) -> None:
    _download(run)


@workflow("snapshot.download")
def _download_snapshot(run: Run) -> None:
    _download(run)


def _download(run: Run) -> None:
    transfer = find_transfer(run.id)
    try:
        with run.undoing() as undo:
            host_id: str = run.step("choose", lambda: exports.choose(run))
            undo.push("discard", lambda: exports.discard(run))
            run.step("copy", lambda: _copy(run, host_id, transfer))
            run.step("release-source", lambda: exports.release_source(run))
            run.step("send", lambda: send(run, host_id, transfer))
            undo.clear()
            run.always("discard", lambda: exports.discard(run))
    finally:
        if transfer is not None:
            transfer.ended.set()


def _copy(run: Run, host_id: str, transfer: Transfer | None) -> None:
    if transfer is not None:
        exports.copy(run, host_id, transfer.passphrase)
        return
    # An earlier attempt may have started the copy. A file that is being written cannot be deleted, so that must end
    # first: the cancelled call re-attaches to the job.
    request_cancel(run.id)
    if run.attempt == 1:
        run.check()  # nothing has begun: this ends it
    started = volume_pb2.CopyVolumeRequest(operation=run.ref())
    run.job(address_of(host_id), lambda agent: agent.volumes.CopyVolume, started)


def send(run: Run, host_id: str, transfer: Transfer | None) -> None:
    """Inside a step: waits until the caller has everything. Raises AbortedError DOWNLOAD_INTERRUPTED without one."""
    if transfer is None:
        raise AbortedError("the control plane ended during the download; try again", "DOWNLOAD_INTERRUPTED")
    transfer.host_id = host_id
    transfer.ready.set()
    while not transfer.finished.wait(_POLL_S):
        run.check()
    run.check()  # the caller may have gone
    if transfer.error is not None:
        raise transfer.error
