"""VMs whose guests shut down by themselves, or whose QEMU ended: what their firmware keeps is copied.

It is copied so after a stop by Ostler. Without, the loss of the host would cost the guest what it changed in its last
run.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from ostler_common.errors import AbortedError, NotFoundError
from peewee import ModelSelect, fn

from ostler_control.database import session, transaction
from ostler_control.events import SYSTEM
from ostler_control.hosts.rows import is_up
from ostler_control.keys import Keyring
from ostler_control.models import Host, Operation, PowerState, Vm, VmState, VmTpm
from ostler_control.operations import Run, launch, lock_row, periodic, record_operation, workflow
from ostler_control.vms import firmware_states

_VERB = "vm.keep-firmware-state"
_OFF = (PowerState.STOPPED, PowerState.CRASHED)


@dataclass(frozen=True)
class KeepInputs:
    """What `vm.keep-firmware-state` is given. host_id: where the VM ran."""

    host_id: str


@periodic
def keep_of_ended(_: Keyring) -> None:
    """Starts one `vm.keep-firmware-state` for every VM that has stopped by itself since it was started."""
    with session():
        ended = [(vm, vm.host.id) for vm in _ended() if vm.host is not None and is_up(vm.host)]
    for vm, host_id in ended:
        with contextlib.suppress(AbortedError, NotFoundError):  # somebody else was faster
            operation = _record(vm, host_id)
            if operation is not None:
                launch(operation)


def _ended() -> ModelSelect[Vm]:
    """VMs that run as far as anybody asked, and are off; of those that keep something, and were not copied since."""
    with_tpm = VmTpm.select().where(VmTpm.vm == Vm.id)
    copied = Operation.select().where(
        (Operation.verb == _VERB) & (Operation.resource_id == Vm.id) & (Operation.create_time > Vm.state_time)
    )
    return (
        Vm.select(Vm, Host)
        .join(Host, on=Vm.host)
        .where(
            (Vm.state == VmState.RUNNING) & Vm.power_state.in_(_OFF) & (Vm.operation_id == ""),
            (Vm.firmware != "bios") | fn.EXISTS(with_tpm),
            ~fn.EXISTS(copied),
        )
    )


def _record(vm: Vm, host_id: str) -> Operation | None:
    """None for a VM that is not as it was found."""
    with transaction():
        fresh = lock_row(vm)
        if fresh.state is not VmState.RUNNING or fresh.host_id != host_id:
            return None
        return record_operation(_VERB, fresh, SYSTEM, KeepInputs(host_id))


@workflow(_VERB)
def _keep(run: Run) -> None:
    inputs = run.read(KeepInputs)
    run.step("keep", lambda: firmware_states.keep(run, inputs.host_id))
