"""Copies of what VMs' firmware keeps on their hosts, UEFI variables and the state of a TPM, so that it follows a VM.

A copy is taken after each start, each stop (also one of the guest itself, see `ended`) and each live migration, and
when a stopped VM leaves its host. The state of a TPM is encrypted under the VM's own key already; a copy is sealed as
a whole.
"""

from __future__ import annotations

import datetime
import hashlib
from dataclasses import dataclass

import structlog
from ostler.agent.v1 import vm_pb2 as agent_pb2
from ostler.types.v1 import vm_pb2
from ostler_common.errors import InternalError, OstlerError, UnavailableError
from ostler_common.hypervisors import Function
from ostler_common.secret import new_passphrase

from ostler_control import events
from ostler_control.catalog.firmware import is_uefi
from ostler_control.database import session, transaction
from ostler_control.hosts.rows import address, is_up
from ostler_control.hypervisors import rules
from ostler_control.keys import Keyring, sealing
from ostler_control.keys.passphrases import delete_passphrase
from ostler_control.models import Host, Vm, VmFirmwareState, VmSnapshotFirmwareState, new_id, now
from ostler_control.operations import Run
from ostler_control.vms import machines, tpm
from ostler_control.vms.rows import load

MAX_BYTES = 6 << 20

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class StateCopy:
    """What a VM's firmware kept. content: a serialized FirmwareState; time: of what moment; current: it is not older
    than what the VM's host has."""

    content: bytes
    time: datetime.datetime
    current: bool


def is_kept(vm_id: str) -> bool:
    """Whether a VM's firmware keeps anything: other VMs are spared the steps."""
    with session():
        vm = Vm.get_or_none(Vm.id == vm_id)
        return vm is not None and (is_uefi(vm.firmware) or tpm.has_one(vm.id))


def keep_step(run: Run, host_id: str, kept: bool | None = None) -> None:
    """The last step of a workflow whose VM has started or stopped on this host: nothing is undone any more.

    kept: what `is_kept` says, if that is known.
    """
    if is_kept(run.resource_id) if kept is None else kept:
        run.always("keep-firmware-state", lambda: keep(run, host_id))


def keep(run: Run, host_id: str) -> None:
    """Inside a step: copies what the VM's firmware keeps on the host. Only logs when that fails: what it may cost is
    that a later host gets an older copy."""
    try:
        content = _read(run, host_id)
        if content is not None:
            _store(run.resource_id, content, run.keys)
    except OstlerError as error:
        log.warning("the firmware state of a VM is not copied", vm=run.resource_id, error=error.message)


def take_along(run: Run, last_host_id: str) -> None:
    """Inside a step: before a stopped VM leaves its last host for another. From a host that answers, the newest copy;
    else the last one goes, and an event tells how old it is. A copy that waits for the next start stays: the VM was
    reverted, or its start on another host failed.

    Raises what the agent raises, except that it does not answer: what only that host has is not given up.
    """
    if _is_pending(run.resource_id):
        return
    content = None
    try:
        content = _read(run, last_host_id)
    except UnavailableError as error:
        log.warning("the firmware state of a VM is not copied", vm=run.resource_id, error=error.message)
    if content is not None:
        _store(run.resource_id, content, run.keys)
    with transaction():
        old = _row(run.resource_id)
        if old is None:
            _record_new_tpm(run)
            return
        VmFirmwareState.update(overwrite=True).where(VmFirmwareState.id == old.id).execute()
        if content is None:
            _record_old(run, old)


def to_wire(vm: Vm, host_id: str, keys: Keyring) -> vm_pb2.FirmwareState | None:
    """The copy for the start of a VM on this host; None when there is none. Raises FailedPreconditionError SEAL_BROKEN.

    The host takes it in place of what it has only if it was not the VM's last, or the VM was reverted meanwhile.
    """
    with session():
        row = _row(vm.id)
        if row is None or not rules.supports(Function.FIRMWARE_STATE, Host.get_by_id(host_id)):
            return None
    found = vm_pb2.FirmwareState.FromString(_unseal(row, keys))
    found.id = row.state_id
    found.replace = row.overwrite or vm.last_host_id != host_id
    return found


def record_placed(vm_id: str) -> None:
    """The VM has started with it: within the caller's transaction."""
    VmFirmwareState.update(overwrite=False).where(VmFirmwareState.vm == vm_id).execute()


def forget(vm_id: str) -> None:
    """Deletes the copy: within the caller's transaction, before the VM's row goes."""
    row = _row(vm_id)
    if row is not None:
        VmFirmwareState.delete().where(VmFirmwareState.id == row.id).execute()
        delete_passphrase(row.passphrase_id)


def newest_copy(run: Run, vm_id: str, host_id: str) -> StateCopy | None:
    """What a VM's firmware keeps now on its host, or the last copy: of a host that does not answer or has lost it, and
    of a VM whose next start is with that copy. None where there is nothing. Raises what the agent raises otherwise.

    host_id: where the VM runs, or ran last.
    """
    pending = _is_pending(vm_id)
    try:
        content = None if pending else _read(run, host_id, vm_id)
    except UnavailableError as error:
        log.warning("the firmware state of a VM is not copied", vm=vm_id, error=error.message)
        content = None
    if content is not None:
        return StateCopy(content, now(), True)
    with session():
        row = _row(vm_id)
    return StateCopy(_unseal(row, run.keys), row.copy_time, pending) if row is not None else None


def hand_over(run: Run, host_id: str) -> None:
    """Inside a step: before a stopped VM's last host deletes what firmware keeps. The next start, wherever it is, is
    with that. Raises UnavailableError FIRMWARE_STATE_OLD unless all of it is there, and what the agent raises.
    """
    newest = newest_copy(run, run.resource_id, host_id)
    if newest is not None and not newest.current:
        raise UnavailableError(
            "the VM's last host does not hand out what its firmware keeps, and the last copy may be old; start the VM, "
            "stop it, and try again",
            "FIRMWARE_STATE_OLD",
        )
    if newest is not None:
        with transaction():
            set_next(run.resource_id, newest.content, run.keys)


def copy_to_clone(run: Run, source_id: str, host_id: str) -> None:
    """Inside a step: the run's VM, which has never started, gets copies of what another VM's firmware keeps now.

    host_id: where that runs, or ran last. Raises UnavailableError FIRMWARE_STATE_OLD unless all of it is there, and
    what the agent raises.
    """
    newest = newest_copy(run, source_id, host_id)
    if newest is None:
        return  # it has never started
    if not newest.current:
        raise UnavailableError(
            "the VM's host does not hand out what its firmware keeps, and the last copy may be old; clone it later, or "
            "without that",
            "FIRMWARE_STATE_OLD",
        )
    passphrase = tpm.passphrase_of(source_id, run.keys)
    with transaction():
        if passphrase is not None:
            tpm.set_key(run.resource_id, passphrase, run.keys)
        set_next(run.resource_id, newest.content, run.keys)


def next_of(vm_id: str, keys: Keyring) -> vm_pb2.FirmwareState:
    """What the next start of a VM is with, if its last host has nothing."""
    with session():
        row = _row(vm_id)
    return vm_pb2.FirmwareState.FromString(_unseal(row, keys)) if row is not None else vm_pb2.FirmwareState()


def set_next(vm_id: str, content: bytes, keys: Keyring) -> None:
    """The VM's next start, wherever it is, is with this: within the caller's transaction."""
    _store(vm_id, content, keys, overwrite=True)


def keep_for_snapshot(run: Run, vm_id: str, vm_snapshot_id: str, host_id: str) -> None:
    """Inside a step: keeps with a VM's snapshot what its firmware keeps now. host_id: where it runs, or ran last.

    Of a host that does not answer, the last copy. Raises what the agent raises otherwise.
    """
    newest = newest_copy(run, vm_id, host_id)
    if newest is None:
        return
    row_id, passphrase = new_id(), new_passphrase()
    with transaction():
        forget_of_snapshot(vm_snapshot_id)
        VmSnapshotFirmwareState.create(
            id=row_id,
            vm_snapshot=vm_snapshot_id,
            passphrase=run.keys.store(passphrase, row_id),
            sealed=sealing.seal(passphrase, newest.content, row_id),
        )


def revert(vm_id: str, vm_snapshot_id: str, keys: Keyring) -> None:
    """Inside a step: the VM's next start, wherever it is, is with what its firmware kept at the snapshot."""
    with session():
        row = VmSnapshotFirmwareState.get_or_none(VmSnapshotFirmwareState.vm_snapshot == vm_snapshot_id)
    if row is not None:
        _store(vm_id, _unseal(row, keys), keys, overwrite=True)


def forget_of_snapshot(vm_snapshot_id: str) -> None:
    """Deletes what was kept with a VM's snapshot: within the caller's transaction, before its row goes."""
    row = VmSnapshotFirmwareState.get_or_none(VmSnapshotFirmwareState.vm_snapshot == vm_snapshot_id)
    if row is not None:
        VmSnapshotFirmwareState.delete().where(VmSnapshotFirmwareState.id == row.id).execute()
        delete_passphrase(row.passphrase_id)


def _read(run: Run, host_id: str, vm_id: str = "") -> bytes | None:
    """What the VM's firmware keeps on a host; None where there is nothing to copy, or not all that there should be.

    Raises UnavailableError HOST_UNREACHABLE, and what the agent raises.
    """
    with session():
        vm = load(vm_id or run.resource_id)
        with_tpm = tpm.has_one(vm.id)
        host = Host.get_or_none((Host.id == host_id) & ~Host.removed)
        if not (with_tpm or is_uefi(vm.firmware)) or host is None:
            return None
        if not rules.supports(Function.FIRMWARE_STATE, host):
            return None
        if not is_up(host):
            raise UnavailableError(f"host {host.name} does not answer", "HOST_UNREACHABLE", {"host": host.name})
    request = agent_pb2.ReadFirmwareStateRequest(vm_id=vm.id)
    found = run.agents.call(address(host), lambda agent: agent.vms.ReadFirmwareState, request)
    if len(found.tpm) + len(found.variables) > MAX_BYTES:
        raise InternalError(f"host {host.name} sends too much as the firmware state of a VM", "FIRMWARE_STATE_SIZE")
    if with_tpm and not found.tpm:
        return None
    return vm_pb2.FirmwareState(variables=found.variables, tpm=found.tpm).SerializeToString() or None


def _store(vm_id: str, content: bytes, keys: Keyring, *, overwrite: bool = False) -> None:
    digest = hashlib.sha256(content).hexdigest()
    with transaction():
        old = _row(vm_id)
        if old is not None and old.sha256 == digest and not overwrite:
            VmFirmwareState.update(copy_time=now()).where(VmFirmwareState.id == old.id).execute()
            return
        forget(vm_id)
        row_id, passphrase = new_id(), new_passphrase()
        VmFirmwareState.create(
            id=row_id,
            vm=vm_id,
            passphrase=keys.store(passphrase, row_id),
            state_id=new_id(),
            sealed=sealing.seal(passphrase, content, row_id),
            sha256=digest,
            overwrite=overwrite or (old is not None and old.overwrite),
        )


def _record_old(run: Run, row: VmFirmwareState) -> None:
    record_event(
        run,
        "its last host is lost or does not answer, so it starts with a copy of what its firmware keeps (UEFI "
        f"variables, TPM), of {row.copy_time:%Y-%m-%d %H:%M:%S} UTC; what the guest has changed since is not in it",
    )


def _record_new_tpm(run: Run) -> None:
    """Of a VM that has a TPM and has run before."""
    if tpm.has_one(run.resource_id) and machines.of_vm(run.resource_id):
        record_event(run, "there is no copy of the state of its TPM, so it starts with a new, empty one")


def record_event(run: Run, message: str) -> None:
    """Tells what becomes of what the firmware of the run's VM keeps: within the caller's transaction."""
    vm = Vm.get_by_id(run.resource_id)
    events.record(
        "vm.firmware-state",
        events.Outcome.SUCCEEDED,
        run.user,
        "vm",
        vm.id,
        vm.name,
        message,
        operation_id=run.id,
        account_id=vm.account_id,
    )


def _is_pending(vm_id: str) -> bool:
    """Whether the copy goes before what any host has."""
    with session():
        row = _row(vm_id)
        return row is not None and bool(row.overwrite)


def _row(vm_id: str) -> VmFirmwareState | None:
    return VmFirmwareState.get_or_none(VmFirmwareState.vm == vm_id)


def _unseal(row: VmFirmwareState | VmSnapshotFirmwareState, keys: Keyring) -> bytes:
    what, remedy = "the copy of the VM's firmware state", "start the VM on its last host"
    return sealing.unseal(keys.open(row), bytes(row.sealed), row.id, what, remedy)
