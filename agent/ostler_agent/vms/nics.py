"""Adds network interfaces to running VMs and removes them."""

from __future__ import annotations

from ostler_common.hypervisors import Function

from ostler_agent.hypervisors.base import Hypervisor, NicHotPlug, Progress, need
from ostler_agent.preconditions import check_networks
from ostler_agent.spec import NicSpec, VmInfo

DETACH_TIMEOUT_S = 60.0


def attach(driver: Hypervisor, vm_id: str, nic: NicSpec, progress: Progress) -> VmInfo:
    """Adds an interface to a running VM. Idempotent.

    Raises what `check_networks` raises; NotFoundError VM_NOT_FOUND; FailedPreconditionError FUNCTION_NOT_SUPPORTED.
    """
    plug = _hot_plug(driver)
    if nic.filter:
        need(driver, Function.NIC_FILTER)
    check_networks([nic])
    progress.report("adding the network interface")
    plug.attach_nic(vm_id, nic)
    return driver.vm(vm_id)


def detach(driver: Hypervisor, vm_id: str, mac: str, progress: Progress) -> VmInfo:
    """Removes an interface from a running VM. Idempotent.

    Raises DeadlineExceededError DETACH_TIMEOUT; FailedPreconditionError DETACH_REFUSED, FUNCTION_NOT_SUPPORTED.
    """
    plug = _hot_plug(driver)
    progress.report("removing the network interface")
    plug.detach_nic(vm_id, mac, DETACH_TIMEOUT_S, progress)
    return driver.vm(vm_id)


def _hot_plug(driver: Hypervisor) -> NicHotPlug:
    need(driver, Function.NIC_HOT_PLUG)
    assert isinstance(driver, NicHotPlug)
    return driver
