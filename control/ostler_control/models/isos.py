"""ISO images, and the CD-ROM drives that they are in."""

from __future__ import annotations

from peewee import BigIntegerField, BooleanField, ForeignKeyField, IntegerField, TextField

from ostler_control.models.base import BaseModel
from ostler_control.models.machines import Vm


class Iso(BaseModel):
    """An ISO image in the control plane's template directory, named by its id. sha256: of its file."""

    name = TextField(unique=True)
    file_size_bytes = BigIntegerField()
    sha256 = TextField()


class VmIso(BaseModel):
    """An ISO image in a CD-ROM drive of a VM. boot_first: the VM tries the drive before its disks."""

    vm = ForeignKeyField(Vm, backref="isos", on_delete="CASCADE")
    vm_id: str
    iso = ForeignKeyField(Iso, backref="vms", on_delete="RESTRICT")
    iso_id: str
    drive = IntegerField()
    boot_first = BooleanField(default=False)

    class Meta:
        indexes = ((("vm", "drive"), True),)
