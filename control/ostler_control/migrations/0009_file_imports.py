"""Lets an import have no source: its files come from the caller or from a URL."""

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


class Pool(BaseModel):
    pass


class ImportSource(BaseModel):
    pass


class VmImport(BaseModel):
    source: Any = ForeignKeyField(ImportSource, backref="imports", on_delete="RESTRICT", null=True)
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


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    """SQLite changes no column in place, so both tables are created anew and filled again."""
    with db.bind_ctx([Pool, ImportSource, VmImport, ImportFile]):
        imports = list(VmImport.select().dicts())
        files = list(ImportFile.select().dicts())
        db.drop_tables([ImportFile, VmImport])
        db.create_tables([VmImport, ImportFile], safe=False)
        for row in imports:
            VmImport.insert(row).execute()
        for file in files:
            ImportFile.insert(file).execute()
