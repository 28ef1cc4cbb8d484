"""A running VM is cloned, and the clone exported: its own disks cannot be read while it writes them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ostler_common.errors import AbortedError, DeadlineExceededError, FailedPreconditionError, ResourceExhaustedError
from pyVmomi import vim

from ostler_control.vmware.connection import Connection
from ostler_control.vmware.inventory import Datastore, SourceVm
from ostler_control.vmware.properties import read_all, read_one
from ostler_control.vmware.read_inventory import list_datastores
from ostler_control.vmware.tasks import POLL_S, Check, running, wait

CLONE_TIMEOUT_S = 6 * 3600.0
DESTROY_TIMEOUT_S = 600.0
# What vSphere warns about by default is a datastore that is three quarters full; a clone must not fill one up.
_MARGIN_BYTES = 1 << 30

_PREFIX = "ostler-import-"
_NOTE = "Made by Ostler to import a VM; it is deleted when the import ends."


def clone_name(operation_id: str) -> str:
    """The clone's name in the inventory, so that it is found again after a crash."""
    return _PREFIX + operation_id


def choose_datastore(stores: Sequence[Datastore], needed_bytes: int) -> Datastore:
    """The datastore with the most free space. Raises ResourceExhaustedError NO_DATASTORE_SPACE."""
    usable = [store for store in stores if store.usable]
    best = max(usable, key=lambda store: (store.free_bytes, store.name), default=None)
    if best is None or best.free_bytes < needed_bytes + _MARGIN_BYTES:
        most = f"{best.name} has the most, {best.free_bytes >> 20} MiB" if best else "it has none that can be used"
        raise ResourceExhaustedError(
            f"no datastore of the VM's host has {(needed_bytes + _MARGIN_BYTES) >> 20} MiB free for the clone of a"
            f" running VM: {most}; free space, or shut the VM down, which needs no clone",
            "NO_DATASTORE_SPACE",
        )
    return best


def clone_bytes(vm: SourceVm) -> int:
    """Space that a thin clone takes at most."""
    return min(vm.used_bytes, vm.capacity_bytes) if vm.used_bytes else vm.capacity_bytes


def clone(connection: Connection, vm: SourceVm, operation_id: str, check: Check) -> str:
    """Clones a VM, or finds the clone that an earlier try made. Returns its managed object id.

    Raises ResourceExhaustedError NO_DATASTORE_SPACE, FailedPreconditionError CLONE_NEEDS_VCENTER on a standalone host.
    """
    if not connection.is_vcenter:
        raise FailedPreconditionError(
            f"VM {vm.name} runs, and a standalone ESXi host cannot clone it; shut it down",
            "CLONE_NEEDS_VCENTER",
            {"vm": vm.name},
        )
    wait_for_tasks(connection, vm.ref, check)
    name = clone_name(operation_id)
    found = _find(connection, name)
    if found:
        return found[0]
    store = choose_datastore(list_datastores(connection, vm.host_ref), clone_bytes(vm))
    source = vim.VirtualMachine(vm.ref, connection.stub)
    # Thin, and one file a disk, whatever snapshots the source has.
    where = vim.vm.RelocateSpec(
        datastore=vim.Datastore(store.ref, connection.stub),
        host=vim.HostSystem(vm.host_ref, connection.stub),
        pool=read_one(connection, vim.VirtualMachine, vm.ref, ("resourcePool",)).get("resourcePool"),
        diskMoveType="moveAllDiskBackingsAndDisallowSharing",
        transform="sparse",
    )
    spec = vim.vm.CloneSpec(location=where, powerOn=False, template=False, config=vim.vm.ConfigSpec(annotation=_NOTE))
    folder = read_one(connection, vim.VirtualMachine, vm.ref, ("parent",)).get("parent")
    task = connection.call(lambda: source.CloneVM_Task(folder, name, spec))
    return str(wait(connection, task, CLONE_TIMEOUT_S, check)._moId)


def delete_clones(connection: Connection, source_ref: str, operation_id: str, check: Check) -> None:
    """Deletes what `clone` made; nothing there is a success.

    Waits for a clone that is still being made. Raises DeadlineExceededError VCENTER_TASK_TIMEOUT.
    """
    wait_for_tasks(connection, source_ref, check)
    end = time.monotonic() + DESTROY_TIMEOUT_S
    for ref in _find(connection, clone_name(operation_id)):
        while True:
            try:
                task = connection.call(vim.VirtualMachine(ref, connection.stub).Destroy_Task)
                wait(connection, task, DESTROY_TIMEOUT_S, check)
                break
            except AbortedError:  # an export's lease still holds it; that one runs out by itself
                if time.monotonic() > end:
                    raise
            check()
            time.sleep(POLL_S)


def list_clones(connection: Connection) -> dict[str, str]:
    """Every clone that Ostler made and that is still there: operation id by managed object id."""
    found = read_all(connection, vim.VirtualMachine, ("name", "config.annotation"))
    return {
        item.ref: str(item.get("name")).removeprefix(_PREFIX)
        for item in found
        if str(item.get("name", "")).startswith(_PREFIX) and item.get("config.annotation") == _NOTE
    }


def _find(connection: Connection, name: str) -> list[str]:
    return [ref for ref, operation_id in list_clones(connection).items() if _PREFIX + operation_id == name]


def wait_for_tasks(connection: Connection, ref: str, check: Check) -> None:
    """Waits for a VM's tasks: a clone that a dead process began goes on in vCenter, as a task of its source."""
    end = time.monotonic() + CLONE_TIMEOUT_S
    while True:
        tasks = read_one(connection, vim.VirtualMachine, ref, ("recentTask",)).get("recentTask", ())
        if not running(connection, [str(task._moId) for task in tasks]):
            return
        if time.monotonic() > end:
            raise DeadlineExceededError(
                f"{connection.server.name} has been at a task on VM {ref} for too long", "VCENTER_TASK_TIMEOUT"
            )
        check()
        time.sleep(POLL_S)
