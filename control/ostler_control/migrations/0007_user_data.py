"""Adds user data: registered documents, what templates link, what VMs are given, static addresses of interfaces."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from peewee import BlobField, Database, DateTimeField, ForeignKeyField, IntegerField, Model, TextField


def new_id() -> str:
    """A new object's UUID."""
    return str(uuid.uuid4())


def now() -> datetime.datetime:
    """The present moment, UTC, without a zone: how every timestamp is stored."""
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)


class BaseModel(Model):
    """Every table: a UUID as text, and when the row was made."""

    id: Any = TextField(primary_key=True, default=new_id)
    create_time: Any = DateTimeField(default=now, index=True)

    class Meta:
        legacy_table_names = False


# Only what the new tables refer to.
class Account(BaseModel):
    pass


class Passphrase(BaseModel):
    pass


class Template(BaseModel):
    pass


class Vm(BaseModel):
    pass


class Nic(BaseModel):
    pass


class UserData(BaseModel):
    name: Any = TextField()
    account: Any = ForeignKeyField(Account, on_delete="RESTRICT")
    format: Any = TextField()
    size_bytes: Any = IntegerField()
    variables: Any = TextField(default="[]")
    passphrase: Any = ForeignKeyField(Passphrase, unique=True, on_delete="RESTRICT")
    sealed: Any = BlobField()

    class Meta:
        indexes = ((("account", "name"), True),)


class TemplateUserData(BaseModel):
    template: Any = ForeignKeyField(Template, unique=True, on_delete="CASCADE")
    user_data: Any = ForeignKeyField(UserData, on_delete="RESTRICT")
    policy: Any = TextField()


class VmUserData(BaseModel):
    vm: Any = ForeignKeyField(Vm, on_delete="CASCADE")
    operation_id: Any = TextField(default="")
    instance: Any = IntegerField(default=0)
    passphrase: Any = ForeignKeyField(Passphrase, unique=True, on_delete="RESTRICT")
    sealed: Any = BlobField()

    class Meta:
        indexes = ((("vm", "operation_id"), True),)


class NicAddressing(BaseModel):
    nic: Any = ForeignKeyField(Nic, unique=True, on_delete="CASCADE")
    addresses: Any = TextField()
    gateways: Any = TextField(default="[]")
    nameservers: Any = TextField(default="[]")


NEW = (UserData, TemplateUserData, VmUserData, NicAddressing)


def up(migrator: object, db: Database) -> None:
    with db.bind_ctx((Account, Passphrase, Template, Vm, Nic, *NEW)):
        db.create_tables(NEW, safe=False)
