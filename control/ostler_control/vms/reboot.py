"""Rebooting a running VM."""

from __future__ import annotations

from dataclasses import dataclass

from ostler.agent.v1 import vm_pb2 as agent_pb2
from ostler_common.hypervisors import Function

from ostler_control.hosts.rows import address_of
from ostler_control.hypervisors import rules
from ostler_control.models import Operation, Vm
from ostler_control.operations import Run, lock_row, record_operation, workflow
from ostler_control.vms.rows import running_host


@dataclass(frozen=True)
class RebootInputs:
    """What `vm.reboot` is given."""

    host_id: str
    hard: bool


def reboot(vm: Vm, user: str, hard: bool = False) -> Operation:
    """Records the operation that reboots a VM: asks its guest, or resets it (`hard`).

    Raises FailedPreconditionError VM_STATE, HOST_SILENT or FUNCTION_NOT_SUPPORTED.
    """
    vm = lock_row(vm)
    host = running_host(vm)
    rules.need(Function.REBOOT, host)
    return record_operation("vm.reboot", vm, user, RebootInputs(host.id, hard))


@workflow("vm.reboot")
def _reboot(run: Run) -> None:
    run.step("reboot", lambda: _reboot_on(run))


def _reboot_on(run: Run) -> None:
    inputs = run.read(RebootInputs)
    request = agent_pb2.RebootVmRequest(operation=run.ref(), vm_id=run.resource_id, hard=inputs.hard)
    run.job(address_of(inputs.host_id), lambda agent: agent.vms.RebootVm, request)
