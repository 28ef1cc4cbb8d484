"""Removing a host that is lost for good, with everything that only it had.

An admin says that the host is off and its disks are gone; Ostler cannot know. What is on storage that other hosts reach
survives: such a VM becomes stopped, and can be started elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from ostler_common.errors import FailedPreconditionError

from ostler_control import events
from ostler_control.database import transaction
from ostler_control.hosts import manage
from ostler_control.hosts.rows import is_up
from ostler_control.models import Host, PowerState, Snapshot, Vm, VmState, Volume, VolumeFile
from ostler_control.operations import lock_row
from ostler_control.scheduling import capacity
from ostler_control.userdata import vm_user_data
from ostler_control.vms import firmware_states, tpm
from ostler_control.vms.rows import disks_of, set_state
from ostler_control.volumes.forget import forget_files, forget_snapshot, forget_volume


@dataclass(frozen=True)
class Lost:
    """Names of what a lost host takes with it. stopped_vms: VMs that survive, and are stopped now."""

    vms: tuple[str, ...]
    volumes: tuple[str, ...]
    snapshots: tuple[str, ...]
    stopped_vms: tuple[str, ...]


def remove_lost(host: Host, actor: str, *, validate_only: bool = False) -> Lost:
    """Removes a host that is lost, its own pools and all that is in them, and VMs whose root disk was there.

    validate_only: only says what would be lost. Raises AbortedError RESOURCE_BUSY while an operation holds any of it;
    FailedPreconditionError: HOST_UP, VM_STATE for a VM in the middle of a migration that survives.
    """
    with transaction():
        if is_up(host):
            raise FailedPreconditionError(
                f"host {host.name} is up, so it is not lost; remove it without --lost", "HOST_UP", {"host": host.name}
            )
        pool_ids = [pool.id for pool in manage.own_pools(host)]
        in_pools = Volume.pool.in_(pool_ids)
        rootless = {volume.vm_id for volume in Volume.select().where(in_pools & Volume.root)} - {""}
        on_host = (Vm.host == host.id) | (Vm.destination == host.id) | Vm.id.in_(rootless)
        vms = [lock_row(vm) for vm in Vm.select().where(on_host).order_by(Vm.name)]
        volumes = [lock_row(row) for row in Volume.select().where(in_pools).order_by(Volume.name)]
        rows = Snapshot.select().where(Snapshot.pool.in_(pool_ids)).order_by(Snapshot.name)
        snapshots = [lock_row(row) for row in rows]
        lost_vms = [vm for vm in vms if vm.id in rootless]
        placed = [vm for vm in vms if vm.id not in rootless]
        _check_not_migrating(placed)
        lost = Lost(
            vms=tuple(vm.name for vm in lost_vms),
            volumes=tuple(volume.name for volume in volumes),
            snapshots=tuple(snapshot.name for snapshot in snapshots),
            stopped_vms=tuple(vm.name for vm in placed),
        )
        if validate_only:
            return lost
        for volume in volumes:
            forget_volume(volume, actor)
        for snapshot in snapshots:
            forget_snapshot(snapshot, actor)
        forget_files(VolumeFile.select().where(VolumeFile.pool.in_(pool_ids)), actor)
        for vm in lost_vms:
            _forget_vm(vm, host, actor)
        for vm in placed:
            _record_stopped(vm, host, actor)
        manage.delete_rows(host, actor, _summary(host, lost))
        return lost


def _check_not_migrating(vms: list[Vm]) -> None:
    for vm in vms:
        if vm.state == VmState.MIGRATING:
            raise FailedPreconditionError(
                f"VM {vm.name} was being migrated and may run on the other host; wait until that host has answered",
                "VM_STATE",
                {"vm": vm.id, "state": vm.state},
            )


def _forget_vm(vm: Vm, host: Host, actor: str) -> None:
    Volume.update(vm_id="", slot=-1).where(Volume.vm_id == vm.id).execute()
    capacity.release_destination(vm)
    capacity.release(vm)
    vm_user_data.forget_all(vm.id)
    tpm.forget(vm.id)
    firmware_states.forget(vm.id)
    _record("vm.forget", vm, actor, f"its root disk was lost with host {host.name}")
    Vm.delete().where(Vm.id == vm.id).execute()


def _record_stopped(vm: Vm, host: Host, actor: str) -> None:
    capacity.release_destination(vm)
    capacity.release(vm)
    left = ", ".join(volume.name for volume in disks_of(vm.id))
    set_state(vm.id, VmState.STOPPED, power_state=PowerState.ABSENT, last_host=None, attention="")
    _record("vm.stop", vm, actor, f"its host {host.name} is lost; its disks {left} are not")


def _summary(host: Host, lost: Lost) -> str:
    parts = [
        f"{noun}: {', '.join(names)}"
        for noun, names in (
            ("lost VMs", lost.vms),
            ("lost volumes", lost.volumes),
            ("lost snapshots", lost.snapshots),
            ("stopped VMs", lost.stopped_vms),
        )
        if names
    ]
    return "; ".join([f"host {host.name} removed as lost, its certificates revoked", *parts])


def _record(event_type: str, vm: Vm, actor: str, message: str) -> None:
    events.record(event_type, events.Outcome.SUCCEEDED, actor, "vm", vm.id, vm.name, message, account_id=vm.account_id)
