"""Copies disks of a running VM as of one moment: a push-mode backup of libvirt into existing images."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import libvirt
import structlog
from ostler_common.errors import AbortedError, OstlerError

from ostler_agent.hypervisors.base import DiskCopy, Progress
from ostler_agent.hypervisors.libvirt import domains, freezing, increments, inventory, live
from ostler_agent.hypervisors.libvirt.errors import from_qemu_or_none, is_code, lost_connection, translated
from ostler_agent.hypervisors.libvirt.host import disk_file
from ostler_agent.hypervisors.libvirt.live import POLL_INTERVAL_S, retry_while_unavailable
from ostler_agent.hypervisors.libvirt.session import Session
from ostler_agent.hypervisors.libvirt.xml.copies import BackupDisk, backup_targets, backup_xml
from ostler_agent.spec import Freeze

log = structlog.get_logger(__name__)


def copy_disks(session: Session, vm_id: str, copies: Sequence[DiskCopy], progress: Progress) -> Freeze:
    """See `base.Backup.copy_disks`."""
    return _copy(session, vm_id, copies, "", progress)[0]


def copy_increments(
    session: Session, vm_id: str, copies: Sequence[DiskCopy], backup_id: str, progress: Progress
) -> tuple[Freeze, Mapping[str, str]]:
    """See `base.IncrementalBackup.copy_increments`."""
    try:
        return _copy(session, vm_id, copies, backup_id, progress)
    finally:
        _forget_checkpoints(session, vm_id)


def _copy(
    session: Session, vm_id: str, copies: Sequence[DiskCopy], backup_id: str, progress: Progress
) -> tuple[Freeze, Mapping[str, str]]:
    try:
        with session.locks.hold(vm_id):
            freeze = freezing.freeze(session, vm_id)
            try:
                reasons = begin(session, vm_id, copies, backup_id)
            finally:
                freeze = freezing.thaw(session, vm_id, freeze)
        finish(session, vm_id, copies[0].path, progress)
    finally:
        remove_keys(session, vm_id, copies)
    return freeze, reasons


def end_copies(session: Session, vm_id: str, copies: Sequence[DiskCopy]) -> None:
    """See `base.Backup.end_copies`."""
    for copy in copies:
        end_copy(session, vm_id, copy.target.key.key_id if copy.target.key else None, copy.path)
    _forget_checkpoints(session, vm_id)


def end_copy(session: Session, vm_id: str, key_id: str | None, path: Path) -> None:
    """See `base.LiveCopy.end_copy`."""
    freezing.thaw_left_frozen(session, vm_id)

    def end() -> None:
        with translated(f"ending a copy of VM {vm_id}"):
            domain = inventory.find(session.connect(), vm_id)
            while domain is not None and _writes_to(domain, path):
                _abort(domain)
                time.sleep(POLL_INTERVAL_S)
        live.remove_key(session, vm_id, key_id)

    retry_while_unavailable(end)


def remove_keys(session: Session, vm_id: str, copies: Sequence[DiskCopy]) -> None:
    """Removes the targets' keys. Tries every key; then raises the first failure."""
    with ExitStack() as stack:
        for copy in copies:
            key_id = copy.target.key.key_id if copy.target.key else None
            stack.callback(retry_while_unavailable, partial(live.remove_key, session, vm_id, key_id))


def _forget_checkpoints(session: Session, vm_id: str) -> None:
    def forget() -> None:
        with session.locks.hold(vm_id), translated(f"ending a copy of VM {vm_id}"):
            domain = inventory.find(session.connect(), vm_id)
            if domain is not None:
                increments.forget(domain)

    retry_while_unavailable(forget)


def begin(session: Session, vm_id: str, copies: Sequence[DiskCopy], backup_id: str = "") -> Mapping[str, str]:
    """Begins all copies at once; `finish` and `remove_keys` must follow. The caller holds the VM's lock.

    Returns by volume id why a disk is copied whole, if increments are asked for."""
    domain = domains.get_active(session, vm_id)
    volume_ids = ", ".join(copy.volume_id for copy in copies)
    with translated(f"copying volume {volume_ids} of VM {vm_id}"):
        disks = [live.find_disk(domain, vm_id, copy.volume_id) for copy in copies]
        devices = [disk.target for disk in disks]
        attached = inventory.active_disks(domain)
        live.refuse_busy(domain, vm_id, attached)
        keys = [copy.target.key for copy in copies if copy.target.key]
        if keys:
            session.secrets.install(vm_id, keys)
        plan = increments.prepare(domain, vm_id, copies, disks, backup_id) if backup_id else increments.NOTHING
        others = [other.target for other in attached if other.target not in devices]
        wanted = [
            BackupDisk(device, copy.target, disk_file(copy.path), plan.increments.get(copy.volume_id, ""))
            for device, copy in zip(devices, copies, strict=True)
        ]
        # One job: QEMU begins all copies in one transaction, so that they are of the same moment.
        flags = libvirt.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL
        domain.backupBegin(backup_xml(wanted, others), plan.checkpoint, flags)
    return plan.reasons


def finish(session: Session, vm_id: str, path: Path, progress: Progress) -> None:
    """Waits for the copies to end and reports their progress; aborts them on cancellation."""
    ended_by: OstlerError | None = None
    while True:
        stats = retry_while_unavailable(lambda: _stats_or_none(live.find_active(session, vm_id), vm_id, path))
        if stats is None:
            break
        progress.report("copying disk", stats.get("disk_processed", 0), stats.get("disk_total", 0))
        try:
            progress.check()
        except OstlerError as error:
            ended_by = error
            retry_while_unavailable(lambda: _abort(live.find_active(session, vm_id)))
        time.sleep(POLL_INTERVAL_S)
    completed = retry_while_unavailable(lambda: _completed(session, vm_id))
    if completed.get("success"):
        return
    _resume_if_paused(session, vm_id)
    if ended_by:
        raise ended_by
    said = str(completed.get("errmsg", "libvirt gives no reason"))
    message = f"copying a disk of VM {vm_id} failed: {said}"
    raise from_qemu_or_none(message) or AbortedError(message, "COPY_FAILED", {"vm": vm_id})


def _stats_or_none(domain: Any, vm_id: str, path: Path) -> Mapping[str, Any] | None:
    """The progress of the backup to that path; None if there is none."""
    with translated(f"inspecting a copy of VM {vm_id}"):
        if not _writes_to(domain, path):
            return None
        try:
            stats: Mapping[str, Any] = domain.jobStats()
        except libvirt.libvirtError as error:
            if not is_code(error, libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN):
                raise
            return None
        return stats


def _completed(session: Session, vm_id: str) -> Mapping[str, Any]:
    """The statistics of the VM's last backup job. Raises FailedPreconditionError VM_STOPPED."""
    domain = live.find_active(session, vm_id)
    with translated(f"inspecting how a copy of VM {vm_id} ended"):
        try:
            stats: Mapping[str, Any] = domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
        except libvirt.libvirtError as error:
            if is_code(error, libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN):
                raise live.stopped(vm_id) from error
            raise
    return stats if stats.get("operation") == libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP else {}


def _writes_to(domain: Any, path: Path) -> bool:
    """Whether a backup to that path is running."""
    try:
        return path in backup_targets(domain.backupGetXMLDesc())
    except libvirt.libvirtError as error:
        if is_code(
            error,
            libvirt.VIR_ERR_NO_DOMAIN_BACKUP,
            libvirt.VIR_ERR_OPERATION_INVALID,
            libvirt.VIR_ERR_NO_DOMAIN,
        ):
            return False
        raise


def _abort(domain: Any) -> None:
    with translated("ending a copy"):
        try:
            domain.abortJob()
        except libvirt.libvirtError as error:
            if lost_connection(error):
                raise
            log.info("cannot abort the copy yet", error=error.get_error_message())


def _resume_if_paused(session: Session, vm_id: str) -> None:
    """Resumes a VM that QEMU paused because the copy's pool was full; the VM's own disk is intact."""
    try:
        domain = live.find_active(session, vm_id)
        if tuple(domain.state()) == (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR):
            domain.resume()
            log.info("VM resumed after a failed copy", vm=vm_id)
    except (libvirt.libvirtError, OstlerError) as error:
        log.error("VM may still be paused after a failed copy", vm=vm_id, error=str(error))
