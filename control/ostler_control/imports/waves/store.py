"""Import plans in the database: kept, brought from state to state, read."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ostler_common.errors import AlreadyExistsError, FailedPreconditionError
from peewee import IntegrityError, chunked

from ostler_control import events
from ostler_control.database import locked, session, transaction
from ostler_control.imports.preflight import Finding
from ostler_control.imports.waves.order import Entry, Limits
from ostler_control.imports.waves.planned import PlannedVm
from ostler_control.models import (
    ImportPlan,
    ImportPlanState,
    ImportPlanVm,
    ImportPlanVmState,
    ImportSource,
    new_id,
    now,
)
from ostler_control.operations.inputs import from_json, to_json


@dataclass(frozen=True)
class NewPlan:
    """A plan to be kept. vms: with the positions of those that each comes after; document: the file, for people."""

    name: str
    source: ImportSource
    stop_on_no_go: bool
    limits: Limits
    vms: Sequence[tuple[PlannedVm, tuple[int, ...]]]
    document: str


@dataclass(frozen=True)
class Findings:
    """What a check found, as it is kept."""

    found: tuple[Finding, ...] = ()


def create(new: NewPlan, user: str) -> ImportPlan:
    """Writes a plan down, within the caller's transaction. Raises AlreadyExistsError IMPORT_PLAN_EXISTS."""
    try:
        with transaction():
            plan: ImportPlan = ImportPlan.create(
                name=new.name,
                source_id=new.source.id,
                source_name=new.source.name,
                user=user,
                document=new.document,
                stop_on_no_go=new.stop_on_no_go,
                max_vms=new.limits.vms,
                max_per_esxi_host=new.limits.per_esxi_host,
                max_per_vcenter=new.limits.per_vcenter,
                max_per_conversion_host=new.limits.per_conversion_host,
            )
    except IntegrityError:
        raise AlreadyExistsError(
            f"there is an import plan named {new.name} already; choose another name, or delete it"
            f" (ostler import plan delete {new.name})",
            "IMPORT_PLAN_EXISTS",
        ) from None
    rows = [
        {
            "id": new_id(),
            "create_time": now(),
            "plan": plan.id,
            "position": position,
            "source_vm": planned.source_vm,
            "name": planned.name,
            "spec": to_json(planned),
            "after": json.dumps(after),
        }
        for position, (planned, after) in enumerate(new.vms)
    ]
    for chunk in chunked(rows, 100):
        ImportPlanVm.insert_many(chunk).execute()
    record(plan, "import-plan.create", events.Outcome.SUCCEEDED, user, f"{len(rows)} VMs of {new.source.name}")
    return plan


def vms_of(plan_id: str) -> list[ImportPlanVm]:
    """A plan's VMs, in order."""
    with session():
        return list(ImportPlanVm.select().where(ImportPlanVm.plan == plan_id).order_by(ImportPlanVm.position))


def lock(plan_id: str) -> ImportPlan:
    """The plan as it is now, locked until the caller's transaction ends."""
    query = ImportPlan.select().where(ImportPlan.id == plan_id)
    return locked(query).get()


def set_state(
    plan_id: str, before: Collection[ImportPlanState], state: ImportPlanState, outcome: str = "", operation_id: str = ""
) -> bool:
    """Brings a plan into a state, if it is in one of these now; whether it was. operation_id: "" stays."""
    values: dict[str, object] = {"state": state, "state_time": now(), "outcome": outcome}
    if operation_id:
        values["operation_id"] = operation_id
    with transaction():
        held = (ImportPlan.id == plan_id) & ImportPlan.state.in_(list(before))
        return bool(ImportPlan.update(values).where(held).execute() == 1)


def change_vm(row: ImportPlanVm, before: Collection[ImportPlanVmState], **values: object) -> bool:
    """Changes a VM of a plan, if it is in one of these states now; whether it was."""
    with transaction():
        held = (ImportPlanVm.id == row.id) & ImportPlanVm.state.in_(list(before))
        return bool(ImportPlanVm.update(values).where(held).execute() == 1)


def entries(rows: Sequence[ImportPlanVm]) -> list[Entry]:
    """The VMs as `order` takes them."""
    return [
        Entry(row.position, row.source_vm, row.state, tuple(after_of(row)), row.esxi_host)
        for row in sorted(rows, key=lambda row: row.position)
    ]


def after_of(row: ImportPlanVm) -> list[int]:
    """Positions of the VMs that this one comes after."""
    return [int(position) for position in json.loads(row.after)]


def planned_of(row: ImportPlanVm) -> PlannedVm:
    """What the plan wants of a VM."""
    return from_json(PlannedVm, row.spec)


def findings_of(row: ImportPlanVm) -> tuple[Finding, ...]:
    """What the last check found."""
    return from_json(Findings, row.findings).found if row.findings else ()


def limits_of(plan: ImportPlan) -> Limits:
    """How many imports may be under way at once."""
    return Limits(plan.max_vms, plan.max_per_esxi_host, plan.max_per_vcenter, plan.max_per_conversion_host)


def delete(plan: ImportPlan, actor: str) -> None:
    """Forgets a plan. Raises FailedPreconditionError IMPORT_PLAN_STATE while it imports."""
    with transaction():
        row = lock(plan.id)
        if row.state.is_active:
            raise FailedPreconditionError(
                f"import plan {plan.name} is {row.state}; cancel it first (ostler import plan cancel {plan.name})",
                "IMPORT_PLAN_STATE",
                {"state": row.state},
            )
        ImportPlan.delete().where(ImportPlan.id == plan.id).execute()
        record(plan, "import-plan.delete", events.Outcome.SUCCEEDED, actor)


def record(plan: ImportPlan, type: str, outcome: events.Outcome, actor: str, message: str = "") -> None:
    """An event of a plan."""
    events.record(type, outcome, actor, "import-plan", plan.id, plan.name, message, operation_id=plan.operation_id)
