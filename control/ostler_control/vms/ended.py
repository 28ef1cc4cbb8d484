"""VMs whose guests shut down by themselves, or whose QEMU ended: what their firmware keeps is copied.

It is copied so after a stop by Ostler. Without, the loss of the host would cost the guest what it changed in its last
run.
"""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import dataclass

from ostler_common.errors import AbortedError, NotFoundError
from peewee import fn

from ostler_control.catalog.firmware import UEFI
from ostler_control.database import session, transaction
from ostler_control.events import SYSTEM
from ostler_control.hosts.rows import is_up
from ostler_control.keys import Keyring
from ostler_control.models import Host, Operation, PowerState, Vm, VmState, VmTpm, tuples
from ostler_control.operations import Run, launch, lock_row, periodic, record_operation, workflow
from ostler_control.vms import firmware_states

_VERB = "vm.keep-firmware-state"
_ENDED = (PowerState.STOPPED, PowerState.CRASHED)


@dataclass(frozen=True)
class KeepInputs:
    """What `vm.keep-firmware-state` is given. host_id: where the VM ran."""

    host_id: str


@periodic
def keep_of_ended(_: Keyring) -> None:
    """Starts one `vm.keep-firmware-state` for every VM that has stopped by itself since it was started."""
    with session():
        ended = {_operation_id(vm): vm for vm in _ended()}
        begun = Operation.select(Operation.id).where(Operation.id.in_(list(ended)))
        for (operation_id,) in tuples(begun, tuple[str]):
            del ended[operation_id]
    for vm in ended.values():
        with contextlib.suppress(AbortedError, NotFoundError):  # somebody else was faster
            operation = _record(vm)
            if operation is not None:
                launch(operation)


def _ended() -> list[Vm]:
    """VMs that keep something, run as far as anybody asked, and are off, on hosts that can be asked."""
    with_tpm = VmTpm.select().where(VmTpm.vm == Vm.id)
    query = (
        Vm.select(Vm, Host)
        .join(Host, on=Vm.host)
        .where(
            (Vm.state == VmState.RUNNING) & Vm.power_state.in_(_ENDED) & (Vm.operation_id == ""),
            Vm.firmware.in_(UEFI) | fn.EXISTS(with_tpm),
        )
    )
    return [vm for vm in query if vm.host is not None and is_up(vm.host)]


def _operation_id(vm: Vm) -> str:
    """The operation's id: the same for one run of a VM, whoever looks, whatever the clocks do."""
    return str(uuid.uuid5(uuid.UUID(vm.id), f"ended/{vm.host_id}/{vm.state_time.isoformat()}"))


def _record(found: Vm) -> Operation | None:
    """None for a VM that is not as it was found, or that another replica has found, too."""
    operation_id = _operation_id(found)
    with transaction():
        vm = lock_row(found)
        if vm.state is not VmState.RUNNING or vm.host_id is None or _operation_id(vm) != operation_id:
            return None
        if Operation.select().where(Operation.id == operation_id).exists():
            return None
        return record_operation(_VERB, vm, SYSTEM, KeepInputs(vm.host_id), operation_id=operation_id)


@workflow(_VERB)
def _keep(run: Run) -> None:
    inputs = run.read(KeepInputs)
    run.step("keep", lambda: firmware_states.keep(run, inputs.host_id))
