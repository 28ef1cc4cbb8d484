"""Reading files of a backup: a host opens the disks and sends what it finds, through this process, to the caller.

Nothing is written anywhere. The operation holds the backup, so that it is not deleted meanwhile, until the caller has
everything or is gone. When the process dies, the one that resumes the operation has no caller, and only ends it.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import grpc
from ostler.agent.v1 import volume_pb2
from ostler_common.errors import InternalError, OstlerError, bad_field, from_rpc_error

from ostler_control.agents import Agent, Agents
from ostler_control.database import session
from ostler_control.hosts.choose import choose_host
from ostler_control.hosts.probes import has_proved
from ostler_control.hosts.rows import address_of
from ostler_control.keys import Keyring
from ostler_control.models import Backup, Operation
from ostler_control.operations import Run, record_operation, workflow
from ostler_control.vm_backups.rows import disks_of, load, lock_ready
from ostler_control.volumes import host_jobs
from ostler_control.volumes.download import Transfer, find_transfer, operation_error, progress, send
from ostler_control.volumes.increments import parents_of
from ostler_control.volumes.sourcing import sources

MAX_PATH_BYTES = 4096
MAX_NAME = 256
_PROBE = "backup-files.guestfish"
_DEADLINE_S = 6 * 3600
_END_S, _POLL_S = 10.0, 0.1


@dataclass(frozen=True)
class WantedFiles:
    """path: absolute, b"" for the file systems only; file_system: to which it belongs, "" to find out; content: send
    the content, not a list."""

    path: bytes
    file_system: str
    content: bool


@dataclass(frozen=True)
class Part:
    """A part of what a host finds. sha256: of all content, at the end."""

    found: volume_pb2.ReadBackupFilesResponse
    sha256: str = ""


def read_files(backup: Backup, wanted: WantedFiles, user: str, operation_id: str) -> Operation:
    """Records the operation that holds a backup while its files are read.

    Raises InvalidArgumentError INVALID_FIELD; AbortedError RESOURCE_BUSY; FailedPreconditionError BACKUP_STATE,
    NO_CAPABLE_HOST.
    """
    _check(wanted)
    backup = lock_ready(backup)
    host_jobs.check_host_available(backup.pool, True)
    return record_operation("backup.read-files", backup, user, {}, operation_id=operation_id)


def _check(wanted: WantedFiles) -> None:
    if wanted.path and not wanted.path.startswith(b"/"):
        raise bad_field("path", 'must begin with "/"')
    if b"\0" in wanted.path or len(wanted.path) > MAX_PATH_BYTES:
        raise bad_field("path", f"must be at most {MAX_PATH_BYTES} bytes, without NUL")
    if len(wanted.file_system) > MAX_NAME or not wanted.file_system.isprintable():
        raise bad_field("file_system", f"must be at most {MAX_NAME} printable characters")
    if (wanted.content or wanted.file_system) and not wanted.path:
        raise bad_field("path", "is required", reason="REQUIRED")


@workflow("backup.read-files")
def _reading(run: Run) -> None:
    transfer = find_transfer(run.id)
    try:
        host_id: str = run.step("choose", lambda: _choose(run))
        run.step("send", lambda: send(run, host_id, transfer))
    finally:
        if transfer is not None:
            transfer.ended.set()


def _choose(run: Run) -> str:
    with session():
        pool = load(run.resource_id).pool
        return choose_host(pool, True, run.agents.busy, prefer=lambda host: has_proved(host, _PROBE)).id


def relay_files(
    transfer: Transfer,
    backup_id: str,
    wanted: WantedFiles,
    agents: Agents,
    keys: Keyring,
    is_wanted: Callable[[], bool],
) -> Iterator[Part]:
    """What to send to the caller, for as long as it is wanted. Raises the error with which the reading fails."""
    for _ in progress(transfer, is_wanted):
        yield Part(volume_pb2.ReadBackupFilesResponse(phase="waiting for a host"))
    if not transfer.ready.is_set():
        return
    request = volume_pb2.ReadBackupFilesRequest(
        disks=_chains(backup_id, keys), path=wanted.path, file_system=wanted.file_system, content=wanted.content
    )

    def is_over() -> bool:
        return transfer.ended.is_set() or not is_wanted()

    try:
        for found in _read(agents.at(address_of(transfer.host_id)), request, is_over):
            if is_over():
                break
            yield found
        if transfer.ended.is_set():
            raise operation_error(transfer.operation_id)
        if not is_wanted():
            return
    except OstlerError as error:
        transfer.error = error
        transfer.finished.set()
        _await_end(transfer.operation_id)
        raise
    transfer.finished.set()
    _await_end(transfer.operation_id)


def _read(agent: Agent, request: volume_pb2.ReadBackupFilesRequest, is_over: Callable[[], bool]) -> Iterator[Part]:
    """is_over: whether nobody wants it any more; it ends then, even if the host is silent."""
    digest, complete = hashlib.sha256(), False
    call = agent.volumes.ReadBackupFiles(request, timeout=_DEADLINE_S)

    def watch() -> None:
        while call.is_active():
            if is_over():
                call.cancel()
            time.sleep(_POLL_S)

    threading.Thread(target=watch, name="backup-files", daemon=True).start()
    try:
        for found in call:
            digest.update(found.data)
            complete = found.complete
            yield Part(found, digest.hexdigest() if complete and request.content else "")
    except grpc.RpcError as error:
        if is_over():
            return
        raise from_rpc_error(error) from None
    finally:
        call.cancel()
    if not complete:
        raise InternalError("a host sent less of a backup's files than it announced", "SIZE_MISMATCH")


def _await_end(operation_id: str) -> None:
    """Waits a moment until the operation has ended: the caller's next one would find the backup busy."""
    end = time.monotonic() + _END_S
    while time.monotonic() < end:
        with session():
            if Operation.get_by_id(operation_id).state.is_over:
                return
        time.sleep(_POLL_S)


def _chains(backup_id: str, keys: Keyring) -> list[volume_pb2.BackupChain]:
    """The disks by slot; of each its file, and what that builds on."""
    return [volume_pb2.BackupChain(layers=sources([disk, *parents_of(disk)], keys)) for disk in disks_of(backup_id)]
