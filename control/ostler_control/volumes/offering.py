"""Another disk offering for a volume: a change of what it is called, never of what it is."""

from __future__ import annotations

from typing import Any

from ostler_common.errors import FailedPreconditionError

from ostler_control import events
from ostler_control.models import Volume, now
from ostler_control.operations import lock_row
from ostler_control.volumes import matrix
from ostler_control.volumes.grow import check_ready
from ostler_control.volumes.rows import vm_of


def change_offering(volume: Any, offering: Any, actor: str, *, only_check: bool = False) -> Any:
    """The volume's row with its new offering: within the caller's transaction. only_check: as it is now.

    Raises FailedPreconditionError: VOLUME_STATE, ROOT_VOLUME, ENCRYPTION_MISMATCH, OFFERING_LAYOUT, OFFERING_SIZE.
    """
    volume = lock_row(volume)
    check_ready(volume)
    vm = vm_of(volume)
    matrix.check(matrix.Operation.CHANGE_OFFERING, volume, vm is not None and vm.state == "running")
    if volume.root:
        raise FailedPreconditionError(
            f"volume {volume.name} is a root disk, and has its VM's service offering", "ROOT_VOLUME"
        )
    if bool(offering.encrypt) != bool(volume.passphrase_id):
        advice = (
            "encrypt it first (ostler volume encrypt)"
            if offering.encrypt
            else "what is encrypted stays so; choose an encrypting one"
        )
        raise FailedPreconditionError(
            f"disk offering {offering.name} is for {'encrypted' if offering.encrypt else 'plain'} volumes, and volume "
            f"{volume.name} is {'encrypted' if volume.passphrase_id else 'not encrypted'}; {advice}",
            "ENCRYPTION_MISMATCH",
            {"volume": volume.id, "disk_offering": offering.id},
        )
    if (offering.format, offering.provisioning) != (volume.format, volume.provisioning):
        raise FailedPreconditionError(
            f"disk offering {offering.name} is {offering.format}, {offering.provisioning}, and volume {volume.name} "
            f"{volume.format}, {volume.provisioning}; choose one of the same layout",
            "OFFERING_LAYOUT",
        )
    if offering.size_bytes not in (0, volume.size_bytes):
        raise FailedPreconditionError(
            f"disk offering {offering.name} has another size than volume {volume.name}; choose one of its size or "
            "without a size, or grow the volume first",
            "OFFERING_SIZE",
        )
    if only_check:
        return volume
    Volume.update(disk_offering=offering, update_time=now()).where(Volume.id == volume.id).execute()
    events.done("volume.change-offering", actor, volume, f"disk offering {offering.name}")
    return Volume.get_by_id(volume.id)
