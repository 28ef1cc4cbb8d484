"""Backups of VMs, and the pools that hold them."""

from __future__ import annotations

from peewee import BigIntegerField, BlobField, BooleanField, DateTimeField, ForeignKeyField, IntegerField, TextField

from ostler_control.models.base import BaseModel
from ostler_control.models.enum_columns import enum_column
from ostler_control.models.machines import Vm
from ostler_control.models.people import Account
from ostler_control.models.storage import Passphrase, Pool
from ostler_control.states import BackupState


class BackupStore(BaseModel):
    """A pool that holds backups, and nothing else."""

    pool = ForeignKeyField(Pool, unique=True, on_delete="CASCADE")
    pool_id: str


class StoreBucket(BaseModel):
    """The bucket in which a store of type s3 keeps its files, each as an object named by the file's id.

    endpoint: "https://HOST[:PORT]"; prefix: "" or what names of objects begin with; ca_pem: "" for the system's CAs;
    passphrase: the secret access key (the associated data is the row's id). Hosts never get it.
    """

    pool = ForeignKeyField(Pool, unique=True, on_delete="CASCADE")
    pool_id: str
    endpoint = TextField()
    bucket = TextField()
    prefix = TextField(default="")
    region = TextField()
    access_key = TextField()
    ca_pem = TextField(default="")
    passphrase = ForeignKeyField(Passphrase, unique=True, on_delete="RESTRICT")
    passphrase_id: str

    @property
    def name(self) -> str:
        """Its store's."""
        return self.pool.name


class Backup(BaseModel):
    """A VM as it was at one moment: its disks as files of their own in a store, its other properties in `definition`.

    vm_id: no foreign key, for the VM may go before it; definition: JSON of `vm_backups.definition.Definition`; online:
    the VM ran; verify_time: when its files were last read whole, verify_error: what was wrong then, "" for nothing;
    operation_id: the operation that holds it, else "".
    """

    name = TextField()
    account = ForeignKeyField(Account, backref="backups", on_delete="RESTRICT")
    account_id: str
    vm_id = TextField(index=True)
    vm_name = TextField()
    pool = ForeignKeyField(Pool, backref="backups", on_delete="RESTRICT")
    pool_id: str
    state = enum_column(BackupState, BackupState.CREATING, index=True)
    state_reason = TextField(default="")
    online = BooleanField(default=False)
    definition = TextField()
    verify_time = DateTimeField(null=True)
    verify_error = TextField(default="")
    operation_id = TextField(default="", index=True)

    class Meta:
        indexes = ((("account", "name"), True),)


class BackupConsistency(BaseModel):
    """What the backup of a running VM is as good as. The fields of `SnapshotConsistency`."""

    backup = ForeignKeyField(Backup, unique=True, on_delete="CASCADE")
    backup_id: str
    consistency = TextField()
    reason = TextField(default="")


class BackupFirmwareState(BaseModel):
    """What the VM's firmware kept when it was backed up; or why the backup has nothing of it.

    sealed: encrypted under the passphrase (the associated data of both is the row's id), b"" and None for nothing;
    copy_time: of what moment it is; problem: for people, "" for none.
    """

    backup = ForeignKeyField(Backup, unique=True, on_delete="CASCADE")
    backup_id: str
    passphrase = ForeignKeyField(Passphrase, null=True, unique=True, on_delete="RESTRICT")
    passphrase_id: str | None
    sealed = BlobField(default=b"")
    copy_time = DateTimeField(null=True)
    problem = TextField(default="")

    @property
    def name(self) -> str:
        """Its backup's."""
        return str(self.backup.name)


class BackupTpm(BaseModel):
    """The TPM of a backup's VM. passphrase: opens its state in the backup (the associated data is this row's id)."""

    backup = ForeignKeyField(Backup, unique=True, on_delete="CASCADE")
    backup_id: str
    passphrase = ForeignKeyField(Passphrase, unique=True, on_delete="RESTRICT")
    passphrase_id: str

    @property
    def name(self) -> str:
        """Its backup's."""
        return str(self.backup.name)


class BackupDisk(BaseModel):
    """A disk of a backup; its id is also its file's. The file is always encrypted, under a passphrase of its own.

    volume_id: the disk's when it was backed up; encrypted: whether that volume was; format: the file's, volume_format:
    the volume's; disk_offering_id: "" for none; sha256, file_size_bytes: of the file, "" and 0 until it is complete.
    """

    backup = ForeignKeyField(Backup, backref="disks", on_delete="CASCADE")
    backup_id: str
    slot = IntegerField()
    root = BooleanField(default=False)
    volume_id = TextField(index=True)
    volume_name = TextField()
    pool = ForeignKeyField(Pool, backref="backup_disks", on_delete="RESTRICT")
    pool_id: str
    passphrase = ForeignKeyField(Passphrase, unique=True, on_delete="RESTRICT")
    passphrase_id: str
    size_bytes = BigIntegerField()
    format = TextField(default="qcow2")
    encrypt_format = TextField(default="")
    encrypted = BooleanField(default=False)
    volume_pool_id = TextField()
    volume_format = TextField()
    provisioning = TextField()
    disk_offering_id = TextField(default="")
    sha256 = TextField(default="")
    file_size_bytes = BigIntegerField(default=0)

    class Meta:
        indexes = ((("backup", "slot"), True),)

    @property
    def file_id(self) -> str:
        """As a Volume has it."""
        return self.id

    @property
    def name(self) -> str:
        """For messages: the backup's name and the disk."""
        return f"{self.backup.name}:{self.slot}"


class BackupSpool(BaseModel):
    """The host in whose spool files of a backup for a bucket still may be."""

    backup = ForeignKeyField(Backup, unique=True, on_delete="CASCADE")
    backup_id: str
    host_id = TextField(index=True)


class BackupBoot(BaseModel):
    """When a VM last booted from a backup, to test it: its create_time.

    sign: by what its guest showed that it was up, "guest agent" or "console"; error: why it did not, "" if it did.
    """

    backup = ForeignKeyField(Backup, unique=True, on_delete="CASCADE")
    backup_id: str
    sign = TextField(default="")
    error = TextField(default="")


class BackupIncrement(BaseModel):
    """What a disk of a backup builds on. Disks of backups by older releases have no such row, and all of their content.

    parent: the disk of an earlier backup that has what this one's file lacks; None: the file has everything;
    full_reason: why it has.
    """

    disk = ForeignKeyField(BackupDisk, unique=True, on_delete="CASCADE")
    disk_id: str
    parent = ForeignKeyField(BackupDisk, null=True, backref="children", on_delete="RESTRICT")
    parent_id: str | None
    full_reason = TextField(default="")


class BackupSchedule(BaseModel):
    """When backups of a VM are taken, and which of them are kept.

    interval: hourly | daily | weekly | monthly; minute, hour, day: UTC; keep_*: see `vm_backups.retention.Retention`.
    """

    vm = ForeignKeyField(Vm, backref="backup_schedules", on_delete="CASCADE")
    vm_id: str
    interval = TextField()
    minute = IntegerField(default=0)
    hour = IntegerField(default=0)
    day = IntegerField(default=1)
    keep_last = IntegerField(default=0)
    keep_daily = IntegerField(default=0)
    keep_weekly = IntegerField(default=0)
    keep_monthly = IntegerField(default=0)
    next_time = DateTimeField(index=True)
    last_error = TextField(default="")


class ScheduledBackup(BaseModel):
    """A backup that a schedule has taken, and may delete."""

    backup = ForeignKeyField(Backup, unique=True, on_delete="CASCADE")
    backup_id: str
    schedule = ForeignKeyField(BackupSchedule, backref="backups", on_delete="CASCADE")
    schedule_id: str
