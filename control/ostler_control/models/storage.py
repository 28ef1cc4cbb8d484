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

from ostler_control.models.base import BaseModel, now
from ostler_control.models.people import Account
from ostler_control.models.places import Host


class Pool(BaseModel):
    """A place for volumes. scope: host | cluster | zone, scope_id: that object's id; options: JSON object of text."""

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


class PoolHost(BaseModel):
    """Whether a host reaches a pool, as last proved."""

    pool: Any = ForeignKeyField(Pool, backref="hosts", on_delete="CASCADE")
    host: Any = ForeignKeyField(Host, backref="pools", on_delete="CASCADE")
    reachable: Any = BooleanField(default=False)
    reason: Any = TextField(default="")

    class Meta:
        indexes = ((("pool", "host"), True),)


class Template(BaseModel):
    """A disk image in the control plane's template directory, named by its id. format: qcow2 | raw."""

    name: Any = TextField(unique=True)
    format: Any = TextField()
    firmware: Any = TextField(default="bios")
    virtual_size_bytes: Any = BigIntegerField()
    file_size_bytes: Any = BigIntegerField()
    sha256: Any = TextField()


class Passphrase(BaseModel):
    """A sealed passphrase. Its id is the key's UUID.

    sealed: AES-256-GCM nonce + ciphertext under the key-encryption key `kek_id`; associated data: the volume's id.
    """

    kek_id: Any = TextField()
    sealed: Any = BlobField()


class DiskOffering(BaseModel):
    """A size and kind of volume. size_bytes 0: the user says. Provisioning: thin, sparse, fat. Format: qcow2, raw."""

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

    state: creating | ready | deleting | failed; encrypt_format: none | luks, "" until the agent has said;
    operation_id: the operation that holds it, else ""; vm_id and slot: where it is attached (VM rows refer to nothing,
    so this is no foreign key: a VM and its volumes come and go in any order).
    """

    name: Any = TextField()
    account: Any = ForeignKeyField(Account, backref="volumes", on_delete="RESTRICT")
    pool: Any = ForeignKeyField(Pool, backref="volumes", on_delete="RESTRICT")
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
