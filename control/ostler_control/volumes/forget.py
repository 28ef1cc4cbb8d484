"""Forgetting volumes and snapshots whose storage is lost for good: rows and keys go, no host is asked.

Deleting needs a host that reaches the file. When the disk below a pool is gone there is none, and will never be. An
admin then says that the data is lost; every object that is forgotten is an event.
"""

from __future__ import annotations

from collections.abc import Iterable

from ostler_common.errors import FailedPreconditionError
from ostler_common.units import format_size

from ostler_control import events
from ostler_control.hosts.rows import is_up, reaching
from ostler_control.keys.passphrases import delete_passphrase, delete_volume
from ostler_control.models import Pool, Snapshot, Vm, VmState, Volume, VolumeFile
from ostler_control.operations import lock_row
from ostler_control.volumes.files import destroy_file
from ostler_control.volumes.rows import vm_of

_MAY_RUN = (VmState.STARTING, VmState.RUNNING, VmState.STOPPING, VmState.MIGRATING)


def forget(volume: Volume, actor: str, *, validate_only: bool = False) -> list[Snapshot]:
    """Deletes the rows and keys of a volume whose pool no host reaches, and of its snapshots in such pools.

    Within the caller's transaction. Returns those snapshots. validate_only: changes nothing.
    Raises AbortedError RESOURCE_BUSY; FailedPreconditionError: POOL_REACHED when a host could delete the file, VM_STATE
    when its VM may be running on a host that is up.
    """
    volume = lock_row(volume)
    check_pool_lost(volume.pool, f"volume {volume.name}", "ostler volume delete")
    vm = vm_of(volume)
    if vm is not None and vm.state in _MAY_RUN and vm.host is not None and is_up(vm.host):
        raise FailedPreconditionError(
            f"volume {volume.name} is attached to VM {vm.name}, which is {vm.state}; stop the VM first",
            "VM_STATE",
            {"vm": vm.id},
        )
    snapshots = [
        lock_row(snapshot)
        for snapshot in Snapshot.select().where(Snapshot.volume_id == volume.id).order_by(Snapshot.name)
        if not _up_hosts(snapshot.pool)
    ]
    if not validate_only:
        forget_volume(volume, actor)
        for snapshot in snapshots:
            forget_snapshot(snapshot, actor)
    return snapshots


def check_pool_lost(pool: Pool, what: str, command: str) -> None:
    """Raises FailedPreconditionError POOL_REACHED while a host that is up reaches the pool.

    what: "volume data-1", which is in it; command: deletes it through that host.
    """
    up = _up_hosts(pool)
    if up:
        raise FailedPreconditionError(
            f"{what} is not lost: host {up[0]} reaches its pool {pool.name}; delete it instead ({command})",
            "POOL_REACHED",
            {"pool": pool.name, "host": up[0]},
        )


def forget_volume(volume: Volume, actor: str) -> None:
    """Deletes the rows of a locked volume, of its further files in the same pool, and all their keys.

    Within the caller's transaction, which has made sure that they are lost.
    """
    files = VolumeFile.select().where((VolumeFile.volume_id == volume.id) & (VolumeFile.pool == volume.pool_id))
    forget_files(files, actor)
    vm = vm_of(volume)
    used_by = f", {'the root disk' if volume.root else 'a data disk'} of VM {vm.name}" if vm is not None else ""
    message = f"lost with pool {volume.pool.name}: {format_size(volume.size_bytes)}{used_by}"
    _record("volume", volume, actor, message)
    if vm is not None and volume.root:
        Vm.update(attention=f"its root disk {volume.name} was lost and forgotten; delete the VM").where(
            Vm.id == vm.id
        ).execute()
    delete_volume(volume, actor)


def forget_files(files: Iterable[VolumeFile], actor: str) -> None:
    """Deletes the rows and keys of further files of volumes that are lost: within the caller's transaction."""
    for file in list(files):
        destroy_file(file, actor)


def forget_snapshot(snapshot: Snapshot, actor: str) -> None:
    """Deletes the row and the key of a locked snapshot that is lost: within the caller's transaction."""
    _record("snapshot", snapshot, actor, f"lost with pool {snapshot.pool.name}: {format_size(snapshot.size_bytes)}")
    Snapshot.delete().where(Snapshot.id == snapshot.id).execute()
    delete_passphrase(snapshot.passphrase_id)


def _up_hosts(pool: Pool) -> list[str]:
    return [host.name for host in reaching(pool.id) if is_up(host)]


def _record(kind: str, row: Volume | Snapshot, actor: str, message: str) -> None:
    events.record(
        f"{kind}.forget",
        events.Outcome.SUCCEEDED,
        actor,
        kind,
        row.id,
        row.name,
        message,
        account_id=row.account_id,
    )
