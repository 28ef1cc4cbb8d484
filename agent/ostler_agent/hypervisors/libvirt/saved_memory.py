"""Saves the memory of running VMs with copies of their disks of the same moment, and continues VMs from it.

The guest is suspended, libvirt writes its memory into the file, the copies of all disks begin, and the guest goes on.
libvirt needs no snapshot of its own for that: it keeps no record of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import libvirt
import structlog
from ostler_common.errors import AbortedError, DeadlineExceededError, FailedPreconditionError, OstlerError

from ostler_agent.hypervisors.base import DiskCopy, Paths, Progress
from ostler_agent.hypervisors.libvirt import activation, backup, domains, increments, inventory, live
from ostler_agent.hypervisors.libvirt.calls import Call
from ostler_agent.hypervisors.libvirt.errors import from_qemu_or_none, is_code, lost_connection, translated
from ostler_agent.hypervisors.libvirt.live import POLL_INTERVAL_S, retry_while_unavailable
from ostler_agent.hypervisors.libvirt.session import Session
from ostler_agent.hypervisors.libvirt.xml.saved_memory import for_definition, snapshot_xml, vm_of
from ostler_agent.spec import Freeze, VmSpec

log = structlog.get_logger(__name__)

MAX_PAUSE_S = 900.0  # how long a guest may stand still while its memory is written
ABORT_TIMEOUT_S = 60.0  # how long libvirt may take to end a save
_NOT_FROZEN = Freeze(False, "the snapshot has the guest's memory, so its file systems were not frozen")
# Why libvirt says that a VM is paused which we have suspended, also after libvirtd was restarted meanwhile.
_OUR_PAUSES = (
    libvirt.VIR_DOMAIN_PAUSED_UNKNOWN,
    libvirt.VIR_DOMAIN_PAUSED_USER,
    libvirt.VIR_DOMAIN_PAUSED_SAVE,
    libvirt.VIR_DOMAIN_PAUSED_SNAPSHOT,
)


def copy_with_memory(
    session: Session, vm_id: str, memory: Path, copies: Sequence[DiskCopy], progress: Progress
) -> Freeze:
    """See `memory.MemorySnapshot.copy_with_memory`."""
    try:
        with session.locks.hold(vm_id), _standing_still(session, vm_id):
            _save(session, vm_id, memory, progress)
            with translated(f"copying the disks of VM {vm_id}"):
                activation.activate(live.find_active(session, vm_id), vm_id)
            backup.begin(session, vm_id, copies)
        backup.finish(session, vm_id, copies[0].path, progress)
    finally:
        backup.remove_keys(session, vm_id, copies)
    return _NOT_FROZEN


def end_save(session: Session, vm_id: str, copies: Sequence[DiskCopy]) -> None:
    """See `memory.MemorySnapshot.end_save`."""
    retry_while_unavailable(partial(_go_on, session, vm_id))
    backup.end_copies(session, vm_id, copies)


def restore(session: Session, spec: VmSpec, paths: Paths, memory: Path) -> None:
    """See `memory.MemorySnapshot.restore`. The caller holds the VM's lock."""
    with translated(f"looking up VM {spec.vm_id}"):
        connection = session.connect()
        found = inventory.find(connection, spec.vm_id)
        if found is not None and inventory.is_active(found):
            return
    # Before libvirt reads the file: it names them.
    session.secrets.remove(spec.vm_id)
    session.secrets.install(spec.vm_id, spec.keys)
    try:
        domain = domains.define(session, spec, paths)
        session.logs.mark_start(spec.vm_id)
        with _restoring(spec):
            saved = connection.saveImageGetXMLDesc(str(memory), libvirt.VIR_DOMAIN_SAVE_IMAGE_XML_SECURE)
            if vm_of(saved) != spec.vm_id:
                raise _not_restored(spec, f"the memory is of VM {vm_of(saved)}")
            now = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE)
            connection.restoreFlags(str(memory), for_definition(saved, now), libvirt.VIR_DOMAIN_SAVE_RUNNING)
    except BaseException:
        session.secrets.remove(spec.vm_id)
        session.events.did_not_start(spec.vm_id)
        raise


@contextmanager
def _standing_still(session: Session, vm_id: str) -> Iterator[None]:
    """Suspends a guest while the block lasts. Raises FailedPreconditionError VM_PAUSED."""
    domain = domains.get_active(session, vm_id)
    with translated(f"suspending VM {vm_id}"):
        live.refuse_busy(domain, vm_id, inventory.active_disks(domain))
        if domain.state()[0] != libvirt.VIR_DOMAIN_RUNNING:
            raise FailedPreconditionError(
                f"the guest of VM {vm_id} stands still (see `ostler vm show`), so its memory cannot be saved",
                "VM_PAUSED",
                {"vm": vm_id},
            )
    try:
        with translated(f"suspending VM {vm_id}"):
            domain.suspend()
        yield
    finally:
        retry_while_unavailable(partial(_go_on, session, vm_id))


def _go_on(session: Session, vm_id: str) -> None:
    """Ends a save, if there is one, and lets the guest run again. Succeeds if the VM has stopped."""
    deadline = time.monotonic() + ABORT_TIMEOUT_S
    with translated(f"resuming VM {vm_id}"):
        domain = inventory.find(session.connect(), vm_id)
        while domain is not None and inventory.is_active(domain) and _is_saving(domain):
            if time.monotonic() > deadline:
                raise AbortedError(
                    f"the save of VM {vm_id}'s memory does not end; its guest stands still until its storage answers",
                    "VM_PAUSED",
                    {"vm": vm_id},
                )
            _abort(domain)
            time.sleep(POLL_INTERVAL_S)
        if domain is None or not inventory.is_active(domain):
            return
        state, why = domain.state()
        if state == libvirt.VIR_DOMAIN_PAUSED and why in _OUR_PAUSES:
            domain.resume()


def _save(session: Session, vm_id: str, memory: Path, progress: Progress) -> None:
    """Writes the memory of a suspended VM; on cancellation, or after MAX_PAUSE_S, ends that."""
    domain = live.find_active(session, vm_id)
    with translated(f"inspecting VM {vm_id}"):
        increments.forget(domain)  # with a checkpoint libvirt refuses
        xml = snapshot_xml(domain.XMLDesc(), memory)
    flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
    deadline = time.monotonic() + MAX_PAUSE_S
    ended_by: OstlerError | None = None
    call = Call("vm-memory", lambda: domain.snapshotCreateXML(xml, flags))
    while not call.wait(POLL_INTERVAL_S):
        try:
            if ended_by is None:
                _report(domain, progress)
                progress.check()
                if time.monotonic() > deadline:
                    raise DeadlineExceededError(
                        f"saving the memory of VM {vm_id} took more than {MAX_PAUSE_S:.0f} s (take the snapshot "
                        "without memory, or use a faster pool)",
                        "MEMORY_TIMEOUT",
                    )
        except OstlerError as error:
            ended_by = error
        if ended_by is not None:
            _abort(domain)  # in every round: libvirt's job may not have begun yet
    if ended_by is not None:
        raise ended_by
    if call.error is not None:
        raise _failure(session, vm_id, call.error)


def _failure(session: Session, vm_id: str, error: libvirt.libvirtError) -> OstlerError:
    message = f"saving the memory of VM {vm_id} failed: {error.get_error_message()}"
    if lost_connection(error):
        return AbortedError(message, "COPY_FAILED", {"vm": vm_id})
    retry_while_unavailable(lambda: live.find_active(session, vm_id))  # or it has stopped
    return from_qemu_or_none(message) or AbortedError(message, "COPY_FAILED", {"vm": vm_id})


def _report(domain: libvirt.virDomain, progress: Progress) -> None:
    try:
        stats = domain.jobStats()
    except libvirt.libvirtError:
        return  # the job has just ended
    total = stats.get("memory_total", 0)
    done = stats.get("memory_processed", 0)
    progress.report("saving memory", done, total, percent=min(50, 50 * done // total) if total else None)


def _is_saving(domain: libvirt.virDomain) -> bool:
    try:
        stats = domain.jobStats()
    except libvirt.libvirtError as error:
        if lost_connection(error):
            raise
        return False
    running = stats.get("type", libvirt.VIR_DOMAIN_JOB_NONE) != libvirt.VIR_DOMAIN_JOB_NONE
    return bool(running and stats.get("operation") == libvirt.VIR_DOMAIN_JOB_OPERATION_SNAPSHOT)


def _abort(domain: libvirt.virDomain) -> None:
    try:
        domain.abortJob()
    except libvirt.libvirtError as error:
        log.info("cannot end the save of a VM's memory yet", error=error.get_error_message())


@contextmanager
def _restoring(spec: VmSpec) -> Iterator[None]:
    what = f"continuing VM {spec.vm_id} from its memory"
    with translated(what):
        try:
            yield
        except libvirt.libvirtError as error:
            message = f"{what}: {error.get_error_message()}"
            if lost_connection(error) or from_qemu_or_none(message) or is_code(error, libvirt.VIR_ERR_NO_MEMORY):
                raise
            raise _not_restored(spec, error.get_error_message()) from error


def _not_restored(spec: VmSpec, why: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"VM {spec.vm_id} cannot continue from this memory: {why} (it does not fit the VM as it is now, or this host; "
        "the VM can be started without it)",
        "MEMORY_NOT_RESTORED",
        {"vm": spec.vm_id},
    )
