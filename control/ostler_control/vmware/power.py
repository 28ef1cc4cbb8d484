"""Shutting a guest down cleanly, and starting it again."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog
from ostler_common.errors import DeadlineExceededError, FailedPreconditionError, NotFoundError
from pyVmomi import vim

from ostler_control.vmware.connection import Connection
from ostler_control.vmware.inventory import Power, Tools
from ostler_control.vmware.properties import read_one
from ostler_control.vmware.read_inventory import read_vm
from ostler_control.vmware.tasks import POLL_S, Check, wait

log = structlog.get_logger(__name__)

SHUTDOWN_TIMEOUT_S = 600.0
POWER_ON_TIMEOUT_S = 600.0
# How long the tools in a guest may take to tell that it shuts down.
REQUEST_GRACE_S = 10.0


def shut_down(
    connection: Connection,
    ref: str,
    check: Check,
    timeout_s: float = SHUTDOWN_TIMEOUT_S,
    before_request: Callable[[], None] = lambda: None,
) -> None:
    """Asks a VM's guest to shut down and waits until it is off; one that is off already is a success.

    before_request: is called right before the guest is asked, and not if it never is.

    Raises FailedPreconditionError VCENTER_NO_TOOLS when nothing in the guest listens, DeadlineExceededError
    GUEST_SHUTDOWN_TIMEOUT.
    """
    vm = read_vm(connection, ref)
    if vm.power is Power.OFF:
        return
    if vm.tools is not Tools.RUNNING:
        raise FailedPreconditionError(
            f"VM {vm.name} cannot be shut down cleanly, for VMware Tools do not run in it; shut it down yourself",
            "VCENTER_NO_TOOLS",
            {"vm": vm.name},
        )
    before_request()
    connection.call(vim.VirtualMachine(ref, connection.stub).ShutdownGuest)
    if not _is_off_within(connection, ref, check, timeout_s):
        raise DeadlineExceededError(
            f"VM {vm.name} is not off {timeout_s:.0f} s after its guest was asked to shut down; see to it in the"
            " guest and try again",
            "GUEST_SHUTDOWN_TIMEOUT",
            {"vm": vm.name},
        )


def restart(connection: Connection, ref: str, check: Check, timeout_s: float = SHUTDOWN_TIMEOUT_S) -> None:
    """Starts a VM whose guest may have been asked to shut down. The guest may not have ended yet, and a request cannot
    be taken back, so this waits until a guest that is shutting down is off. One that runs on was never asked, or has
    ignored the request, which is a success, as is a VM that is gone.
    """
    begin = time.monotonic()
    try:
        while read_vm(connection, ref).power is not Power.OFF:
            waited_s = time.monotonic() - begin
            if waited_s > (timeout_s if _is_shutting_down(connection, ref) else REQUEST_GRACE_S):
                log.warning("a guest was not asked to shut down, or does not", vm=ref, waited_s=round(waited_s))
                return
            check()
            time.sleep(POLL_S)
    except NotFoundError:
        return
    power_on(connection, ref, check)


def _is_shutting_down(connection: Connection, ref: str) -> bool:
    found = read_one(connection, vim.VirtualMachine, ref, ("guest.guestState",))
    return bool(found.get("guest.guestState") == "shuttingDown")


def _is_off_within(connection: Connection, ref: str, check: Check, timeout_s: float) -> bool:
    end = time.monotonic() + timeout_s
    while read_vm(connection, ref).power is not Power.OFF:
        if time.monotonic() > end:
            return False
        check()
        time.sleep(POLL_S)
    return True


def power_on(connection: Connection, ref: str, check: Check) -> None:
    """Starts a VM; one that runs already, or is gone, is a success."""
    try:
        if read_vm(connection, ref).power is Power.ON:
            return
    except NotFoundError:
        return
    task = connection.call(vim.VirtualMachine(ref, connection.stub).PowerOnVM_Task)
    wait(connection, task, POWER_ON_TIMEOUT_S, check)
