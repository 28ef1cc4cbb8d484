"""A VM's rows, as workflows read and change them."""

from __future__ import annotations

from typing import Any

from ostler_common.errors import FailedPreconditionError

from ostler_control.database import session, transaction
from ostler_control.hosts.rows import is_up, silent
from ostler_control.models import Host, Nic, Vm, Volume, now

EXECUTING = ("running", "paused")


def load(vm_id: str) -> Any:
    """A VM's row."""
    with session():
        return Vm.get_by_id(vm_id)


def disks_of(vm_id: str) -> list[Any]:
    """The volumes attached to a VM, by slot."""
    with session():
        return list(Volume.select().where(Volume.vm_id == vm_id).order_by(Volume.slot))


def nics_of(vm_id: str) -> list[Any]:
    """A VM's network interfaces, in order."""
    with session():
        return list(Nic.select().where(Nic.vm == vm_id).order_by(Nic.position))


def set_state(vm_id: str, state: str, **values: Any) -> None:
    """Brings a VM's row into a state; what was amiss before is forgotten."""
    with transaction():
        Vm.update(**{"state": state, "state_time": now(), "attention": "", **values}).where(Vm.id == vm_id).execute()


def wrong_state(vm: Any, wanted: str) -> FailedPreconditionError:
    """The refusal for a VM in another state."""
    attention = f" ({vm.attention})" if vm.attention else ""
    return FailedPreconditionError(
        f"VM {vm.name} is {vm.state}{attention}; this needs one that is {wanted}",
        "VM_STATE",
        {"vm": vm.id, "state": vm.state},
    )


def running_host(vm: Any) -> Any:
    """The host of a VM that is running. Raises FailedPreconditionError VM_STATE, or HOST_SILENT."""
    if vm.state != "running" or vm.host_id is None:
        raise wrong_state(vm, "running")
    host = Host.get_by_id(vm.host_id)
    if not is_up(host):
        raise silent(host, f"and VM {vm.name} may be running there")
    return host
