"""Snapshots of whole VMs."""

from __future__ import annotations

from peewee import BigIntegerField, BlobField, BooleanField, DateTimeField, ForeignKeyField, IntegerField, TextField

from ostler_control.models.base import BaseModel
from ostler_control.models.enum_columns import enum_column
from ostler_control.models.machines import Vm
from ostler_control.models.people import Account
from ostler_control.models.storage import Passphrase, Pool, Snapshot
from ostler_control.states import SnapshotState


class VmSnapshot(BaseModel):
    """All disks of a VM at one moment: a group of snapshots of its volumes, which are created and deleted together.

    vm_id: no foreign key, for the VM may go before it; online: taken while the VM ran; operation_id: the operation that
    holds it, else "".
    """

    name = TextField()
    account = ForeignKeyField(Account, backref="vm_snapshots", on_delete="RESTRICT")
    account_id: str
    vm_id = TextField(index=True)
    vm_name = TextField()
    state = enum_column(SnapshotState, SnapshotState.CREATING, index=True)
    state_reason = TextField(default="")
    online = BooleanField(default=False)
    operation_id = TextField(default="", index=True)

    class Meta:
        indexes = ((("account", "name"), True),)


class VmSnapshotDisk(BaseModel):
    """A disk of a VM's snapshot.

    snapshot: of its volume, None once that was lost with its pool and forgotten; volume_id, volume_name, slot, root:
    the volume's at that moment.
    """

    vm_snapshot = ForeignKeyField(VmSnapshot, backref="disks", on_delete="CASCADE")
    vm_snapshot_id: str
    snapshot = ForeignKeyField(Snapshot, null=True, unique=True, backref="vm_snapshot_disks", on_delete="SET NULL")
    snapshot_id: str | None
    slot = IntegerField()
    root = BooleanField(default=False)
    volume_id = TextField()
    volume_name = TextField()

    class Meta:
        indexes = ((("vm_snapshot", "slot"), True),)


class VmSnapshotMemory(BaseModel):
    """The memory of a VM at the moment of its snapshot; its id is also its file's, which is always encrypted.

    size_bytes: the VM's memory; used_bytes: the space that the file takes, 0 until it is complete; definition: what the
    VM must be again to continue from it, as JSON; cpus: digests of the CPUs of which its guest had what is common,
    separated by spaces, "" if every host gives the same.
    """

    vm_snapshot = ForeignKeyField(VmSnapshot, unique=True, on_delete="CASCADE")
    vm_snapshot_id: str
    pool = ForeignKeyField(Pool, backref="vm_snapshot_memories", on_delete="RESTRICT")
    pool_id: str
    passphrase = ForeignKeyField(Passphrase, unique=True, on_delete="RESTRICT")
    passphrase_id: str
    format = TextField(default="qcow2")
    encrypt_format = TextField(default="")
    size_bytes = BigIntegerField()
    used_bytes = BigIntegerField(default=0)
    definition = TextField()
    cpus = TextField(default="")

    @property
    def file_id(self) -> str:
        """As a Volume has it."""
        return self.id

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.vm_snapshot.name}:memory"


class VmSnapshotFirmwareState(BaseModel):
    """What the VM's firmware kept at that moment.

    sealed: encrypted under the passphrase (the associated data of both is the row's id).
    """

    vm_snapshot = ForeignKeyField(VmSnapshot, unique=True, on_delete="CASCADE")
    vm_snapshot_id: str
    passphrase = ForeignKeyField(Passphrase, unique=True, on_delete="RESTRICT")
    passphrase_id: str
    sealed = BlobField()

    @property
    def name(self) -> str:
        """Its snapshot's."""
        return str(self.vm_snapshot.name)


class VmSnapshotSchedule(BaseModel):
    """When snapshots of a VM are taken. interval: hourly | daily | weekly | monthly; minute, hour, day: UTC."""

    vm = ForeignKeyField(Vm, backref="snapshot_schedules", on_delete="CASCADE")
    vm_id: str
    interval = TextField()
    minute = IntegerField(default=0)
    hour = IntegerField(default=0)
    day = IntegerField(default=1)
    keep = IntegerField()
    next_time = DateTimeField(index=True)
    last_error = TextField(default="")


class ScheduledVmSnapshot(BaseModel):
    """A VM's snapshot that a schedule has taken, and may delete."""

    vm_snapshot = ForeignKeyField(VmSnapshot, unique=True, on_delete="CASCADE")
    vm_snapshot_id: str
    schedule = ForeignKeyField(VmSnapshotSchedule, backref="vm_snapshots", on_delete="CASCADE")
    schedule_id: str
