"""Asks the guest agents of running VMs."""

from __future__ import annotations

from collections.abc import Sequence

from ostler_common.errors import OstlerError
from ostler_common.guest_logins import check_keys, check_password
from ostler_common.hypervisors import Function
from ostler_common.secret import Secret

from ostler_agent.hypervisors.base import Hypervisor, need
from ostler_agent.hypervisors.guest import GuestAgent, GuestInfo


def read_info(driver: Hypervisor, vm_id: str) -> GuestInfo:
    """What the guest says of itself. Raises what `guest.GuestAgent` does, FUNCTION_NOT_SUPPORTED."""
    return _agent(driver).guest_info(vm_id)


def sync_time(driver: Hypervisor, vm_id: str) -> None:
    """Sets the guest's clock to the host's time. Raises what `guest.GuestAgent` does, FUNCTION_NOT_SUPPORTED."""
    _agent(driver).set_guest_time(vm_id)


def set_password(driver: Hypervisor, vm_id: str, user: str, password: Secret) -> None:
    """Sets the password of a user of the guest.

    Raises what `guest.GuestAgent` does, FUNCTION_NOT_SUPPORTED; InvalidArgumentError.
    """
    agent = _agent(driver)
    check_password(user, password)
    agent.set_guest_password(vm_id, user, password)


def set_ssh_keys(driver: Hypervisor, vm_id: str, user: str, keys: Sequence[str], *, keep_others: bool) -> None:
    """Replaces the keys that may log in as a user of the guest, or adds to them.

    Raises what `guest.GuestAgent` does, FUNCTION_NOT_SUPPORTED; InvalidArgumentError.
    """
    agent = _agent(driver)
    agent.set_guest_ssh_keys(vm_id, user, check_keys(user, keys), keep_others=keep_others)


def shut_down(driver: Hypervisor, vm_id: str) -> str:
    """Asks the guest to shut down: its agent, or else by the power button. Returns how, for people."""
    why = ""
    if isinstance(driver, GuestAgent) and Function.GUEST_AGENT in driver.info.functions:
        try:
            driver.shut_down_guest(vm_id)
            return "its guest agent was asked"
        except OstlerError as error:
            why = f"; {_WHY.get(error.reason, error.reason)}"
    driver.shut_down(vm_id)
    return f"its power button was pressed{why}"


_WHY = {
    "GUEST_AGENT_MISSING": "no guest agent is connected",
    "GUEST_AGENT_SILENT": "its guest agent does not answer",
    "GUEST_AGENT_REFUSED": "its guest agent refused",
}


def _agent(driver: Hypervisor) -> GuestAgent:
    need(driver, Function.GUEST_AGENT)
    assert isinstance(driver, GuestAgent)
    return driver
