"""Adds what imports need: sources, imports under way with their files, and where imported VMs came from."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from peewee import BigIntegerField, DateTimeField, ForeignKeyField, Model, TextField


class BaseModel(Model):
    """Every table: a UUID as text, and when the row was made."""

    id: Any = TextField(primary_key=True, default=lambda: str(uuid.uuid4()))
    create_time: Any = DateTimeField(
        default=lambda: datetime.datetime.now(datetime.UTC).replace(tzinfo=None), index=True
    )

    class Meta:
        legacy_table_names = False


# Only what the new tables refer to.
class Passphrase(BaseModel):
    pass


class Pool(BaseModel):
    pass


class Vm(BaseModel):
    pass


class ImportSource(BaseModel):
    name: Any = TextField(unique=True)
    type: Any = TextField()
    address: Any = TextField()
    username: Any = TextField()
    ca_pem: Any = TextField(default="")
    thumbprint: Any = TextField(default="")
    passphrase: Any = ForeignKeyField(Passphrase, unique=True, on_delete="RESTRICT")


class VmImport(BaseModel):
    source: Any = ForeignKeyField(ImportSource, backref="imports", on_delete="RESTRICT")
    source_ref: Any = TextField()
    vm_id: Any = TextField(index=True)
    pool: Any = ForeignKeyField(Pool, backref="imports", on_delete="RESTRICT")
    host_id: Any = TextField()
    claimed_bytes: Any = BigIntegerField()

    class Meta:
        indexes = ((("source", "source_ref"), True),)


class ImportFile(BaseModel):
    vm_import: Any = ForeignKeyField(VmImport, backref="files", on_delete="CASCADE")
    name: Any = TextField()
    size_bytes: Any = BigIntegerField()
    sha1: Any = TextField()
    sha256: Any = TextField()

    class Meta:
        indexes = ((("vm_import", "name"), True),)


class VmOrigin(BaseModel):
    vm: Any = ForeignKeyField(Vm, backref="origins", unique=True, on_delete="CASCADE")
    source_name: Any = TextField()
    source_vm: Any = TextField()
    source_ref: Any = TextField()
    guest_id: Any = TextField(default="")
    guest_os: Any = TextField(default="")


NEW = (ImportSource, VmImport, ImportFile, VmOrigin)


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    with db.bind_ctx([Passphrase, Pool, Vm, *NEW]):
        db.create_tables(NEW, safe=False)
