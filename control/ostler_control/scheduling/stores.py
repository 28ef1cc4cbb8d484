"""Pools that hold backups: no volume, snapshot, export or import ever goes there."""

from __future__ import annotations

from ostler_common.errors import FailedPreconditionError
from peewee import ColumnBase

from ostler_control.models import BackupStore, Pool


def holds_volumes() -> ColumnBase:
    """The condition on `Pool` that it is no backup store."""
    return Pool.id.not_in(BackupStore.select(BackupStore.pool))


def check_holds_volumes(pool_id: str) -> None:
    """Raises FailedPreconditionError POOL_IS_STORE for a backup store."""
    if BackupStore.select().where(BackupStore.pool == pool_id).exists():
        pool = Pool.get_by_id(pool_id)
        raise FailedPreconditionError(
            f"{pool.name} is a backup store and holds no volumes; choose a pool (ostler pool list)",
            "POOL_IS_STORE",
            {"pool": pool.name},
        )
