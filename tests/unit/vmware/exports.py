"""VMs of the simulated vCenter, for tests of exports."""

from __future__ import annotations

from ostler_control.vmware.connection import Connection
from ostler_control.vmware.inventory import SourceVm
from ostler_control.vmware.read_inventory import list_vms


def never() -> None:
    """A check that lets everything go on."""


def find(connection: Connection, name: str) -> SourceVm:
    return next(vm for vm in list_vms(connection) if vm.name == name)
