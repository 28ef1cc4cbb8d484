"""Downloads: an export is made, relayed to the caller, and deleted.

The caller's passphrase lives in this process's memory only, from the call to the copy: no row, no journal has it. The
operation holds the volume while it is copied and cleans up after it; when the process dies, whoever goes on with the
operation finds no caller any more, and only cleans up.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ostler.agent.v1 import volume_pb2
from ostler_common.errors import AbortedError, OstlerError
from ostler_common.secret import Secret

from ostler_control.agents import Agents
from ostler_control.database import session
from ostler_control.hosts.rows import address_of
from ostler_control.models import Operation, VolumeFile, new_id
from ostler_control.operations import Run, record_operation, workflow
from ostler_control.operations.records import ENDED, error_from_json, request_cancel
from ostler_control.operations.run import cancelled
from ostler_control.volumes import export_encryption, exports, matrix, streams, wire
from ostler_control.volumes.export_encryption import ExportEncryption
from ostler_control.volumes.sources import lock_source

_TICK_S = 0.2


@dataclass
class Transfer:
    """A download under way in this process. ready: the export can be read on `host_id`; over: the caller has all of it,
    or nobody wants it any more; ended: the operation does not keep the export any longer."""

    passphrase: Secret | None
    operation_id: str = field(default_factory=new_id)
    host_id: str = ""
    ready: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Piece:
    """What the caller is told next. percent: of the export's making, before the first data; sha256: at the end."""

    percent: int = 0
    data: bytes = b""
    file_size_bytes: int = 0
    sha256: str = ""


_transfers: dict[str, Transfer] = {}


@contextmanager
def transfer(passphrase: Secret | None) -> Iterator[Transfer]:
    """A new transfer; when the block ends before the caller has all, its operation is cancelled."""
    new = Transfer(passphrase)
    _transfers[new.operation_id] = new
    try:
        yield new
    finally:
        del _transfers[new.operation_id]
        if not new.over.is_set():
            request_cancel(new.operation_id)
            new.over.set()


def download(row: Any, format: str, how: ExportEncryption, user: str, operation_id: str) -> Operation:
    """Records the operation that makes an export of a Volume or Snapshot and holds it until it is read.

    Raises what `export_encryption.check` and `sources.take_source` raise.
    """
    export_encryption.check(how, row)
    source = lock_source(row, how.passphrase is not None)
    matrix.check(matrix.Operation.DOWNLOAD, source.row, source.host is not None)
    export_encryption.record(how, source, user, f"a download as {format}", operation_id)
    file = exports.record(source, how, format, operation_id)
    return record_operation(
        f"{source.kind}.download",
        source.row,
        user,
        exports.inputs(source, file),
        also=source.also,
        operation_id=operation_id,
    )


def relay(at_work: Transfer, agents: Agents, wanted: Callable[[], bool]) -> Iterator[Piece]:
    """What to send to the caller, for as long as it is wanted. Raises what the operation fails with."""
    yield from _progress(at_work, wanted)
    if not at_work.ready.is_set():
        return
    with session():
        file = VolumeFile.get(VolumeFile.operation_id == at_work.operation_id)
    digest = hashlib.sha256()
    first = True

    def check() -> None:
        if at_work.ended.is_set():
            raise _ended_as(at_work.operation_id)

    for total, data in streams.read(agents, address_of(at_work.host_id), wire.plain_ref(file), check):
        if not wanted():
            return
        digest.update(data)
        yield Piece(data=data, file_size_bytes=total if first else 0)
        first = False
    yield Piece(sha256=digest.hexdigest())
    at_work.over.set()


def _progress(at_work: Transfer, wanted: Callable[[], bool]) -> Iterator[Piece]:
    told = -1
    while not at_work.ready.wait(_TICK_S) and wanted():
        with session():
            operation: Any = Operation.get_by_id(at_work.operation_id)
        if operation.state in ENDED:
            raise _ended_as(at_work.operation_id)
        if operation.percent != told:
            told = operation.percent
            yield Piece(percent=told)


def _ended_as(operation_id: str) -> OstlerError:
    with session():
        operation: Any = Operation.get_by_id(operation_id)
    return error_from_json(operation.error) if operation.error else cancelled()


@workflow("volume.download")
def _download_volume(run: Run) -> None:
    _download(run)


@workflow("snapshot.download")
def _download_snapshot(run: Run) -> None:
    _download(run)


def _download(run: Run) -> None:
    at_work = _transfers.get(run.id)
    try:
        with run.undoing() as undo:
            host_id: str = run.step("choose", lambda: exports.choose(run))
            undo.push("discard", lambda: exports.discard(run))
            run.step("copy", lambda: _copy(run, host_id, at_work))
            run.step("let-go", lambda: exports.release_source(run))
            run.step("send", lambda: _send(run, host_id, at_work))
            undo.clear()
            run.always("discard", lambda: exports.discard(run))
    finally:
        if at_work is not None:
            at_work.ended.set()


def _copy(run: Run, host_id: str, at_work: Transfer | None) -> None:
    if at_work is not None:
        exports.copy(run, host_id, at_work.passphrase)
        return
    # An earlier try may have begun to copy, and what is being written cannot be deleted: that is to end first.
    request_cancel(run.id)
    begun = volume_pb2.CopyVolumeRequest(operation=run.ref())
    run.job(address_of(host_id), lambda agent: agent.volumes.CopyVolume, begun)


def _send(run: Run, host_id: str, at_work: Transfer | None) -> None:
    if at_work is None:
        raise AbortedError("the control plane ended in the middle of the download; try again", "DOWNLOAD_BROKE")
    at_work.host_id = host_id
    at_work.ready.set()
    while not at_work.over.wait(_TICK_S):
        run.check()
