"""Mirrors a running VM's disk to another image and pivots to it: libvirt's block copy.

Writes are synchronous: a write completes for the guest only once the mirror has it. A ready mirror is therefore always
identical to the disk.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import libvirt
import structlog
from ostler_common.errors import AbortedError, FailedPreconditionError

from ostler_agent.hypervisors.base import MirrorState, Progress
from ostler_agent.hypervisors.libvirt import domains, inventory, live
from ostler_agent.hypervisors.libvirt.errors import lost_connection, translated
from ostler_agent.hypervisors.libvirt.host import disk_file
from ostler_agent.hypervisors.libvirt.live import POLL_INTERVAL_S, retry_while_unavailable
from ostler_agent.hypervisors.libvirt.session import Session
from ostler_agent.hypervisors.libvirt.xml.copies import mirror_xml
from ostler_agent.hypervisors.libvirt.xml.disks import AttachedDisk
from ostler_agent.spec import VolumeRef

log = structlog.get_logger(__name__)

# TRANSIENT_JOB: libvirt refuses to copy disks of persistent domains unless told that the job need not outlive the VM's
# process.
_FLAGS = (
    libvirt.VIR_DOMAIN_BLOCK_COPY_REUSE_EXT
    | libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB
    | libvirt.VIR_DOMAIN_BLOCK_COPY_SYNCHRONOUS_WRITES
)


def mirror_disk(
    session: Session,
    vm_id: str,
    volume_id: str,
    target: VolumeRef,
    path: Path,
    progress: Progress,
) -> None:
    """See `base.LiveCopy.mirror_disk`."""
    try:
        with session.locks.hold(vm_id):
            device = _begin(session, vm_id, volume_id, target, path)
        _wait(session, vm_id, device, target, progress)
    except BaseException:
        retry_while_unavailable(lambda: _end(session, vm_id, target))
        raise


def mirror_state(session: Session, vm_id: str, source: VolumeRef, target: VolumeRef) -> MirrorState:
    """See `base.LiveCopy.mirror_state`."""
    with translated(f"inspecting VM {vm_id}"):
        domain = inventory.find(session.connect(), vm_id)
        if domain is None:
            return MirrorState.NONE
        active = inventory.is_active(domain)
        attached = inventory.active_disks(domain) if active else inventory.configured_disks(domain)
    if any(disk.volume_id == target.volume_id for disk in attached):
        return MirrorState.PIVOTED
    disk = _mirrored(attached, target)
    if not active or disk is None or disk.mirror is None:
        return MirrorState.NONE
    return MirrorState.READY if disk.mirror.ready else MirrorState.COPYING


def pivot_disk(session: Session, vm_id: str, source: VolumeRef, target: VolumeRef) -> None:
    """See `base.LiveCopy.pivot_disk`."""

    def pivot() -> None:
        state = mirror_state(session, vm_id, source, target)
        if state is MirrorState.READY:
            with session.locks.hold(vm_id):
                _pivot(session, vm_id, target)
            state = mirror_state(session, vm_id, source, target)
        if state is MirrorState.COPYING:
            raise FailedPreconditionError(
                f"the mirror of volume {source.volume_id} is not complete yet (wait until it is)",
                "MIRROR_NOT_READY",
                {"vm": vm_id, "volume": source.volume_id},
            )
        if state is not MirrorState.PIVOTED:
            raise FailedPreconditionError(
                f"volume {source.volume_id} of VM {vm_id} has no mirror (did the VM stop? Start again)",
                "MIRROR_MISSING",
                {"vm": vm_id, "volume": source.volume_id},
            )
        live.remove_key(session, vm_id, source.key.key_id if source.key else None)

    retry_while_unavailable(pivot)


def cancel_mirror(session: Session, vm_id: str, source: VolumeRef, target: VolumeRef) -> None:
    """See `base.LiveCopy.cancel_mirror`."""

    def cancel() -> None:
        if mirror_state(session, vm_id, source, target) is MirrorState.PIVOTED:
            raise FailedPreconditionError(
                f"VM {vm_id} already uses volume {target.volume_id} in place of {source.volume_id}",
                "PIVOTED",
                {"vm": vm_id, "volume": target.volume_id},
            )
        _end(session, vm_id, target)

    retry_while_unavailable(cancel)


def _begin(session: Session, vm_id: str, volume_id: str, target: VolumeRef, path: Path) -> str:
    """Returns the disk's device name."""
    domain = domains.get_active(session, vm_id)
    with translated(f"mirroring volume {volume_id} of VM {vm_id}"):
        disk = live.find_disk(domain, vm_id, volume_id)
        live.refuse_busy(domain, vm_id, [disk])
        if target.key:
            session.secrets.install(vm_id, [target.key])
        domain.blockCopy(disk.target, mirror_xml(target, disk_file(path)), flags=_FLAGS)
    return disk.target


def _wait(session: Session, vm_id: str, device: str, target: VolumeRef, progress: Progress) -> None:
    while True:
        progress.check()
        disk, job = retry_while_unavailable(lambda: _inspect(live.find_active(session, vm_id), device, target))
        if disk is None or disk.mirror is None:
            retry_while_unavailable(lambda: live.find_active(session, vm_id))
            raise AbortedError(
                f"mirroring a disk of VM {vm_id} failed (is the pool full? If not, see libvirt's log)",
                "MIRROR_FAILED",
                {"vm": vm_id, "volume": target.volume_id},
            )
        if disk.mirror.ready:
            return
        progress.report("mirroring disk", job.get("cur", 0), job.get("end", 0))
        time.sleep(POLL_INTERVAL_S)


def _inspect(domain: Any, device: str, target: VolumeRef) -> tuple[AttachedDisk | None, dict[str, int]]:
    """The disk with its mirror (None if there is no mirror), and the progress of the copy."""
    with translated("inspecting a mirror"):
        try:
            job: dict[str, int] = domain.blockJobInfo(device)
        except libvirt.libvirtError as error:
            if lost_connection(error):
                raise
            job = {}
        return _mirrored(inventory.active_disks(domain), target), job


def _mirrored(attached: list[AttachedDisk], target: VolumeRef) -> AttachedDisk | None:
    return next((disk for disk in attached if disk.mirror and disk.mirror.volume_id == target.volume_id), None)


def _pivot(session: Session, vm_id: str, target: VolumeRef) -> None:
    """Requests the pivot. The caller checks whether it happened: an error may concern only the connection."""
    domain = live.find_active(session, vm_id)
    disk = _mirrored(inventory.active_disks(domain), target)
    if disk is None:
        return
    with translated(f"pivoting to the mirror in VM {vm_id}"):
        domain.blockJobAbort(disk.target, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)


def _end(session: Session, vm_id: str, target: VolumeRef) -> None:
    """Ends the mirror and removes its key."""
    with translated(f"ending a mirror of VM {vm_id}"):
        domain = inventory.find(session.connect(), vm_id)
        while domain is not None and inventory.is_active(domain):
            disk = _mirrored(inventory.active_disks(domain), target)
            if disk is None:
                break
            try:
                domain.blockJobAbort(disk.target)
            except libvirt.libvirtError as error:
                if lost_connection(error):
                    raise
                log.info("cannot end the mirror yet", error=error.get_error_message())
                time.sleep(POLL_INTERVAL_S)
    live.remove_key(session, vm_id, target.key.key_id if target.key else None)
