"""Rebooting a running VM."""

from __future__ import annotations

from typing import Any

from ostler.agent.v1 import vm_pb2 as agent_pb2
from ostler_common.hypervisors import Function

from ostler_control.hosts.rows import address_of
from ostler_control.hypervisors import rules
from ostler_control.models import Operation
from ostler_control.operations import Work, begin, take, workflow
from ostler_control.vms.rows import running_host


def reboot(vm: Any, user: str, hard: bool = False) -> Operation:
    """Records the operation that reboots a VM: asks its guest, or resets it (`hard`).

    Raises FailedPreconditionError VM_STATE, HOST_SILENT or FUNCTION_NOT_SUPPORTED.
    """
    vm = take(vm)
    host = running_host(vm)
    rules.need(Function.REBOOT, host)
    return begin("vm.reboot", vm, user, {"host_id": host.id, "hard": hard})


@workflow("vm.reboot")
def _reboot(work: Work) -> None:
    work.step("reboot", lambda: _reboot_on(work))


def _reboot_on(work: Work) -> None:
    request = agent_pb2.RebootVmRequest(operation=work.ref(), vm_id=work.resource_id, hard=work.inputs["hard"])
    work.job(address_of(work.inputs["host_id"]), lambda agent: agent.vms.RebootVm, request)
