"""What disk offerings and volumes say of I/O: limits, and whether discard passes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass

from ostler_common.io_limits import NO_LIMITS, IoLimits

from ostler_control.models import DiskOffering, DiskOfferingIo, Volume, VolumeLimits


@dataclass(frozen=True)
class DiskIo:
    """limits_are_own: they are the volume's own, not its disk offering's."""

    limits: IoLimits = NO_LIMITS
    ignore_discard: bool = False
    limits_are_own: bool = False


DEFAULT = DiskIo()


def add_to_offering(offering: DiskOffering, limits: IoLimits, ignore_discard: bool) -> None:
    """Gives a new offering limits that were checked, within the caller's transaction."""
    if limits or ignore_discard:
        DiskOfferingIo.create(disk_offering=offering, ignore_discard=ignore_discard, **asdict(limits))


def of_offerings(offering_ids: Collection[str | None]) -> dict[str, DiskIo]:
    """By offering; those that say nothing are left out."""
    ids = [one for one in offering_ids if one]
    if not ids:
        return {}
    query = DiskOfferingIo.select().where(DiskOfferingIo.disk_offering.in_(ids))
    return {row.disk_offering_id: DiskIo(_limits(row), row.ignore_discard) for row in query}


def of_volumes(volumes: Iterable[Volume], with_own: Collection[str] | None = None) -> Mapping[str, DiskIo]:
    """By volume, all of them. with_own: ids of those that have limits of their own, if that is known."""
    rows = list(volumes)
    offered = of_offerings({row.disk_offering_id for row in rows})
    ids = [volume.id for volume in rows] if with_own is None else list(with_own)
    query = VolumeLimits.select().where(VolumeLimits.volume.in_(ids))
    own = {row.volume_id: _limits(row) for row in (query if ids else ())}
    found = {}
    for row in rows:
        of_offering = offered.get(row.disk_offering_id or "", DEFAULT)
        found[row.id] = (
            DiskIo(own[row.id], of_offering.ignore_discard, limits_are_own=True) if row.id in own else of_offering
        )
    return found


def of_volume(volume: Volume) -> DiskIo:
    """One volume's."""
    return of_volumes([volume])[volume.id]


def set_own(volume: Volume, limits: IoLimits | None) -> None:
    """Gives a volume limits of its own; None: it has those of its offering. Within the caller's transaction."""
    VolumeLimits.delete().where(VolumeLimits.volume == volume.id).execute()
    if limits is not None:
        VolumeLimits.create(volume=volume.id, **asdict(limits))


def _limits(row: DiskOfferingIo | VolumeLimits) -> IoLimits:
    return IoLimits(row.iops, row.bytes_per_s, row.burst_iops, row.burst_bytes_per_s, row.burst_s)
