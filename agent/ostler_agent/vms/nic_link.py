"""Sets the link of running VMs' network interfaces."""

from __future__ import annotations

from ostler_common.hypervisors import Function

from ostler_agent.hypervisors.base import Hypervisor, NicLink, Progress, need
from ostler_agent.spec import VmInfo


def set_link(driver: Hypervisor, vm_id: str, mac: str, up: bool, progress: Progress) -> VmInfo:
    """Sets the link of a running VM's interface up or down. Idempotent.

    Raises FailedPreconditionError FUNCTION_NOT_SUPPORTED, VM_NOT_RUNNING; NotFoundError NIC_NOT_FOUND.
    """
    need(driver, Function.NIC_LINK)
    assert isinstance(driver, NicLink)
    progress.report("setting the link of the network interface")
    driver.set_nic_link(vm_id, mac, up)
    return driver.vm(vm_id)
