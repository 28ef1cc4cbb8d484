"""Accounts, users, their certificates, and the tokens with which hosts join."""

from __future__ import annotations

from peewee import DateTimeField, ForeignKeyField, TextField

from ostler_control.models.base import BaseModel


class Account(BaseModel):
    """An owner of VMs and volumes."""

    name = TextField(unique=True)


class User(BaseModel):
    """Somebody who may call the API. role: admin | member."""

    name = TextField(unique=True)
    role = TextField()
    account = ForeignKeyField(Account, backref="users", on_delete="RESTRICT")
    account_id: str


class Certificate(BaseModel):
    """Every certificate that was issued: what is not here, or is revoked, is refused.

    serial: hex; kind and name: the identity's; ca: fleet | users.
    """

    serial = TextField(unique=True)
    ca = TextField()
    kind = TextField()
    name = TextField(index=True)
    expire_time = DateTimeField()
    revoke_time = DateTimeField(null=True)


class JoinToken(BaseModel):
    """A one-time token: only its digest is kept.

    host_id: the host that rejoins, else empty; host_name, address: what the joining host must be called and reached at,
    empty when it may say so itself.
    """

    digest = TextField(unique=True)
    cluster_id = TextField()
    host_id = TextField(default="")
    host_name = TextField(default="")
    address = TextField(default="")
    expire_time = DateTimeField()
    use_time = DateTimeField(null=True)
