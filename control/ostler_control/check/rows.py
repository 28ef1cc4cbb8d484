"""What the database says, read at one time without changing anything."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from ostler_common.errors import FailedPreconditionError

from ostler_control import database
from ostler_control.agents import HostAddress
from ostler_control.check.machines import VmRecord
from ostler_control.hosts import definitions
from ostler_control.hosts.rows import address
from ostler_control.models import (
    Backup,
    BackupDisk,
    Cluster,
    Host,
    PoolHost,
    Snapshot,
    StoreBucket,
    Vm,
    VmSnapshot,
    VmSnapshotMemory,
    Volume,
    db,
    tuples,
)
from ostler_control.scheduling import capacity
from ostler_control.states import BackupState, SnapshotState, VolumeState

FileRow = Volume | Snapshot | BackupDisk | VmSnapshotMemory


@dataclass(frozen=True)
class Rows:
    """pool_hosts: ids of the hosts of each pool; files: ready volumes and snapshots that no operation holds; overdrawn:
    host and cluster of each host whose VMs have more than it has."""

    hosts: tuple[HostAddress, ...]
    vms: tuple[VmRecord, ...]
    files: Mapping[str, FileRow]
    pool_hosts: Mapping[str, tuple[str, ...]]
    running_on: Mapping[str, str]
    drifts: tuple[capacity.Drift, ...]
    overdrawn: tuple[tuple[str, str], ...]


def read() -> Rows:
    """Raises FailedPreconditionError DATABASE_OLD when the database is not of this release."""
    with _reading():
        vms = list(Vm.select())
        homes = {vm.id: vm.host_id for vm in vms if vm.host_id}
        volumes = list(Volume.select().where((Volume.state == VolumeState.READY) & (Volume.operation_id == "")))
        snapshots = list(
            Snapshot.select().where((Snapshot.state == SnapshotState.READY) & (Snapshot.operation_id == ""))
        )
        files: dict[str, FileRow] = {volume.file_id: volume for volume in volumes}
        files.update({snapshot.file_id: snapshot for snapshot in snapshots})
        kept = BackupDisk.select(BackupDisk, Backup).join(Backup)
        kept = kept.where((Backup.state == BackupState.READY) & (Backup.operation_id == ""))
        kept = kept.where(BackupDisk.pool.not_in(StoreBucket.select(StoreBucket.pool)))  # no host has files of those
        files.update({disk.file_id: disk for disk in kept})
        saved = VmSnapshotMemory.select(VmSnapshotMemory, VmSnapshot).join(VmSnapshot)
        saved = saved.where((VmSnapshot.state == SnapshotState.READY) & (VmSnapshot.operation_id == ""))
        files.update({memory.file_id: memory for memory in saved})
        reach: dict[str, list[str]] = {}
        pool_hosts = PoolHost.select(PoolHost.pool, PoolHost.host).order_by(PoolHost.reachable.desc())
        for pool_id, host_id in tuples(pool_hosts, tuple[str, str]):
            reach.setdefault(pool_id, []).append(host_id)
        over = (Host.allocated_cpus > Host.cpus * Cluster.cpu_overcommit) | (
            Host.allocated_memory_bytes > Host.memory_bytes * Cluster.memory_overcommit
        )
        overdrawn = Host.select(Host.name, Cluster.name).join(Cluster).where(over & ~Host.removed).order_by(Host.name)
        return Rows(
            hosts=tuple(address(host) for host in Host.select().where(~Host.removed).order_by(Host.name)),
            vms=tuple(VmRecord(vm.id, vm.name, vm.state, vm.host_id or "", bool(vm.operation_id)) for vm in vms),
            files=files,
            pool_hosts={pool_id: tuple(host_ids) for pool_id, host_ids in reach.items()},
            running_on={volume.file_id: homes[volume.vm_id] for volume in volumes if volume.vm_id in homes},
            drifts=tuple(capacity.audit()),
            overdrawn=tuple(tuples(overdrawn, tuple[str, str])),
        )


def deleted(vm_ids: Collection[str]) -> set[str]:
    """See `definitions.deleted`."""
    with _reading():
        return definitions.deleted(vm_ids)


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """A session that can only read."""
    with database.session():
        _allow_writing(False)
        try:
            if not db.table_exists("schema_migration") or _applied() != set(database.known_migrations()):
                raise FailedPreconditionError(
                    "the database is not of this release of Ostler: start the control plane once, or check with the "
                    "release that wrote it",
                    "DATABASE_OLD",
                )
            yield
        finally:
            _allow_writing(True)  # the pool hands the connection on


def _allow_writing(allowed: bool) -> None:
    if database.is_sqlite():
        db.execute_sql(f"PRAGMA query_only = {0 if allowed else 1}")
    else:
        db.execute_sql(f"SET SESSION CHARACTERISTICS AS TRANSACTION READ {'WRITE' if allowed else 'ONLY'}")


def _applied() -> set[str]:
    return {name for (name,) in db.execute_sql("SELECT name FROM schema_migration").fetchall()}
