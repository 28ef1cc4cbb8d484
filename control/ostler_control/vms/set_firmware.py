"""Another firmware for a stopped VM, and its TPM: added to it, or taken away.

What firmware keeps leaves the VM's last host first, so that nothing of the old stays there for the new to find.
"""

from __future__ import annotations

from dataclasses import dataclass

from ostler_common.errors import FailedPreconditionError
from ostler_common.hypervisors import Function

from ostler_control.catalog.firmware import SECURE_BOOT, is_uefi
from ostler_control.database import session, transaction
from ostler_control.hosts.rows import is_up, silent
from ostler_control.hypervisors import rules
from ostler_control.models import Host, Operation, Vm, VmSnapshot, VmState
from ostler_control.operations import Run, lock_row, record_operation, workflow
from ostler_control.vms import firmware_states, tpm
from ostler_control.vms.rows import check_not_elsewhere, load, wrong_state
from ostler_control.vms.start import undefine_stopped


@dataclass(frozen=True)
class FirmwareInputs:
    """What the VM has afterwards. last_host_id: where what its firmware keeps is now, "" for nowhere."""

    firmware: str
    tpm: bool
    last_host_id: str


def set_firmware(vm: Vm, user: str, firmware: str = "", with_tpm: bool | None = None) -> Operation:
    """Records the operation that gives a stopped VM another firmware or a TPM, or takes its TPM away.

    firmware "", with_tpm None: stays. New firmware has new variables; a TPM that is taken away is destroyed. Raises
    AbortedError RESOURCE_BUSY; FailedPreconditionError VM_STATE, RUNS_ELSEWHERE, HOST_SILENT, VM_SNAPSHOTS_EXIST,
    FUNCTION_NOT_SUPPORTED.
    """
    vm = lock_row(vm)
    check_not_elsewhere(vm)
    if vm.state is not VmState.STOPPED:
        raise wrong_state(vm, "stopped")
    has_tpm = tpm.has_one(vm.id)
    wanted = FirmwareInputs(firmware or vm.firmware, has_tpm if with_tpm is None else with_tpm, _last_host_id(vm))
    if (wanted.firmware, wanted.tpm) != (vm.firmware, has_tpm):
        _check_no_snapshots(vm)
        _check_functions(vm, wanted)
    return record_operation("vm.set-firmware", vm, user, wanted)


def _last_host_id(vm: Vm) -> str:
    """Raises FailedPreconditionError HOST_SILENT."""
    last = Host.get_or_none((Host.id == vm.last_host_id) & ~Host.removed)
    if last is None or not firmware_states.is_kept(vm.id):
        return ""
    if not is_up(last):
        raise silent(last, f"and what the firmware of VM {vm.name} keeps is there")
    return str(last.id)


def _check_no_snapshots(vm: Vm) -> None:
    """A snapshot has what the firmware kept: another one could not read it."""
    if VmSnapshot.select().where(VmSnapshot.vm_id == vm.id).exists():
        raise FailedPreconditionError(
            f"VM {vm.name} has snapshots, which hold what its firmware keeps; delete them first (ostler vm snapshot "
            f"list --vm {vm.name})",
            "VM_SNAPSHOTS_EXIST",
            {"vm": vm.id},
        )


def _check_functions(vm: Vm, wanted: FirmwareInputs) -> None:
    needs = {
        Function.UEFI: is_uefi(wanted.firmware),
        Function.SECURE_BOOT: wanted.firmware == SECURE_BOOT,
        Function.TPM: wanted.tpm,
    }
    for function, needed in needs.items():
        if needed:
            rules.need_of_type(function, vm.hypervisor_type)


@workflow("vm.set-firmware")
def _set(run: Run) -> None:
    inputs = run.read(FirmwareInputs)
    if inputs.last_host_id:
        run.step("take-firmware-state", lambda: firmware_states.hand_over(run, inputs.last_host_id))
        run.step("undefine-on-last-host", lambda: _undefine(run, inputs.last_host_id))
    run.step("record", lambda: _record(run, inputs))


def _undefine(run: Run, host_id: str) -> None:
    with session():
        host = Host.get_by_id(host_id)
    undefine_stopped(run, host)


def _record(run: Run, inputs: FirmwareInputs) -> None:
    with session():
        vm = load(run.resource_id)
    state = firmware_states.next_of(vm.id, run.keys)
    if inputs.firmware != vm.firmware:
        state.ClearField("variables")
    if not inputs.tpm:
        state.ClearField("tpm")
    with transaction():
        Vm.update(firmware=inputs.firmware).where(Vm.id == vm.id).execute()
        if not inputs.tpm:
            tpm.forget(vm.id)
        elif not tpm.has_one(vm.id):
            tpm.add(vm, run.keys)
        if state.variables or state.tpm:
            firmware_states.set_next(vm.id, state.SerializeToString(), run.keys)
        else:
            firmware_states.forget(vm.id)
