"""A VM of a plan as it is kept, by ids, and what it means now."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from ostler_common.errors import NotFoundError

from ostler_control.imports.wanted import DiskChoice, Wanted
from ostler_control.models import (
    Account,
    BaseModel,
    Cluster,
    DiskOffering,
    Host,
    ImportSource,
    Network,
    Pool,
    ServiceOffering,
    Zone,
)

_Row = TypeVar("_Row", bound=BaseModel)


@dataclass(frozen=True)
class PlannedDisk:
    """A disk that is to be other than the rest. Ids, "" for none."""

    key: int
    offering_id: str = ""
    pool_id: str = ""


@dataclass(frozen=True)
class PlannedVm:
    """As `wanted.Wanted`, with ids, "" for none. network_ids: by name of the source's network; cut_over_time: ISO 8601
    without a time zone, UTC."""

    source_vm: str
    account_id: str
    offering_id: str
    name: str = ""
    disk_offering_id: str = ""
    zone_id: str = ""
    cluster_id: str = ""
    host_id: str = ""
    pool_id: str = ""
    conversion_host_id: str = ""
    staging_pool_id: str = ""
    disks: tuple[PlannedDisk, ...] = ()
    network_ids: Mapping[str, str] = field(default_factory=dict)
    shutdown: bool = False
    stopped: bool = False
    test_boot: bool = False
    force_control_download: bool = False
    warm: bool = False
    auto_cut_over: bool = False
    cut_over_time: str = ""
    tpm: bool = False


def wanted_of(planned: PlannedVm, source: ImportSource) -> Wanted:
    """What a plan wants of a VM, with the fleet's objects as they are now: within a session.

    Raises NotFoundError PLANNED_OBJECT_GONE when one of them was deleted since the plan was made.
    """
    return Wanted(
        source=source,
        source_vm=planned.source_vm,
        account=_load(Account, planned.account_id, "account"),
        offering=_load(ServiceOffering, planned.offering_id, "service offering"),
        name=planned.name,
        disk_offering=_find(DiskOffering, planned.disk_offering_id, "disk offering"),
        zone=_find(Zone, planned.zone_id, "zone"),
        cluster=_find(Cluster, planned.cluster_id, "cluster"),
        host=_find(Host, planned.host_id, "host"),
        pool=_find(Pool, planned.pool_id, "pool"),
        disks={
            disk.key: DiskChoice(
                offering=_find(DiskOffering, disk.offering_id, "disk offering"),
                pool=_find(Pool, disk.pool_id, "pool"),
            )
            for disk in planned.disks
        },
        networks={name: _load(Network, row_id, "network") for name, row_id in planned.network_ids.items()},
        conversion_host=_find(Host, planned.conversion_host_id, "conversion host"),
        staging_pool=_find(Pool, planned.staging_pool_id, "staging pool"),
        shutdown=planned.shutdown,
        stopped=planned.stopped,
        test_boot=planned.test_boot,
        force_control_download=planned.force_control_download,
        warm=planned.warm,
        auto_cut_over=planned.auto_cut_over,
        tpm=planned.tpm,
        cut_over_time=datetime.datetime.fromisoformat(planned.cut_over_time) if planned.cut_over_time else None,
    )


def _find(model: type[_Row], row_id: str, what: str) -> _Row | None:
    return _load(model, row_id, what) if row_id else None


def _load(model: type[_Row], row_id: str, what: str) -> _Row:
    row: _Row | None = model.get_or_none(model.id == row_id)
    if row is None or (isinstance(row, Host) and row.removed):
        raise NotFoundError(
            f"the {what} that the plan names was deleted; create the plan anew", "PLANNED_OBJECT_GONE", {"id": row_id}
        )
    return row
