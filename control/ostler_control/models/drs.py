"""Affinity groups, and DRS plans with their moves."""

from __future__ import annotations

from typing import Any

from peewee import (
    BigIntegerField,
    BooleanField,
    DateTimeField,
    DoubleField,
    ForeignKeyField,
    IntegerField,
    TextField,
)

from ostler_control.models.base import BaseModel, now
from ostler_control.models.machines import Vm
from ostler_control.models.people import Account
from ostler_control.models.places import Cluster


class AffinityGroup(BaseModel):
    """VMs that want to be together or apart. kind: affinity | anti_affinity; strict: must, else preferred."""

    name: Any = TextField()
    account: Any = ForeignKeyField(Account, backref="affinity_groups", on_delete="RESTRICT")
    kind: Any = TextField()
    strict: Any = BooleanField(default=True)

    class Meta:
        indexes = ((("account", "name"), True),)


class AffinityMember(BaseModel):
    """A VM of a group."""

    group: Any = ForeignKeyField(AffinityGroup, backref="members", on_delete="CASCADE")
    vm: Any = ForeignKeyField(Vm, backref="affinities", on_delete="CASCADE")

    class Meta:
        indexes = ((("group", "vm"), True),)


class DrsPlan(BaseModel):
    """A plan of live migrations.

    state: under_review | ready | in_progress | completed | partial | failed | cancelled | expired;
    type: manual | automated; mode: balance | repair | evacuate | return | mapping;
    explanation: the planner's word; outcome: how it went; report: JSON of what led to the moves (`drs_plans.store`);
    host_id: the host that it empties or fills again, "" otherwise; operation_id: what carries it out, "" until then.
    """

    name: Any = TextField(unique=True)
    cluster: Any = ForeignKeyField(Cluster, backref="drs_plans", on_delete="CASCADE")
    type: Any = TextField()
    mode: Any = TextField()
    state: Any = TextField(default="under_review")
    state_time: Any = DateTimeField(default=now)
    user: Any = TextField()
    algorithm: Any = TextField(default="")
    explanation: Any = TextField(default="")
    outcome: Any = TextField(default="")
    imbalance_before: Any = DoubleField(default=0.0)
    imbalance_after: Any = DoubleField(default=0.0)
    host_id: Any = TextField(default="")
    operation_id: Any = TextField(default="")
    report: Any = TextField(default="{}")


# One plan of a cluster is carried out at a time.
DrsPlan.add_index(
    DrsPlan.index(
        DrsPlan.cluster, unique=True, where=DrsPlan.state.in_(("ready", "in_progress")), name="drs_plan_active"
    )
)


class DrsMove(BaseModel):
    """A move of a plan. position: from 0; names and ids are kept as text, because VMs and hosts come and go.

    state: pending | running | done | skipped | failed | cancelled; needs: JSON list of the positions of the moves that
    must have ended before; swap: a number that two moves share which only gain together, -1 for none.
    """

    plan: Any = ForeignKeyField(DrsPlan, backref="moves", on_delete="CASCADE")
    position: Any = IntegerField()
    vm_id: Any = TextField(index=True)
    vm_name: Any = TextField()
    source_id: Any = TextField()
    source_name: Any = TextField()
    destination_id: Any = TextField()
    destination_name: Any = TextField()
    state: Any = TextField(default="pending")
    state_reason: Any = TextField(default="")
    reason: Any = TextField(default="")
    gain: Any = DoubleField(default=0.0)
    cost: Any = DoubleField(default=0.0)
    cost_bytes: Any = BigIntegerField(default=0)
    imbalance_before: Any = DoubleField(default=0.0)
    imbalance_after: Any = DoubleField(default=0.0)
    storage_motion: Any = BooleanField(default=False)
    considered: Any = TextField(default="[]")
    needs: Any = TextField(default="[]")
    swap: Any = IntegerField(default=-1)
    operation_id: Any = TextField(default="")
    end_time: Any = DateTimeField(null=True)

    class Meta:
        indexes = ((("plan", "position"), True),)
