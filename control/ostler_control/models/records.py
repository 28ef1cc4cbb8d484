"""Operations, events, settings, remembered requests, and the replicas' heartbeats."""

from __future__ import annotations

from peewee import BigIntegerField, BooleanField, CompositeKey, DateTimeField, ForeignKeyField, IntegerField, TextField

from ostler_control.models.base import BaseModel, now
from ostler_control.models.enum_columns import enum_column
from ostler_control.states import OperationState, Scope


class Operation(BaseModel):
    """The API's view of a durable workflow, which has the same id.

    state: pending | running | succeeded | failed | cancelled; inputs: JSON of ids and sizes, never a secret;
    error: google.rpc.Status as protobuf JSON, "" when none; response_id: the object it answers with;
    attempt: how often some process has begun to carry it out; replica: the one that does.
    """

    verb = TextField()
    resource_type = TextField()
    resource_id = TextField(index=True)
    resource_name = TextField(default="")
    account_id = TextField(default="", index=True)
    user = TextField()
    state = enum_column(OperationState, OperationState.PENDING, index=True)
    inputs = TextField(default="{}")
    error = TextField(default="")
    phase = TextField(default="")
    bytes_done = BigIntegerField(default=0)
    bytes_total = BigIntegerField(default=0)
    percent = IntegerField(default=0)
    attempt = IntegerField(default=0)
    replica = TextField(default="")
    cancel_requested = BooleanField(default=False)
    end_time = DateTimeField(null=True)


class OperationStep(BaseModel):
    """A finished step of an operation: its journal. number: in the order of the steps, from 0; outcome: JSON of
    {"value": what it returned} or {"error": google.rpc.Status as protobuf JSON}."""

    operation = ForeignKeyField(Operation, on_delete="CASCADE", index=False)
    number = IntegerField()
    name = TextField()
    outcome = TextField()
    create_time = None  # type: ignore[assignment]  # it would be one more index to write

    class Meta:
        primary_key = CompositeKey("operation", "number")


class Event(BaseModel):
    """Who did what to which object, when, with what outcome (started | succeeded | failed | cancelled | noticed).

    sequence, digest: its place in the hash chain; none in its first moments (see `events.linking`).
    """

    type = TextField(index=True)
    outcome = TextField()
    actor = TextField()
    resource_type = TextField()
    resource_id = TextField(index=True)
    resource_name = TextField(default="")
    account_id = TextField(default="", index=True)
    message = TextField(default="")
    operation_id = TextField(default="")
    sequence = BigIntegerField(null=True)
    digest = TextField(null=True)

    class Meta:
        indexes = ((("sequence", "create_time"), False),)


class EventChain(BaseModel):
    """The hash chain over the events: one row. sequence, digest: of the last linked event; anchor: of the last one that
    was deleted because it had expired, and when."""

    sequence = BigIntegerField()
    digest = TextField()
    anchor_sequence = BigIntegerField(default=0)
    anchor_digest = TextField(default="")
    anchor_time = DateTimeField(null=True)


class SettingValue(BaseModel):
    """A setting that was changed. scope_id: of the zone, cluster or account; "" for the global value."""

    name = TextField()
    scope = enum_column(Scope)
    scope_id = TextField(default="")
    value = TextField()

    class Meta:
        indexes = ((("name", "scope", "scope_id"), True),)


class Request(BaseModel):
    """A write that carried a request_id: a repeat answers with the same object. digest: SHA-256 of the request."""

    user = TextField()
    request_id = TextField()
    method = TextField()
    digest = TextField()
    resource_id = TextField(default="")

    class Meta:
        indexes = ((("user", "request_id"), True),)


class Replica(BaseModel):
    """A control process. kek_ids: versions of the key-encryption key that it has and others may lack, with spaces
    between."""

    address = TextField(default="")
    kek_ids = TextField(default="")
    heartbeat_time = DateTimeField(default=now)
