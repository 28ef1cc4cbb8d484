"""Pools, templates, passphrases and volumes."""

from __future__ import annotations

from typing import Any

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
from ostler_control.models.people import Account
from ostler_control.models.places import Host


class Kek(BaseModel):
    """A version of the key-encryption key that passphrases are, or will be, sealed under; never the key itself.

    id: the provider's name of it ("file:9f86d081884c7d65"), name: the same; current: new passphrases are sealed under
    it; operation_id: the operation that holds it, else "".
    """

    name: Any = TextField()
    current: Any = BooleanField(default=False)
    operation_id: Any = TextField(default="")


# One is current; which one is the same for all replicas.
Kek.add_index(Kek.index(Kek.current, unique=True, where=Kek.current, name="kek_current"))


class Passphrase(BaseModel):
    """A sealed passphrase. Its id is the key's UUID.

    sealed: what the key-encryption key's provider made of it; bound_id: its associated data, the id of the
    volume, the template or the pool. A key that something is sealed under cannot be deleted.
    """

    kek: Any = ForeignKeyField(Kek, backref="passphrases", on_delete="RESTRICT")
    sealed: Any = BlobField()
    bound_id: Any = TextField(index=True)


class Pool(BaseModel):
    """A place for volumes. scope: host | cluster | zone, scope_id: that object's id; options: JSON object of text.

    passphrase: the password of a type that needs one (the associated data is the pool's id).
    """

    name: Any = TextField(unique=True)
    type: Any = TextField()
    scope: Any = TextField()
    scope_id: Any = TextField(index=True)
    path: Any = TextField(default="")
    source: Any = TextField(default="")
    options: Any = TextField(default="{}")
    shared: Any = BooleanField(default=False)
    encryption: Any = BooleanField(default=False)
    fingerprint: Any = TextField(default="")
    capacity_bytes: Any = BigIntegerField(default=0)
    available_bytes: Any = BigIntegerField(default=0)
    measure_time: Any = DateTimeField(null=True)
    passphrase: Any = ForeignKeyField(Passphrase, null=True, unique=True, on_delete="RESTRICT")


class PoolHost(BaseModel):
    """Whether a host reaches a pool, as last proved."""

    pool: Any = ForeignKeyField(Pool, backref="hosts", on_delete="CASCADE")
    host: Any = ForeignKeyField(Host, backref="pools", on_delete="CASCADE")
    reachable: Any = BooleanField(default=False)
    reason: Any = TextField(default="")

    class Meta:
        indexes = ((("pool", "host"), True),)


class Template(BaseModel):
    """A disk image in the control plane's template directory, named by its id, or at `url`. format: qcow2 | raw.

    sha256 or sha512: of its file; ca_pem: whom hosts trust that fetch it from `url`, "" for their system's authorities.

    passphrase: opens its file when that is encrypted (the associated data is the template's id);
    hypervisor_type: "" when it is for every type whose hosts have disks of this format.
    """

    name: Any = TextField(unique=True)
    format: Any = TextField()
    firmware: Any = TextField(default="bios")
    hypervisor_type: Any = TextField(default="")
    virtual_size_bytes: Any = BigIntegerField()
    file_size_bytes: Any = BigIntegerField()
    sha256: Any = TextField(default="")
    sha512: Any = TextField(default="")
    url: Any = TextField(default="")
    ca_pem: Any = TextField(default="")
    passphrase: Any = ForeignKeyField(Passphrase, null=True, unique=True, on_delete="RESTRICT")


class DiskOffering(BaseModel):
    """A size and kind of volume. size_bytes 0: the user says. Provisioning: thin, sparse, thick. Format: qcow2, raw."""

    name: Any = TextField()
    size_bytes: Any = BigIntegerField(default=0)
    encrypt: Any = BooleanField(default=False)
    provisioning: Any = TextField(default="thin")
    format: Any = TextField(default="qcow2")
    retire_time: Any = DateTimeField(null=True)


# The name of a retired offering is free again.
DiskOffering.add_index(
    DiskOffering.index(
        DiskOffering.name, unique=True, where=DiskOffering.retire_time.is_null(), name="disk_offering_live_name"
    )
)


class Volume(BaseModel):
    """A disk.

    file_id: its file's name on hosts, its own id until its data first moves to another file;
    state: creating | ready | deleting | failed; encrypt_format: none | luks, "" until the agent has said;
    operation_id: the operation that holds it, else ""; vm_id and slot: where it is attached (VM rows refer to nothing,
    so this is no foreign key: a VM and its volumes come and go in any order).
    """

    name: Any = TextField()
    account: Any = ForeignKeyField(Account, backref="volumes", on_delete="RESTRICT")
    pool: Any = ForeignKeyField(Pool, backref="volumes", on_delete="RESTRICT")
    file_id: Any = TextField(unique=True)
    disk_offering: Any = ForeignKeyField(DiskOffering, null=True, on_delete="RESTRICT")
    template: Any = ForeignKeyField(Template, null=True, on_delete="SET NULL")
    passphrase: Any = ForeignKeyField(Passphrase, null=True, unique=True, on_delete="RESTRICT")
    state: Any = TextField(default="creating", index=True)
    state_reason: Any = TextField(default="")
    size_bytes: Any = BigIntegerField()
    format: Any = TextField(default="qcow2")
    provisioning: Any = TextField(default="thin")
    encrypt_format: Any = TextField(default="")
    root: Any = BooleanField(default=False)
    vm_id: Any = TextField(default="", index=True)
    slot: Any = IntegerField(default=-1)
    operation_id: Any = TextField(default="")
    update_time: Any = DateTimeField(default=now)

    class Meta:
        indexes = ((("account", "name"), True),)

    @classmethod
    def create(cls, **query: Any) -> Any:
        query.setdefault("id", new_id())
        return super().create(**{"file_id": query["id"], **query})


class VolumeFile(BaseModel):
    """A file of a volume that is not its present one; id: the file's.

    role: incoming, being filled to become the volume's | outgoing, replaced and to be deleted | export, to be read and
    deleted | key, no file at all but a further key of the volume's present one | upload, a file among the control
    plane's templates that the volume is filled with. volume_id: whose it is (the passphrase's associated data);
    operation_id: the operation that needs it.
    """

    volume_id: Any = TextField(index=True)
    role: Any = TextField()
    operation_id: Any = TextField(index=True)
    pool: Any = ForeignKeyField(Pool, backref="volume_files", on_delete="RESTRICT")
    passphrase: Any = ForeignKeyField(Passphrase, null=True, unique=True, on_delete="RESTRICT")
    format: Any = TextField(default="qcow2")
    provisioning: Any = TextField(default="thin")
    encrypt_format: Any = TextField(default="")
    size_bytes: Any = BigIntegerField()

    @property
    def file_id(self) -> Any:
        """As a Volume has it."""
        return self.id


class SnapshotSchedule(BaseModel):
    """When snapshots of a volume are taken. interval: hourly | daily | weekly | monthly; minute, hour, day: UTC."""

    volume: Any = ForeignKeyField(Volume, backref="snapshot_schedules", on_delete="CASCADE")
    interval: Any = TextField()
    minute: Any = IntegerField(default=0)
    hour: Any = IntegerField(default=0)
    day: Any = IntegerField(default=1)
    keep: Any = IntegerField()
    next_time: Any = DateTimeField(index=True)
    last_error: Any = TextField(default="")


class Snapshot(BaseModel):
    """A volume as it was; its id is also its file's.

    state: creating | ready | deleting | failed; volume_id: no foreign key, for the volume may go before it (it is the
    passphrase's associated data); online: taken while the VM ran.
    """

    name: Any = TextField()
    account: Any = ForeignKeyField(Account, backref="snapshots", on_delete="RESTRICT")
    volume_id: Any = TextField(index=True)
    schedule: Any = ForeignKeyField(SnapshotSchedule, null=True, backref="snapshots", on_delete="SET NULL")
    pool: Any = ForeignKeyField(Pool, backref="snapshots", on_delete="RESTRICT")
    passphrase: Any = ForeignKeyField(Passphrase, null=True, unique=True, on_delete="RESTRICT")
    state: Any = TextField(default="creating", index=True)
    state_reason: Any = TextField(default="")
    size_bytes: Any = BigIntegerField()
    format: Any = TextField(default="qcow2")
    encrypt_format: Any = TextField(default="")
    online: Any = BooleanField(default=False)
    operation_id: Any = TextField(default="")

    class Meta:
        indexes = ((("account", "name"), True),)

    @property
    def file_id(self) -> Any:
        """As a Volume has it."""
        return self.id
