"""Adds import plans: VMs of one source that are imported in waves."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from peewee import (
    BigIntegerField,
    BooleanField,
    Database,
    DateTimeField,
    ForeignKeyField,
    IntegerField,
    Model,
    TextField,
)


def now() -> datetime.datetime:
    """The present moment, UTC, without a zone: how every timestamp is stored."""
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)


class BaseModel(Model):
    """Every table: a UUID as text, and when the row was made."""

    id: Any = TextField(primary_key=True, default=lambda: str(uuid.uuid4()))
    create_time: Any = DateTimeField(default=now, index=True)

    class Meta:
        legacy_table_names = False


class ImportPlan(BaseModel):
    name: Any = TextField(unique=True)
    source_id: Any = TextField(index=True)
    source_name: Any = TextField()
    state: Any = TextField(default="ready")
    state_time: Any = DateTimeField(default=now)
    outcome: Any = TextField(default="")
    user: Any = TextField()
    operation_id: Any = TextField(default="")
    document: Any = TextField()
    stop_on_no_go: Any = BooleanField(default=False)
    max_vms: Any = IntegerField()
    max_per_esxi_host: Any = IntegerField()
    max_per_vcenter: Any = IntegerField()
    max_per_conversion_host: Any = IntegerField()


class ImportPlanVm(BaseModel):
    plan: Any = ForeignKeyField(ImportPlan, backref="vms", on_delete="CASCADE")
    position: Any = IntegerField()
    source_vm: Any = TextField()
    name: Any = TextField(default="")
    spec: Any = TextField()
    after: Any = TextField(default="[]")
    state: Any = TextField(default="waiting")
    reason_code: Any = TextField(default="")
    reason: Any = TextField(default="")
    findings: Any = TextField(default="")
    source_ref: Any = TextField(default="")
    esxi_host: Any = TextField(default="")
    size_bytes: Any = BigIntegerField(default=0)
    estimated_s: Any = BigIntegerField(default=0)
    operation_id: Any = TextField(default="")
    vm_id: Any = TextField(default="")
    attempt: Any = IntegerField(default=0)
    begin_time: Any = DateTimeField(null=True)
    end_time: Any = DateTimeField(null=True)
    bytes_per_s: Any = BigIntegerField(default=0)
    left_s: Any = BigIntegerField(default=0)

    class Meta:
        indexes = ((("plan", "position"), True),)


NEW = (ImportPlan, ImportPlanVm)


def up(migrator: object, db: Database) -> None:
    with db.bind_ctx(NEW):
        db.create_tables(NEW, safe=False)
