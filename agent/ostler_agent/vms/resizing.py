"""Gives running VMs more CPUs and memory."""

from __future__ import annotations

from ostler_common.hypervisors import Function

from ostler_agent.hypervisors.base import Hypervisor, LiveResize, Progress, need
from ostler_agent.spec import VmInfo


def resize(driver: Hypervisor, vm_id: str, cpus: int, memory_bytes: int, progress: Progress) -> VmInfo:
    """Gives a running VM this size. Idempotent.

    Raises FailedPreconditionError FUNCTION_NOT_SUPPORTED, VM_NOT_RUNNING, RESIZE_NEEDS_STOP.
    """
    need(driver, Function.LIVE_RESIZE)
    assert isinstance(driver, LiveResize)
    progress.report("adding CPUs and memory")
    driver.resize(vm_id, cpus, memory_bytes)
    return driver.vm(vm_id)
