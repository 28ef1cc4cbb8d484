"""Plans in the database: kept, ended, expired, forgotten."""

from __future__ import annotations

import datetime
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from peewee import chunked

from ostler_control import events, settings
from ostler_control.database import session, transaction
from ostler_control.drs.model import Plan
from ostler_control.models import Cluster, DrsMove, DrsPlan, new_id, now
from ostler_control.states import MoveState

ACTIVE = ("ready", "in_progress")
OVER = ("completed", "partial", "failed", "cancelled", "expired")
# A plan that is not approved in this time describes a cluster of the past.
REVIEW = datetime.timedelta(days=1)
_MAX_LEFT = 500


def keep(
    cluster: Cluster, found: Plan, *, type: str, mode: str, user: str, host_id: str = "", state: str = "under_review"
) -> DrsPlan:
    """Writes a plan down, within the caller's transaction. state: in which it begins, when it has moves."""
    plan_id = new_id()
    plan: DrsPlan = DrsPlan.create(
        id=plan_id,
        name=f"plan-{plan_id[:8]}",
        cluster=cluster,
        type=type,
        mode=mode,
        state=state if found.moves or state != "under_review" else _without_moves(found),
        user=user,
        algorithm=found.algorithm,
        explanation=found.explanation,
        imbalance_before=found.imbalance_before,
        imbalance_after=found.imbalance_after,
        host_id=host_id,
        report=json.dumps(_report(found)),
    )
    rows = [
        {
            "id": new_id(),
            "create_time": now(),
            "plan": plan_id,
            "position": position,
            "vm_id": move.vm_id,
            "vm_name": move.vm_name,
            "source_id": move.source_id,
            "source_name": move.source_name,
            "destination_id": move.destination_id,
            "destination_name": move.destination_name,
            "reason": move.reason,
            "gain": move.gain,
            "cost": move.cost,
            "cost_bytes": move.cost_bytes,
            "imbalance_before": move.imbalance_before,
            "imbalance_after": move.imbalance_after,
            "storage_motion": move.storage_motion,
            "considered": json.dumps([asdict(other) for other in move.considered]),
            "needs": json.dumps(move.needs),
            "swap": -1 if move.swap is None else move.swap,
        }
        for position, move in enumerate(found.moves)
    ]
    for chunk in chunked(rows, 200):
        DrsMove.insert_many(chunk).execute()
    record(plan, "drs.generate", events.Outcome.SUCCEEDED, found.explanation)
    return plan


def _without_moves(found: Plan) -> str:
    """A plan with nothing to do is over at once. That nothing helps is an answer, too."""
    return "failed" if found.mode == "evacuate" and found.verdict != "satisfied" else "completed"


def _report(found: Plan) -> dict[str, Any]:
    left = [vm for vm in found.left_vms if vm.code != "ELSEWHERE"]
    return {
        "hosts": [asdict(load) for load in found.loads],
        "left_vms": [asdict(vm) for vm in left[:_MAX_LEFT]],
        "left_counts": dict(Counter(vm.code for vm in left)),
        "left_hosts": [asdict(host) for host in found.left_hosts],
        "refused": found.refused,
        "broken_before": [asdict(rule) for rule in found.broken_before],
        "broken_after": [asdict(rule) for rule in found.broken_after],
    }


def keep_shadow(cluster: Cluster, found: Plan, mode: str, user: str) -> DrsPlan:
    """Records a plan of shadow mode, within the caller's transaction: it is over at once, and nothing moves."""
    plan = keep(cluster, found, type="automated", mode=mode, user=user, state="completed")
    why = "shadow mode (drs.automatic.shadow)"
    change = f"imbalance {found.imbalance_before:.1%} -> {found.imbalance_after:.1%}"
    outcome = f"{why}: nothing is moved; {len(found.moves)} moves would have changed {change}"
    DrsMove.update(state=MoveState.CANCELLED, state_reason=why, end_time=now()).where(DrsMove.plan == plan.id).execute()
    DrsPlan.update(outcome=outcome).where(DrsPlan.id == plan.id).execute()
    record(plan, "drs.shadow", events.Outcome.NOTICED, outcome)
    return DrsPlan.get_by_id(plan.id)


def keep_failure(cluster: Cluster, user: str, why: str) -> DrsPlan:
    """Writes down that the scheduler could make no plan, within the caller's transaction: it backs off by that."""
    plan_id = new_id()
    plan: DrsPlan = DrsPlan.create(
        id=plan_id,
        name=f"plan-{plan_id[:8]}",
        cluster=cluster,
        type="automated",
        mode="balance",
        state="failed",
        user=user,
        outcome=why,
    )
    record(plan, "drs.generate", events.Outcome.FAILED, why)
    return plan


def moves_of(plan_id: str) -> list[DrsMove]:
    """A plan's moves, in order."""
    with session():
        return list(DrsMove.select().where(DrsMove.plan == plan_id).order_by(DrsMove.position))


def moves_of_all(plan_ids: Sequence[str]) -> dict[str, list[DrsMove]]:
    """The same of several plans."""
    found: dict[str, list[DrsMove]] = {plan_id: [] for plan_id in plan_ids}
    query = DrsMove.select().where(DrsMove.plan.in_(list(plan_ids))).order_by(DrsMove.plan, DrsMove.position)
    for row in query:
        found[row.plan_id].append(row)
    return found


def active(cluster_id: str) -> DrsPlan | None:
    """The plan of the cluster that is carried out now, or None."""
    return DrsPlan.get_or_none((DrsPlan.cluster == cluster_id) & DrsPlan.state.in_(ACTIVE))


def set_state(plan_id: str, before: Sequence[str], state: str, **values: object) -> bool:
    """Brings a plan into a state, if it is in one of these now; whether it was."""
    with transaction():
        changed = (
            DrsPlan.update(state=state, state_time=now(), **values)
            .where((DrsPlan.id == plan_id) & DrsPlan.state.in_(list(before)))
            .execute()
        )
        return bool(changed == 1)


def supersede(plan: DrsPlan) -> None:
    """Once a plan is carried out, what was reviewed beside it is of another time: within the caller's transaction."""
    DrsPlan.update(state="expired", state_time=now(), outcome=f"{plan.name} came first").where(
        (DrsPlan.cluster == plan.cluster_id) & (DrsPlan.id != plan.id) & (DrsPlan.state == "under_review")
    ).execute()


def expire(time: datetime.datetime) -> int:
    """Expires plans that were not approved in time, and deletes old ones; returns how many were forgotten."""
    with transaction():
        DrsPlan.update(state="expired", state_time=time, outcome="not approved in time").where(
            (DrsPlan.state == "under_review") & (DrsPlan.create_time < time - REVIEW)
        ).execute()
        kept = datetime.timedelta(days=settings.drs.PLAN_EXPIRE_INTERVAL.get())
        old = (DrsPlan.create_time < time - kept) & DrsPlan.state.in_(OVER)
        count: int = DrsPlan.delete().where(old).execute()
        return count


def record(plan: DrsPlan, type: str, outcome: events.Outcome, message: str) -> None:
    """An event of a plan."""
    events.record(type, outcome, plan.user, "drs", plan.id, plan.name, message, operation_id=plan.operation_id)
