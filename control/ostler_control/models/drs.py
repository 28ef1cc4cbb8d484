"""Affinity groups, and DRS plans with their moves."""

from __future__ import annotations

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
from ostler_control.models.enum_columns import enum_column
from ostler_control.models.machines import Vm
from ostler_control.models.people import Account
from ostler_control.models.places import Cluster, Host
from ostler_control.states import ACTIVE_PLANS, MoveState, PlanState


class AffinityGroup(BaseModel):
    """VMs that want to be together or apart, or on some hosts or off them.

    kind: affinity | anti_affinity | run_on | not_run_on; strict: must, else preferred.
    """

    name = TextField()
    account = ForeignKeyField(Account, backref="affinity_groups", on_delete="RESTRICT")
    account_id: str
    kind = TextField()
    strict = BooleanField(default=True)

    class Meta:
        indexes = ((("account", "name"), True),)


class AffinityMember(BaseModel):
    """A VM of a group."""

    group = ForeignKeyField(AffinityGroup, backref="members", on_delete="CASCADE")
    group_id: str
    vm = ForeignKeyField(Vm, backref="affinities", on_delete="CASCADE")
    vm_id: str

    class Meta:
        indexes = ((("group", "vm"), True),)


class AffinityHost(BaseModel):
    """A host that a group of kind run_on or not_run_on names."""

    group = ForeignKeyField(AffinityGroup, backref="hosts", on_delete="CASCADE")
    group_id: str
    host = ForeignKeyField(Host, backref="affinities", on_delete="CASCADE")
    host_id: str

    class Meta:
        indexes = ((("group", "host"), True),)


class DrsPlan(BaseModel):
    """A plan of live migrations.

    state: under_review | ready | in_progress | completed | partial | failed | cancelled | expired;
    type: manual | automated; mode: balance | repair | evacuate | return | mapping;
    explanation: the planner's word; outcome: how it went; report: JSON of what led to the moves (`drs_plans.store`);
    host_id: the host that it empties or fills again, "" otherwise; operation_id: what carries it out, "" until then.
    """

    name = TextField(unique=True)
    cluster = ForeignKeyField(Cluster, backref="drs_plans", on_delete="CASCADE")
    cluster_id: str
    type = TextField()
    mode = TextField()
    state = enum_column(PlanState, PlanState.UNDER_REVIEW)
    state_time = DateTimeField(default=now)
    user = TextField()
    algorithm = TextField(default="")
    explanation = TextField(default="")
    outcome = TextField(default="")
    imbalance_before = DoubleField(default=0.0)
    imbalance_after = DoubleField(default=0.0)
    host_id = TextField(default="")
    operation_id = TextField(default="")
    report = TextField(default="{}")


# One plan of a cluster is carried out at a time.
DrsPlan.add_index(
    DrsPlan.index(DrsPlan.cluster, unique=True, where=DrsPlan.state.in_(ACTIVE_PLANS), name="drs_plan_active")
)


class DrsMove(BaseModel):
    """A move of a plan. position: from 0; names and ids are kept as text, because VMs and hosts come and go.

    state: pending | running | done | skipped | failed | cancelled; needs: JSON list of the positions of the moves that
    must have ended before; swap: a number that two moves share which only gain together, -1 for none.
    """

    plan = ForeignKeyField(DrsPlan, backref="moves", on_delete="CASCADE")
    plan_id: str
    position = IntegerField()
    vm_id = TextField(index=True)
    vm_name = TextField()
    source_id = TextField()
    source_name = TextField()
    destination_id = TextField()
    destination_name = TextField()
    state = enum_column(MoveState, MoveState.PENDING)
    state_reason = TextField(default="")
    reason = TextField(default="")
    gain = DoubleField(default=0.0)
    cost = DoubleField(default=0.0)
    cost_bytes = BigIntegerField(default=0)
    imbalance_before = DoubleField(default=0.0)
    imbalance_after = DoubleField(default=0.0)
    storage_motion = BooleanField(default=False)
    considered = TextField(default="[]")
    needs = TextField(default="[]")
    swap = IntegerField(default=-1)
    operation_id = TextField(default="")
    end_time = DateTimeField(null=True)

    class Meta:
        indexes = ((("plan", "position"), True),)


class DrsCondition(BaseModel):
    """Something that an automatic plan acts on once it has lasted: the row is there as long as it holds.

    kind: unbalanced | hot_cpu | hot_memory (`drs_plans.conditions.Kind`); host_id: of a hot host, "" otherwise;
    start_time: since when it holds; seen_time: when it was last checked.
    """

    cluster = ForeignKeyField(Cluster, backref="drs_conditions", on_delete="CASCADE")
    cluster_id: str
    kind = TextField()
    host_id = TextField(default="")
    start_time = DateTimeField()
    seen_time = DateTimeField()

    class Meta:
        indexes = ((("cluster", "kind", "host_id"), True),)
