"""Connects to a VM's screen."""

from __future__ import annotations

from ostler_common.hypervisors import Function

from ostler_agent.hypervisors.base import Console, Hypervisor, need
from ostler_agent.hypervisors.interaction import Screen


def open_screen(driver: Hypervisor, vm_id: str, force: bool) -> Console:
    """A running VM's screen, which speaks RFB. force: takes it over from its holder.

    Raises NotFoundError VM_NOT_FOUND; FailedPreconditionError CONSOLE_BUSY, VM_NOT_RUNNING, SCREEN_MISSING,
    FUNCTION_NOT_SUPPORTED.
    """
    need(driver, Function.SCREEN)
    assert isinstance(driver, Screen)
    return driver.open_screen(vm_id, force)
