"""ISO images in the CD-ROM drives of VMs: rows while a VM is stopped, changed on its host too while it runs.

The row exists from the moment its operation is recorded, so that nobody deletes the ISO image meanwhile.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ostler.agent.v1 import vm_pb2 as agent_pb2
from ostler.types.v1 import vm_pb2
from ostler_common.errors import FailedPreconditionError, NotFoundError
from ostler_common.hypervisors import Function

from ostler_control.database import session, transaction
from ostler_control.hosts.rows import address_of
from ostler_control.hypervisors import rules
from ostler_control.models import Host, Iso, Operation, Vm, VmIso, new_id
from ostler_control.operations import Run, Undo, lock_row, record_operation, workflow
from ostler_control.templates.isos import lock as lock_iso
from ostler_control.vms.rows import set_attention
from ostler_control.volumes.rows import running_host

# As many as agents give a VM.
MAX_DRIVES = 2
_EJECT = "eject"


@dataclass(frozen=True)
class IsoInputs:
    """row_id: of VmIso; host_id: where the VM runs, "" when it is stopped."""

    row_id: str
    iso_name: str
    drive: int
    host_id: str


def attach_iso(vm: Vm, iso: Iso, boot_first: bool, user: str) -> Operation:
    """Records the operation that puts an ISO image into the first empty drive of a VM.

    Raises NotFoundError ISO_NOT_FOUND; FailedPreconditionError: ISO_ATTACHED, CDROM_FULL, VM_STATE, HOST_SILENT,
    FUNCTION_NOT_SUPPORTED.
    """
    vm, iso = lock_row(vm), lock_iso(iso)
    host = running_host(vm)
    _check_function(vm, host)
    attached = in_drives([vm.id]).get(vm.id, [])
    if any(row.iso_id == iso.id for row in attached):
        raise FailedPreconditionError(
            f"ISO image {iso.name} is in a drive of VM {vm.name} already", "ISO_ATTACHED", {"vm": vm.id}
        )
    taken = {row.drive for row in attached}
    drive = next((number for number in range(MAX_DRIVES) if number not in taken), None)
    if drive is None:
        raise FailedPreconditionError(
            f"all {MAX_DRIVES} CD-ROM drives of VM {vm.name} are in use; eject an ISO image first "
            f"(ostler vm iso eject {vm.name} {attached[0].iso.name})",
            "CDROM_FULL",
            {"vm": vm.id},
        )
    inputs = IsoInputs(new_id(), iso.name, drive, host.id if host else "")
    operation = record_operation("vm.attach-iso", vm, user, inputs)
    VmIso.create(id=inputs.row_id, vm=vm, iso=iso, drive=drive, boot_first=boot_first)
    return operation


def eject_iso(vm: Vm, iso: Iso | None, user: str) -> Operation:
    """Records the operation that takes an ISO image out of its drive; None: the only one.

    Raises NotFoundError ISO_NOT_ATTACHED; FailedPreconditionError ISO_UNCLEAR, VM_STATE, HOST_SILENT.
    """
    vm = lock_row(vm)
    host = running_host(vm)
    row = _find(vm, iso)
    inputs = IsoInputs(row.id, row.iso.name, row.drive, host.id if host else "")
    return record_operation("vm.eject-iso", vm, user, inputs)


def add(vm: Vm, images: Sequence[Iso]) -> None:
    """Puts ISO images into the drives of a new VM: within the caller's transaction. Raises ISO_NOT_FOUND."""
    for iso in sorted(images, key=lambda iso: iso.id):  # in one order, so that two callers cannot block each other
        lock_iso(iso)
    for drive, iso in enumerate(images):
        VmIso.create(vm=vm, iso=iso, drive=drive)


def in_drives(vm_ids: Sequence[str]) -> dict[str, list[VmIso]]:
    """What is in the drives of VMs, by VM and drive."""
    if not vm_ids:
        return {}
    found: defaultdict[str, list[VmIso]] = defaultdict(list)
    query = VmIso.select(VmIso, Iso).join(Iso).where(VmIso.vm.in_(list(vm_ids)))
    for row in query.order_by(VmIso.drive):
        found[row.vm_id].append(row)
    return found


def to_wire(vm_id: str) -> list[vm_pb2.Cdrom]:
    """What is in a VM's drives, as a host needs it."""
    with session():
        return [_cdrom(row) for row in in_drives([vm_id]).get(vm_id, [])]


def check_host(vm_id: str, host_id: str) -> None:
    """Raises FailedPreconditionError FUNCTION_NOT_SUPPORTED when the host would leave the VM's ISO images out."""
    with session():
        if VmIso.select().where(VmIso.vm == vm_id).exists():
            rules.need(Function.ISO, Host.get_by_id(host_id))


def _check_function(vm: Vm, host: Host | None) -> None:
    if host is not None:
        rules.need(Function.ISO, host)
    else:
        rules.need_of_type(Function.ISO, vm.hypervisor_type)


def _find(vm: Vm, iso: Iso | None) -> VmIso:
    attached = in_drives([vm.id]).get(vm.id, [])
    found = [row for row in attached if iso is None or row.iso_id == iso.id]
    if not found:
        what = f"ISO image {iso.name} is in no drive" if iso else "no ISO image is in a drive"
        raise NotFoundError(f"{what} of VM {vm.name} (ostler vm show {vm.name})", "ISO_NOT_ATTACHED", {"vm": vm.id})
    if len(found) > 1:
        names = ", ".join(row.iso.name for row in found)
        raise FailedPreconditionError(
            f"VM {vm.name} has several ISO images: say which to eject ({names})", "ISO_UNCLEAR", {"vm": vm.id}
        )
    return found[0]


@workflow("vm.attach-iso")
def _attach(run: Run) -> None:
    inputs = run.read(IsoInputs)
    with run.undoing() as undo:
        undo.push("record-failure", lambda: _record_failure(run, undo))
        if inputs.host_id:
            undo.push(_EJECT, lambda: _eject_on_host(run, inputs))
            run.step("insert", lambda: _insert_on_host(run, inputs))


@workflow("vm.eject-iso")
def _eject(run: Run) -> None:
    inputs = run.read(IsoInputs)
    if inputs.host_id:
        run.step(_EJECT, lambda: _eject_on_host(run, inputs))
    run.step("record", lambda: _delete_row(inputs))


def _insert_on_host(run: Run, inputs: IsoInputs) -> None:
    with session():
        cdrom = _cdrom(VmIso.select(VmIso, Iso).join(Iso).where(VmIso.id == inputs.row_id).get())
    _change(run, inputs, cdrom)


def _eject_on_host(run: Run, inputs: IsoInputs) -> None:
    _change(run, inputs, None)


def _change(run: Run, inputs: IsoInputs, cdrom: vm_pb2.Cdrom | None) -> None:
    request = agent_pb2.ChangeCdromRequest(operation=run.ref(), vm_id=run.resource_id, drive=inputs.drive, cdrom=cdrom)
    run.job(address_of(inputs.host_id), lambda agent: agent.vms.ChangeCdrom, request)


def _cdrom(row: VmIso) -> vm_pb2.Cdrom:
    return vm_pb2.Cdrom(
        iso_id=row.iso_id,
        sha256=row.iso.sha256,
        file_size_bytes=row.iso.file_size_bytes,
        drive=row.drive,
        boot_first=row.boot_first,
    )


def _delete_row(inputs: IsoInputs) -> None:
    with transaction():
        VmIso.delete().where(VmIso.id == inputs.row_id).execute()


def _record_failure(run: Run, undo: Undo) -> None:
    inputs = run.read(IsoInputs)
    if not undo.failed(_EJECT):
        _delete_row(inputs)
        return
    # It is not known whether the drive has it: the row still says so, and ejecting it works in either case.
    set_attention(run.resource_id, f"ISO image {inputs.iso_name} may be missing: {undo.error}; eject it")
