"""Copying a running VM's disk as it is at one moment: libvirt's backup, pushed into an image that is there."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import libvirt
import structlog
from ostler_common.errors import AbortedError, OstlerError

from ostler_agent.hypervisors.base import Progress
from ostler_agent.hypervisors.libvirt import domains, inventory, live
from ostler_agent.hypervisors.libvirt.errors import from_qemu_or_none, is_code, lost_connection, translated
from ostler_agent.hypervisors.libvirt.host import disk_file
from ostler_agent.hypervisors.libvirt.live import POLL_INTERVAL_S, Connect, retry_while_unavailable
from ostler_agent.hypervisors.libvirt.locks import VmLocks
from ostler_agent.hypervisors.libvirt.secrets import Secrets
from ostler_agent.hypervisors.libvirt.xml.copies import backup_targets, backup_xml
from ostler_agent.spec import VolumeRef

log = structlog.get_logger(__name__)


def copy_disk(
    connect: Connect,
    locks: VmLocks,
    secrets: Secrets,
    vm_id: str,
    volume_id: str,
    target: VolumeRef,
    path: Path,
    progress: Progress,
) -> None:
    """See `base.LiveCopy.copy_disk`."""
    try:
        with locks.hold(vm_id):
            _begin(connect, secrets, vm_id, volume_id, target, path)
        _finish(connect, vm_id, path, progress)
    finally:
        retry_while_unavailable(
            lambda: live.remove_key(connect, locks, secrets, vm_id, target.key.key_id if target.key else None)
        )


def end_copy(connect: Connect, locks: VmLocks, secrets: Secrets, vm_id: str, key_id: str | None, path: Path) -> None:
    """See `base.LiveCopy.end_copy`."""

    def end() -> None:
        with translated(f"ending a copy of VM {vm_id}"):
            domain = inventory.find(connect(), vm_id)
            while domain is not None and _writes_to(domain, path):
                _abort(domain)
                time.sleep(POLL_INTERVAL_S)
        live.remove_key(connect, locks, secrets, vm_id, key_id)

    retry_while_unavailable(end)


def _begin(connect: Connect, secrets: Secrets, vm_id: str, volume_id: str, target: VolumeRef, path: Path) -> None:
    domain = domains.get_active(connect(), vm_id)
    with translated(f"copying volume {volume_id} of VM {vm_id}"):
        disk = live.find_disk(domain, vm_id, volume_id)
        attached = inventory.active_disks(domain)
        live.refuse_busy(domain, vm_id, attached)
        if target.key:
            secrets.hold(vm_id, [target.key])
        others = [other.target for other in attached if other.target != disk.target]
        xml = backup_xml(disk.target, others, target, disk_file(path))
        domain.backupBegin(xml, None, libvirt.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL)


def _finish(connect: Connect, vm_id: str, path: Path, progress: Progress) -> None:
    """Waits for the backup to end, telling its progress; stops it when the progress is cancelled."""
    ended_by: OstlerError | None = None
    while True:
        stats = retry_while_unavailable(lambda: _stats_or_none(live.find_active(connect, vm_id), vm_id, path))
        if stats is None:
            break
        progress.report("copying disk", stats.get("disk_processed", 0), stats.get("disk_total", 0))
        try:
            progress.check()
        except OstlerError as error:
            ended_by = error
            retry_while_unavailable(lambda: _abort(live.find_active(connect, vm_id)))
        time.sleep(POLL_INTERVAL_S)
    completed = retry_while_unavailable(lambda: _completed(connect, vm_id))
    if completed.get("success"):
        return
    _go_on_if_paused(connect, vm_id)
    if ended_by:
        raise ended_by
    said = str(completed.get("errmsg", "libvirt does not say why"))
    message = f"copying a disk of VM {vm_id} failed: {said}"
    raise from_qemu_or_none(message) or AbortedError(message, "COPY_FAILED", {"vm": vm_id})


def _stats_or_none(domain: Any, vm_id: str, path: Path) -> Mapping[str, Any] | None:
    """How far the backup to that path is; None when there is none, or no longer."""
    with translated(f"looking at a copy of VM {vm_id}"):
        if not _writes_to(domain, path):
            return None
        try:
            stats: Mapping[str, Any] = domain.jobStats()
        except libvirt.libvirtError as error:
            if not is_code(error, libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN):
                raise
            return None
        return stats


def _completed(connect: Connect, vm_id: str) -> Mapping[str, Any]:
    """What libvirt says of the VM's last job. Raises FailedPreconditionError VM_STOPPED."""
    domain = live.find_active(connect, vm_id)
    with translated(f"looking how a copy of VM {vm_id} ended"):
        try:
            stats: Mapping[str, Any] = domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
        except libvirt.libvirtError as error:
            if is_code(error, libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN):
                raise live.stopped(vm_id) from error
            raise
    return stats if stats.get("operation") == libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP else {}


def _writes_to(domain: Any, path: Path) -> bool:
    """Whether a backup to that path is under way."""
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
            log.info("the copy could not be stopped yet", error=error.get_error_message())


def _go_on_if_paused(connect: Connect, vm_id: str) -> None:
    """A guest's write that had to be copied first, to a pool that was full, has paused the VM: nothing is wrong now."""
    try:
        domain = live.find_active(connect, vm_id)
        if tuple(domain.state()) == (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR):
            domain.resume()
            log.info("VM goes on after a copy that failed", vm=vm_id)
    except (libvirt.libvirtError, OstlerError) as error:
        log.error("VM may have stopped at a copy that failed", vm=vm_id, error=str(error))
