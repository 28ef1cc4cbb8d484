"""What content is copied out of: a volume, also under a running VM, or a snapshot."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from ostler_common.errors import FailedPreconditionError, bad_field

from ostler_control.database import session
from ostler_control.models import Pool, Snapshot, Volume
from ostler_control.operations import Run, lock_row
from ostler_control.volumes.copying import choose_copying_host
from ostler_control.volumes.grow import check_ready
from ostler_control.volumes.rows import lock_with_vm

FILE_POOLS = ("local", "shared-mount-point", "nfs")


@dataclass(frozen=True)
class Source:
    """Taken rows. vm: whose disk the volume is, or None; host: where that VM runs, or None; pool: for an export."""

    row: Any
    vm: Any | None
    host: Any | None
    pool: Any

    @property
    def kind(self) -> str:
        """volume | snapshot"""
        return "snapshot" if isinstance(self.row, Snapshot) else "volume"

    @property
    def volume_id(self) -> str:
        """Id of the volume that it is, or was taken of: what passphrases of copies are sealed with."""
        volume_id: str = self.row.volume_id if isinstance(self.row, Snapshot) else self.row.id
        return volume_id

    @property
    def title(self) -> str:
        """ "volume data-1", for people."""
        return f"{self.kind} {self.row.name}"

    @property
    def also(self) -> list[Any]:
        """What an operation on it holds besides: the VM, which must neither start, stop nor move meanwhile."""
        return [self.vm] if self.vm else []


def one_of(volume: Any | None, snapshot: Any | None) -> Any:
    """The one that was named. Raises InvalidArgumentError."""
    if (volume is None) == (snapshot is None):
        raise bad_field("volume", "give either a volume or a snapshot", "REQUIRED")
    return volume or snapshot


def check_snapshot_ready(snapshot: Any) -> None:
    """Raises FailedPreconditionError SNAPSHOT_STATE unless the snapshot is whole."""
    if snapshot.state != "ready":
        raise FailedPreconditionError(
            f"snapshot {snapshot.name} is {snapshot.state}"
            + (f" ({snapshot.state_reason})" if snapshot.state_reason else ""),
            "SNAPSHOT_STATE",
            {"snapshot": snapshot.id, "state": snapshot.state},
        )


def lock_source_row(row: Any) -> tuple[Any | None, Any]:
    """Takes a Volume, and the VM that it is attached to, or a Snapshot: the VM or None, and the row.

    Raises FailedPreconditionError: VOLUME_STATE, SNAPSHOT_STATE.
    """
    if isinstance(row, Snapshot):
        taken = lock_row(row)
        check_snapshot_ready(taken)
        return None, taken
    vm, taken = lock_with_vm(row)
    check_ready(taken)
    return vm, taken


def lock_source(row: Any, encrypted: bool) -> Source:
    """Takes a Volume (with its VM) or a Snapshot, within the caller's transaction. encrypted: what is made of it is.

    Raises FailedPreconditionError: VOLUME_STATE, SNAPSHOT_STATE, and what `check_copier` raises.
    """
    vm, taken = lock_source_row(row)
    pool, host = _export_pool(taken, encrypted, vm)
    return Source(taken, vm, host, pool)


def _export_pool(row: Any, encrypted: bool, vm: Any | None) -> tuple[Any, Any | None]:
    """Where an export goes, and the host that must make it, if any: into the source's own pool when that holds files.

    On a device a small disk takes many GiB, all of which would be sent; so such a disk is exported into a pool of
    files, if any will do, the one with the most room.
    """
    own: Any = row.pool
    either = encrypted or bool(row.passphrase_id)
    if own.type not in FILE_POOLS:
        others: Any = Pool.select().where(Pool.type.in_(FILE_POOLS)).order_by(Pool.available_bytes.desc(), Pool.name)
        for pool in others.where(Pool.encryption) if encrypted else others:
            with contextlib.suppress(FailedPreconditionError):
                return pool, choose_copying_host(own, pool, either, vm)
    return own, choose_copying_host(own, own, either, vm)


def load_source(run: Run) -> Any:
    """Inside a step: the row that the operation's inputs name as `source_id`."""
    model: Any = {"volume": Volume, "snapshot": Snapshot}[run.inputs["source_kind"]]
    with session():
        return model.get_by_id(run.inputs["source_id"])
