"""What content is copied out of: a volume, also under a running VM, or a snapshot."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Literal

from ostler_common.errors import FailedPreconditionError, bad_field

from ostler_control.database import session
from ostler_control.models import Host, Pool, Snapshot, Vm, Volume
from ostler_control.operations import Run, lock_row
from ostler_control.scheduling.stores import holds_volumes
from ostler_control.states import SnapshotState
from ostler_control.volumes.copying import choose_copying_host
from ostler_control.volumes.grow import check_ready
from ostler_control.volumes.rows import lock_with_vm

FILE_POOLS = ("local", "shared-mount-point", "nfs")

SourceRow = Volume | Snapshot
SourceKind = Literal["volume", "snapshot"]


@dataclass(frozen=True)
class SourceInputs:
    """The inputs by which a workflow finds its source again."""

    source_kind: SourceKind
    source_id: str


@dataclass(frozen=True)
class Source:
    """A locked source. vm: whose disk the volume is, or None; host: where that VM runs, or None; pool: the export's."""

    row: SourceRow
    vm: Vm | None
    host: Host | None
    pool: Pool

    @property
    def kind(self) -> SourceKind:
        return kind_of(self.row)

    @property
    def volume_id(self) -> str:
        """Id of the volume, or of the snapshot's volume: passphrases of copies are sealed with it."""
        return self.row.volume_id if isinstance(self.row, Snapshot) else self.row.id

    @property
    def title(self) -> str:
        """ "volume data-1", for people."""
        return f"{self.kind} {self.row.name}"

    @property
    def also(self) -> list[Vm]:
        """What an operation on it claims too: the VM, which must neither start, stop nor move meanwhile."""
        return [self.vm] if self.vm else []


def kind_of(row: SourceRow) -> SourceKind:
    """Which of the two a source is."""
    return "snapshot" if isinstance(row, Snapshot) else "volume"


def one_of(volume: Volume | None, snapshot: Snapshot | None) -> SourceRow:
    """The one that was named. Raises InvalidArgumentError REQUIRED."""
    if volume is not None and snapshot is None:
        return volume
    if snapshot is not None and volume is None:
        return snapshot
    raise bad_field("volume", "name either a volume or a snapshot", "REQUIRED")


def check_snapshot_ready(snapshot: Snapshot) -> None:
    """Raises FailedPreconditionError SNAPSHOT_STATE unless the snapshot is complete."""
    if snapshot.state != SnapshotState.READY:
        raise FailedPreconditionError(
            f"snapshot {snapshot.name} is {snapshot.state}"
            + (f" ({snapshot.state_reason})" if snapshot.state_reason else ""),
            "SNAPSHOT_STATE",
            {"snapshot": snapshot.id, "state": snapshot.state},
        )


def lock_source_row(row: SourceRow) -> tuple[Vm | None, SourceRow]:
    """Locks a Snapshot, or a Volume and the VM that it is attached to; returns that VM or None, and the row.

    Raises AbortedError RESOURCE_BUSY; FailedPreconditionError: VOLUME_STATE, SNAPSHOT_STATE.
    """
    if isinstance(row, Snapshot):
        snapshot = lock_row(row)
        check_snapshot_ready(snapshot)
        return None, snapshot
    vm, volume = lock_with_vm(row)
    check_ready(volume)
    return vm, volume


def lock_source(row: SourceRow, encrypted: bool) -> Source:
    """Locks a source and chooses the pool for its export, within the caller's transaction.

    encrypted: the export is. Raises what `lock_source_row` and `choose_copying_host` raise.
    """
    vm, locked = lock_source_row(row)
    pool, host = _export_pool(locked, encrypted, vm)
    return Source(locked, vm, host, pool)


def _export_pool(row: SourceRow, encrypted: bool, vm: Vm | None) -> tuple[Pool, Host | None]:
    """Where an export goes, and the host that must write it, if only one can: the source's own pool if that has files.

    A device of a storage array is many GiB even for a small disk, and all of it would be sent. So such a disk is
    exported into a pool of files if one is reached, the one with the most room.
    """
    own = row.pool
    either_encrypted = encrypted or bool(row.passphrase_id)
    if own.type not in FILE_POOLS:
        others = (
            Pool.select()
            .where(Pool.type.in_(FILE_POOLS), holds_volumes())
            .order_by(Pool.available_bytes.desc(), Pool.name)
        )
        for pool in others.where(Pool.encryption) if encrypted else others:
            with contextlib.suppress(FailedPreconditionError):
                return pool, choose_copying_host(own, pool, either_encrypted, vm)
    return own, choose_copying_host(own, own, either_encrypted, vm)


def load_source(run: Run) -> SourceRow:
    """Inside a step: the row that the operation's inputs name."""
    inputs = run.read(SourceInputs)
    with session():
        if inputs.source_kind == "snapshot":
            return Snapshot.get_by_id(inputs.source_id)
        return Volume.get_by_id(inputs.source_id)
