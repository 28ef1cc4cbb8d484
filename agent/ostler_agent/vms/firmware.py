"""Copies of what VMs' firmware keeps, read here and put in place on another host."""

from __future__ import annotations

from ostler_common.hypervisors import Function

from ostler_agent.hypervisors.base import Hypervisor, need
from ostler_agent.hypervisors.firmware import FirmwareStates
from ostler_agent.spec import FirmwareState, VmSpec


def read_state(driver: Hypervisor, vm_id: str) -> FirmwareState:
    """A copy. Raises FailedPreconditionError FUNCTION_NOT_SUPPORTED, ResourceExhaustedError FIRMWARE_STATE_SIZE."""
    return _part(driver).read_firmware_state(vm_id)


def place(driver: Hypervisor, spec: VmSpec) -> None:
    """Puts the copy that a VM comes with in place, if it comes with one, before it starts."""
    if spec.firmware_copy is not None:
        _part(driver).place_firmware_state(spec.vm_id, spec.firmware_copy)


def _part(driver: Hypervisor) -> FirmwareStates:
    need(driver, Function.FIRMWARE_STATE)
    assert isinstance(driver, FirmwareStates)
    return driver
