"""Changing a volume's disk offering: the label and its I/O limits; neither its encryption, layout nor size."""

from __future__ import annotations

from ostler_common.errors import FailedPreconditionError
from ostler_common.hypervisors import Function

from ostler_control import events
from ostler_control.catalog import disk_io
from ostler_control.hypervisors import rules
from ostler_control.models import DiskOffering, Volume, now
from ostler_control.operations import lock_row
from ostler_control.states import VmState
from ostler_control.volumes import matrix
from ostler_control.volumes.grow import check_ready
from ostler_control.volumes.rows import vm_of


def change_offering(volume: Volume, offering: DiskOffering, actor: str, *, validate_only: bool = False) -> Volume:
    """Changes a volume's offering within the caller's transaction; returns its row. validate_only: changes nothing.

    A running VM has the new offering's I/O limits from its next start on, or as soon as `limit` applies them.

    Raises FailedPreconditionError: VOLUME_STATE, ROOT_VOLUME, ENCRYPTION_MISMATCH, OFFERING_LAYOUT, OFFERING_SIZE,
    FUNCTION_NOT_SUPPORTED.
    """
    volume = lock_row(volume)
    check_ready(volume)
    vm = vm_of(volume)
    matrix.check(matrix.Operation.CHANGE_OFFERING, volume, vm is not None and vm.state == VmState.RUNNING)
    if volume.root:
        raise FailedPreconditionError(
            f"volume {volume.name} is a root disk: its VM's service offering defines it", "ROOT_VOLUME"
        )
    if offering.encrypt != bool(volume.passphrase_id):
        advice = (
            "encrypt it first (ostler volume encrypt)"
            if offering.encrypt
            else "an encrypted volume stays encrypted; choose an offering that encrypts"
        )
        raise FailedPreconditionError(
            f"disk offering {offering.name} is for {'encrypted' if offering.encrypt else 'unencrypted'} volumes, and "
            f"volume {volume.name} is {'encrypted' if volume.passphrase_id else 'not encrypted'}; {advice}",
            "ENCRYPTION_MISMATCH",
            {"volume": volume.id, "disk_offering": offering.id},
        )
    if (offering.format, offering.provisioning) != (volume.format, volume.provisioning):
        raise FailedPreconditionError(
            f"disk offering {offering.name} has format {offering.format} and provisioning {offering.provisioning}, "
            f"volume {volume.name} has {volume.format} and {volume.provisioning}; choose an offering with the same",
            "OFFERING_LAYOUT",
        )
    if offering.size_bytes not in (0, volume.size_bytes):
        raise FailedPreconditionError(
            f"disk offering {offering.name} has a different size than volume {volume.name}; choose one of the same "
            "size or without a fixed size, or grow the volume first",
            "OFFERING_SIZE",
        )
    if vm is not None and disk_io.of_offerings([offering.id]).get(offering.id, disk_io.DEFAULT).limits:
        rules.need_of_type(Function.IO_LIMITS, vm.hypervisor_type)
    if validate_only:
        return volume
    Volume.update(disk_offering=offering, update_time=now()).where(Volume.id == volume.id).execute()
    events.done("volume.change-offering", actor, volume, f"disk offering {offering.name}")
    return Volume.get_by_id(volume.id)
