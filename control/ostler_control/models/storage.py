"""Pools, templates, passphrases and volumes."""

from __future__ import annotations

from typing import Self

from peewee import (
    BigIntegerField,
    BlobField,
    BooleanField,
    DateTimeField,
    ForeignKeyField,
    IntegerField,
    TextField,
)

from ostler_control.models.base import BaseModel, new_id, now
from ostler_control.models.enum_columns import enum_column
from ostler_control.models.people import Account
from ostler_control.models.places import Host
from ostler_control.states import SnapshotState, VolumeState


class Kek(BaseModel):
    """A version of the key-encryption key that passphrases are, or will be, sealed under; never the key itself.

    id: the provider's name of it ("file:9f86d081884c7d65"), name: the same; current: new passphrases are sealed under
    it; operation_id: the operation that holds it, else "".
    """

    name = TextField()
    current = BooleanField(default=False)
    operation_id = TextField(default="")


# One is current; which one is the same for all replicas.
Kek.add_index(Kek.index(Kek.current, unique=True, where=Kek.current, name="kek_current"))


class Passphrase(BaseModel):
    """A sealed passphrase. Its id is the key's UUID.

    sealed: what the key-encryption key's provider made of it; bound_id: its associated data, the id of the
    volume, the template or the pool. A key that something is sealed under cannot be deleted.
    """

    kek = ForeignKeyField(Kek, backref="passphrases", on_delete="RESTRICT")
    kek_id: str
    sealed = BlobField()
    bound_id = TextField(index=True)


class Pool(BaseModel):
    """A place for volumes. scope: host | cluster | zone, scope_id: that object's id; options: JSON object of text.

    passphrase: the password of a type that needs one (the associated data is the pool's id).
    """

    name = TextField(unique=True)
    type = TextField()
    scope = TextField()
    scope_id = TextField(index=True)
    path = TextField(default="")
    source = TextField(default="")
    options = TextField(default="{}")
    shared = BooleanField(default=False)
    encryption = BooleanField(default=False)
    fingerprint = TextField(default="")
    capacity_bytes = BigIntegerField(default=0)
    available_bytes = BigIntegerField(default=0)
    measure_time = DateTimeField(null=True)
    passphrase = ForeignKeyField(Passphrase, null=True, unique=True, on_delete="RESTRICT")
    passphrase_id: str | None


class PoolHost(BaseModel):
    """Whether a host reaches a pool, as last proved."""

    pool = ForeignKeyField(Pool, backref="hosts", on_delete="CASCADE")
    pool_id: str
    host = ForeignKeyField(Host, backref="pools", on_delete="CASCADE")
    host_id: str
    reachable = BooleanField(default=False)
    reason = TextField(default="")

    class Meta:
        indexes = ((("pool", "host"), True),)


class Template(BaseModel):
    """A disk image in the control plane's template directory, named by its id, or at `url`. format: qcow2 | raw.

    sha256 or sha512: of its file; ca_pem: whom hosts trust that fetch it from `url`, "" for their system's authorities.

    passphrase: opens its file when that is encrypted (the associated data is the template's id);
    hypervisor_type: "" when it is for every type whose hosts have disks of this format.
    """

    name = TextField(unique=True)
    format = TextField()
    firmware = TextField(default="bios")
    hypervisor_type = TextField(default="")
    virtual_size_bytes = BigIntegerField()
    file_size_bytes = BigIntegerField()
    sha256 = TextField(default="")
    sha512 = TextField(default="")
    url = TextField(default="")
    ca_pem = TextField(default="")
    passphrase = ForeignKeyField(Passphrase, null=True, unique=True, on_delete="RESTRICT")
    passphrase_id: str | None


class TemplateTpm(BaseModel):
    """Says that VMs created from a template get a TPM; templates without a row give none."""

    template = ForeignKeyField(Template, unique=True, on_delete="CASCADE")
    template_id: str


class DiskOffering(BaseModel):
    """A size and kind of volume. size_bytes 0: the user says. Provisioning: thin, sparse, thick. Format: qcow2, raw."""

    name = TextField()
    size_bytes = BigIntegerField(default=0)
    encrypt = BooleanField(default=False)
    provisioning = TextField(default="thin")
    format = TextField(default="qcow2")
    retire_time = DateTimeField(null=True)


# The name of a retired offering is free again.
DiskOffering.add_index(
    DiskOffering.index(
        DiskOffering.name, unique=True, where=DiskOffering.retire_time.is_null(), name="disk_offering_live_name"
    )
)


class DiskOfferingIo(BaseModel):
    """What a disk offering says of I/O; one without a row: no limits, and discard passes. The fields of `IoLimits`."""

    disk_offering = ForeignKeyField(DiskOffering, unique=True, on_delete="CASCADE")
    disk_offering_id: str
    iops = BigIntegerField(default=0)
    bytes_per_s = BigIntegerField(default=0)
    burst_iops = BigIntegerField(default=0)
    burst_bytes_per_s = BigIntegerField(default=0)
    burst_s = IntegerField(default=0)
    ignore_discard = BooleanField(default=False)


class Volume(BaseModel):
    """A disk.

    file_id: its file's name on hosts, its own id until its data first moves to another file;
    state: creating | ready | deleting | failed; encrypt_format: none | luks, "" until the agent has said;
    operation_id: the operation that holds it, else ""; vm_id and slot: where it is attached (VM rows refer to nothing,
    so this is no foreign key: a VM and its volumes come and go in any order).
    """

    name = TextField()
    account = ForeignKeyField(Account, backref="volumes", on_delete="RESTRICT")
    account_id: str
    pool = ForeignKeyField(Pool, backref="volumes", on_delete="RESTRICT")
    pool_id: str
    file_id = TextField(unique=True)
    disk_offering = ForeignKeyField(DiskOffering, null=True, on_delete="RESTRICT")
    disk_offering_id: str | None
    template = ForeignKeyField(Template, null=True, on_delete="SET NULL")
    template_id: str | None
    passphrase = ForeignKeyField(Passphrase, null=True, unique=True, on_delete="RESTRICT")
    passphrase_id: str | None
    state = enum_column(VolumeState, VolumeState.CREATING, index=True)
    state_reason = TextField(default="")
    size_bytes = BigIntegerField()
    format = TextField(default="qcow2")
    provisioning = TextField(default="thin")
    encrypt_format = TextField(default="")
    root = BooleanField(default=False)
    vm_id = TextField(default="", index=True)
    slot = IntegerField(default=-1)
    operation_id = TextField(default="", index=True)
    update_time = DateTimeField(default=now)

    class Meta:
        indexes = ((("account", "name"), True),)

    @classmethod
    def create(cls, **query: object) -> Self:
        query.setdefault("id", new_id())
        return super().create(**{"file_id": query["id"], **query})


class VolumeLimits(BaseModel):
    """I/O limits that a volume has in place of those of its disk offering. The fields of `IoLimits`."""

    volume = ForeignKeyField(Volume, unique=True, on_delete="CASCADE")
    volume_id: str
    iops = BigIntegerField(default=0)
    bytes_per_s = BigIntegerField(default=0)
    burst_iops = BigIntegerField(default=0)
    burst_bytes_per_s = BigIntegerField(default=0)
    burst_s = IntegerField(default=0)


class VolumeFile(BaseModel):
    """A file of a volume that is not its present one; id: the file's.

    role: incoming, being filled to become the volume's | outgoing, replaced and to be deleted | export, to be read and
    deleted | key, no file at all but a further key of the volume's present one | upload, a file among the control
    plane's templates that the volume is filled with. volume_id: whose it is (the passphrase's associated data);
    operation_id: the operation that needs it.
    """

    volume_id = TextField(index=True)
    role = TextField()
    operation_id = TextField(index=True)
    pool = ForeignKeyField(Pool, backref="volume_files", on_delete="RESTRICT")
    pool_id: str
    passphrase = ForeignKeyField(Passphrase, null=True, unique=True, on_delete="RESTRICT")
    passphrase_id: str | None
    format = TextField(default="qcow2")
    provisioning = TextField(default="thin")
    encrypt_format = TextField(default="")
    size_bytes = BigIntegerField()

    @property
    def file_id(self) -> str:
        """As a Volume has it."""
        return self.id

    @property
    def name(self) -> str:
        """Its volume's, "" when that is gone."""
        volume = Volume.get_or_none(Volume.id == self.volume_id)
        return volume.name if volume is not None else ""


class SnapshotSchedule(BaseModel):
    """When snapshots of a volume are taken. interval: hourly | daily | weekly | monthly; minute, hour, day: UTC."""

    volume = ForeignKeyField(Volume, backref="snapshot_schedules", on_delete="CASCADE")
    volume_id: str
    interval = TextField()
    minute = IntegerField(default=0)
    hour = IntegerField(default=0)
    day = IntegerField(default=1)
    keep = IntegerField()
    next_time = DateTimeField(index=True)
    last_error = TextField(default="")


class Snapshot(BaseModel):
    """A volume as it was; its id is also its file's.

    state: creating | ready | deleting | failed; volume_id: no foreign key, for the volume may go before it (it is the
    passphrase's associated data); online: taken while the VM ran.
    """

    name = TextField()
    account = ForeignKeyField(Account, backref="snapshots", on_delete="RESTRICT")
    account_id: str
    volume_id = TextField(index=True)
    schedule = ForeignKeyField(SnapshotSchedule, null=True, backref="snapshots", on_delete="SET NULL")
    schedule_id: str | None
    pool = ForeignKeyField(Pool, backref="snapshots", on_delete="RESTRICT")
    pool_id: str
    passphrase = ForeignKeyField(Passphrase, null=True, unique=True, on_delete="RESTRICT")
    passphrase_id: str | None
    state = enum_column(SnapshotState, SnapshotState.CREATING, index=True)
    state_reason = TextField(default="")
    size_bytes = BigIntegerField()
    format = TextField(default="qcow2")
    encrypt_format = TextField(default="")
    online = BooleanField(default=False)
    operation_id = TextField(default="", index=True)

    class Meta:
        indexes = ((("account", "name"), True),)

    @property
    def file_id(self) -> str:
        """As a Volume has it."""
        return self.id


class SnapshotConsistency(BaseModel):
    """What the snapshot of a running VM's disk is as good as; none is unknown, or the VM did not run.

    consistency: crash | application; reason: why not application.
    """

    snapshot = ForeignKeyField(Snapshot, unique=True, on_delete="CASCADE")
    snapshot_id: str
    consistency = TextField()
    reason = TextField(default="")
