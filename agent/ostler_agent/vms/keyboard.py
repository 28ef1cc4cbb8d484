"""Presses keys of a VM's keyboard."""

from __future__ import annotations

from ostler_common.errors import bad_field
from ostler_common.hypervisors import Function
from ostler_common.key_names import parse_keys

from ostler_agent.hypervisors.base import Hypervisor, need
from ostler_agent.hypervisors.interaction import SendKey


def send_key(driver: Hypervisor, vm_id: str, keys: str) -> None:
    """Presses keys together, e.g. "ctrl-alt-del".

    Raises InvalidArgumentError UNKNOWN_KEY; NotFoundError VM_NOT_FOUND; FailedPreconditionError VM_NOT_RUNNING,
    FUNCTION_NOT_SUPPORTED.
    """
    need(driver, Function.SEND_KEY)
    assert isinstance(driver, SendKey)
    try:
        codes = parse_keys(keys)
    except ValueError as error:
        raise bad_field("keys", str(error), "UNKNOWN_KEY") from None
    driver.send_key(vm_id, codes)
