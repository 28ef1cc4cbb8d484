"""Operations, events, settings, remembered requests, and the replicas' heartbeats."""

from __future__ import annotations

from typing import Any

from peewee import BigIntegerField, BooleanField, DateTimeField, IntegerField, TextField

from ostler_control.models.base import BaseModel, now


class Operation(BaseModel):
    """The API's view of a durable workflow, which has the same id.

    state: pending | running | succeeded | failed | cancelled; inputs: JSON of ids and sizes, never a secret;
    error: google.rpc.Status as protobuf JSON, "" when none; response_id: the object it answers with;
    attempt: how often some process has begun to carry it out; replica: the one that does.
    """

    verb: Any = TextField()
    resource_type: Any = TextField()
    resource_id: Any = TextField(index=True)
    resource_name: Any = TextField(default="")
    account_id: Any = TextField(default="", index=True)
    user: Any = TextField()
    state: Any = TextField(default="pending", index=True)
    inputs: Any = TextField(default="{}")
    error: Any = TextField(default="")
    phase: Any = TextField(default="")
    bytes_done: Any = BigIntegerField(default=0)
    bytes_total: Any = BigIntegerField(default=0)
    percent: Any = IntegerField(default=0)
    attempt: Any = IntegerField(default=0)
    replica: Any = TextField(default="")
    cancel_requested: Any = BooleanField(default=False)
    end_time: Any = DateTimeField(null=True)


class Event(BaseModel):
    """Who did what to which object, when, with what outcome (started | succeeded | failed | cancelled | noticed)."""

    type: Any = TextField(index=True)
    outcome: Any = TextField()
    actor: Any = TextField()
    resource_type: Any = TextField()
    resource_id: Any = TextField(index=True)
    resource_name: Any = TextField(default="")
    account_id: Any = TextField(default="", index=True)
    message: Any = TextField(default="")
    operation_id: Any = TextField(default="")


class SettingValue(BaseModel):
    """A setting that was changed. cluster_id: "" for the global value."""

    name: Any = TextField()
    cluster_id: Any = TextField(default="")
    value: Any = TextField()

    class Meta:
        indexes = ((("name", "cluster_id"), True),)


class Request(BaseModel):
    """A write that carried a request_id: a repeat answers with the same object. digest: SHA-256 of the request."""

    user: Any = TextField()
    request_id: Any = TextField()
    method: Any = TextField()
    digest: Any = TextField()
    resource_id: Any = TextField(default="")

    class Meta:
        indexes = ((("user", "request_id"), True),)


class Replica(BaseModel):
    """A control process. Its id is the DBOS executor's. kek_ids: versions of the key-encryption key that it has and
    others may lack, with spaces between."""

    address: Any = TextField(default="")
    kek_ids: Any = TextField(default="")
    heartbeat_time: Any = DateTimeField(default=now)
