"""The memory of a VM's snapshot: what a VM must be to continue from it, and where it can."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

from ostler.types.v1 import volume_pb2
from ostler_common.errors import FailedPreconditionError
from ostler_common.hypervisors import Function

from ostler_control import events
from ostler_control.catalog.sizes import Size, maximum_of, set_maximum_of_vm
from ostler_control.database import session
from ostler_control.hosts import cpus
from ostler_control.hosts.choose import check_host
from ostler_control.hypervisors import rules
from ostler_control.keys import Keyring
from ostler_control.keys.passphrases import delete_passphrase
from ostler_control.models import Host, Vm, VmSnapshot, VmSnapshotMemory, Volume, new_id
from ostler_control.operations import Run
from ostler_control.scheduling import placement_query
from ostler_control.vms import extra_configs, machines
from ostler_control.vms.rows import nics_of
from ostler_control.volumes import wire

# What a VM must be again, as it is called in messages.
_NAMES = {
    "cpus": "its CPUs",
    "memory_bytes": "its memory",
    "machine": "its machine type",
    "firmware": "its firmware",
    "interfaces": "its network interfaces",
}


def of_snapshot(vm_snapshot_id: str) -> VmSnapshotMemory | None:
    """The memory of a VM's snapshot, if it has one."""
    with session():
        query = VmSnapshotMemory.select(VmSnapshotMemory, VmSnapshot).join(VmSnapshot)
        return query.where(VmSnapshotMemory.vm_snapshot == vm_snapshot_id).get_or_none()


def load_or_none(memory_id: str) -> VmSnapshotMemory | None:
    """The memory with this id, or None when it is gone."""
    with session():
        query = VmSnapshotMemory.select(VmSnapshotMemory, VmSnapshot).join(VmSnapshot)
        return query.where(VmSnapshotMemory.id == memory_id).get_or_none()


def check_saving(vm: Vm, volumes: list[Volume], host: Host | None) -> None:
    """Raises FailedPreconditionError: VM_NOT_RUNNING, FUNCTION_NOT_SUPPORTED, NO_FEASIBLE_POOL, LACKS_POOL,
    LACKS_VOLUME_ENCRYPTION."""
    if host is None:
        raise FailedPreconditionError(
            f"VM {vm.name} is stopped, so it has no memory to keep; start it, or create the snapshot without --memory",
            "VM_NOT_RUNNING",
            {"vm": vm.id},
        )
    rules.need(Function.MEMORY_SNAPSHOT, host)
    pool = _root_of(volumes).pool
    placement_query.pools_for(f"the memory of VM {vm.name}", vm.memory_bytes, True, pool_id=pool.id)
    check_host(host, pool, True)


def record(row: VmSnapshot, vm: Vm, volumes: list[Volume], keys: Keyring) -> VmSnapshotMemory:
    """Its row and key, in the pool of the root disk: within the caller's transaction."""
    root, memory_id = _root_of(volumes), new_id()
    memory: VmSnapshotMemory = VmSnapshotMemory.create(
        id=memory_id,
        vm_snapshot=row,
        pool=root.pool_id,
        passphrase=keys.create(memory_id),
        format=root.format,
        size_bytes=vm.memory_bytes,
        definition=json.dumps(_definition(vm), sort_keys=True),
        cpus=" ".join(sorted(cpus.of_running(vm))),
    )
    return memory


def record_info(memory: VmSnapshotMemory, info: volume_pb2.VolumeInfo) -> None:
    """Records what a host says of the complete file: within the caller's transaction.

    Raises InternalError ENCRYPTION_MISSING.
    """
    VmSnapshotMemory.update(encrypt_format=wire.encrypt_format(memory, info), used_bytes=info.allocated_bytes).where(
        VmSnapshotMemory.id == memory.id
    ).execute()


def destroy(row: VmSnapshot, memory: VmSnapshotMemory, run: Run) -> None:
    """Deletes the row of memory whose file is gone, and its key: within the caller's transaction."""
    VmSnapshotMemory.delete().where(VmSnapshotMemory.id == memory.id).execute()
    delete_passphrase(memory.passphrase_id)
    events.record(
        "vm-snapshot.key.destroy",
        events.Outcome.SUCCEEDED,
        run.user,
        "vm_snapshot",
        row.id,
        row.name,
        f"the file of its memory is gone, and key {memory.passphrase_id} is destroyed",
        operation_id=run.id,
        account_id=row.account_id,
    )


def check_same_vm(vm: Vm, memory: VmSnapshotMemory) -> None:
    """Raises FailedPreconditionError VM_CHANGED, EXTRA_CONFIG_BLOCKED."""
    extra_configs.check_start(vm)
    then, now = json.loads(memory.definition), _definition(vm)
    changes = [f"{name} (then {then[key]}, now {now[key]})" for key, name in _NAMES.items() if then[key] != now[key]]
    if changes:
        raise FailedPreconditionError(
            f"VM {vm.name} has changed since snapshot {memory.vm_snapshot.name}, so its guest cannot continue from "
            f"that memory: {', '.join(changes)}; change it back, or revert its disks only (ostler vm snapshot revert "
            f"{memory.vm_snapshot.name} --disks-only)",
            "VM_CHANGED",
            {"vm": vm.id, "vm_snapshot": memory.vm_snapshot_id},
        )


def claim_host(vm: Vm, memory: VmSnapshotMemory) -> str:
    """Id of the host where the VM will continue, its capacity claimed: within the caller's transaction.

    The VM gets its former maximum. The host's CPU is like that of then. Raises what `placement.place` does;
    FailedPreconditionError FUNCTION_NOT_SUPPORTED.
    """
    rules.need_of_type(Function.MEMORY_SNAPSHOT, vm.hypervisor_type)
    alike = cpus.hosts_giving(frozenset(memory.cpus.split()))
    able = [host.id for host in Host.select().where(~Host.removed) if rules.supports(Function.MEMORY_SNAPSHOT, host)]
    demand = placement_query.demand_of(
        vm, preferred_host_id=vm.last_host_id or "", cpu_hosts=frozenset(able) if alike is None else alike & set(able)
    )
    pools = (*demand.pool_choices, (memory.pool_id,))
    demand = dataclasses.replace(demand, volume_encryption=True, pool_choices=pools)
    host_id = placement_query.find_and_claim(vm, demand).host_id
    then = json.loads(memory.definition)
    set_maximum_of_vm(vm, Size(then["max_cpus"], then["max_memory_bytes"]))
    return host_id


def _root_of(volumes: list[Volume]) -> Volume:
    return next((volume for volume in volumes if volume.root), volumes[0])


def _definition(vm: Vm) -> Mapping[str, object]:
    with session():
        most = maximum_of(vm)
        return {
            "cpus": vm.cpus,
            "memory_bytes": vm.memory_bytes,
            "max_cpus": most.cpus,
            "max_memory_bytes": most.memory_bytes,
            "machine": machines.of_vm(vm.id),
            "firmware": vm.firmware,
            "interfaces": [nic.mac for nic in nics_of(vm.id)],
        }
