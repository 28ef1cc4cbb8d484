"""Accounts, users, their certificates, and the tokens with which hosts join."""

from __future__ import annotations

from typing import Any

from peewee import DateTimeField, ForeignKeyField, TextField

from ostler_control.models.base import BaseModel


class Account(BaseModel):
    """An owner of VMs and volumes."""

    name: Any = TextField(unique=True)


class User(BaseModel):
    """Somebody who may call the API. role: admin | member."""

    name: Any = TextField(unique=True)
    role: Any = TextField()
    account: Any = ForeignKeyField(Account, backref="users", on_delete="RESTRICT")


class Certificate(BaseModel):
    """Every certificate that was issued: what is not here, or is revoked, is refused.

    serial: hex; kind and name: the identity's; ca: fleet | users.
    """

    serial: Any = TextField(unique=True)
    ca: Any = TextField()
    kind: Any = TextField()
    name: Any = TextField(index=True)
    expire_time: Any = DateTimeField()
    revoke_time: Any = DateTimeField(null=True)


class JoinToken(BaseModel):
    """A one-time token: only its digest is kept. host_id: the host that rejoins, else empty."""

    digest: Any = TextField(unique=True)
    cluster_id: Any = TextField()
    host_id: Any = TextField(default="")
    expire_time: Any = DateTimeField()
    use_time: Any = DateTimeField(null=True)
