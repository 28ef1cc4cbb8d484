"""Import plans with their VMs."""

from __future__ import annotations

from peewee import (
    BigIntegerField,
    BooleanField,
    DateTimeField,
    ForeignKeyField,
    IntegerField,
    TextField,
)

from ostler_control.models.base import BaseModel, now
from ostler_control.models.enum_columns import enum_column
from ostler_control.states import ImportPlanState, ImportPlanVmState


class ImportPlan(BaseModel):
    """VMs of one source to be imported in an order and under limits.

    source_id, source_name: kept as text, because a source may be removed once the plan is over; outcome: how it went,
    or why it is paused; operation_id: what carries it out, or did last, "" before; document: the file it was made of;
    max_*: imports under way at once; stop_on_no_go: nothing is imported when the check refuses one VM.
    """

    name = TextField(unique=True)
    source_id = TextField(index=True)
    source_name = TextField()
    state = enum_column(ImportPlanState, ImportPlanState.READY)
    state_time = DateTimeField(default=now)
    outcome = TextField(default="")
    user = TextField()
    operation_id = TextField(default="")
    document = TextField()
    stop_on_no_go = BooleanField(default=False)
    max_vms = IntegerField()
    max_per_esxi_host = IntegerField()
    max_per_vcenter = IntegerField()
    max_per_conversion_host = IntegerField()


class ImportPlanVm(BaseModel):
    """A VM of a plan. position: from 0; source_vm: as the plan names it; name: of the new VM, "" until it is known.

    spec: JSON of `imports.waves.planned.PlannedVm`; after: JSON list of positions; reason: why it is in this state, or
    what it waits for; findings: JSON of the last check, "" before; source_ref, esxi_host, size_bytes, estimated_s: of
    the last check; operation_id, vm_id: of its import, "" before; attempt: how often it was tried;
    bytes_per_s, left_s: of an import under way, 0 when not known.
    """

    plan = ForeignKeyField(ImportPlan, backref="vms", on_delete="CASCADE")
    plan_id: str
    position = IntegerField()
    source_vm = TextField()
    name = TextField(default="")
    spec = TextField()
    after = TextField(default="[]")
    state = enum_column(ImportPlanVmState, ImportPlanVmState.WAITING)
    reason_code = TextField(default="")
    reason = TextField(default="")
    findings = TextField(default="")
    source_ref = TextField(default="")
    esxi_host = TextField(default="")
    size_bytes = BigIntegerField(default=0)
    estimated_s = BigIntegerField(default=0)
    operation_id = TextField(default="")
    vm_id = TextField(default="")
    attempt = IntegerField(default=0)
    begin_time = DateTimeField(null=True)
    end_time = DateTimeField(null=True)
    bytes_per_s = BigIntegerField(default=0)
    left_s = BigIntegerField(default=0)

    class Meta:
        indexes = ((("plan", "position"), True),)
