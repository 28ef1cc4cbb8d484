"""Saying go, and saying stop."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from ostler_common.errors import FailedPreconditionError
from peewee import IntegrityError

from ostler_control import events
from ostler_control.database import transaction
from ostler_control.drs import Plan
from ostler_control.drs_plans import executor, store
from ostler_control.models import Cluster, DrsPlan, Operation
from ostler_control.operations import record_operation


def execute(plan: DrsPlan, user: str) -> Operation:
    """Records the operation that carries out a plan under review, within the caller's transaction.

    Raises FailedPreconditionError: PLAN_STATE, PLAN_ACTIVE.
    """
    with _only_one(plan.cluster_id):
        ready = store.set_state(plan.id, ("under_review",), "ready")
    if not ready:
        plan = DrsPlan.get_by_id(plan.id)
        hint = f"; {plan.outcome}" if plan.outcome else ""
        raise FailedPreconditionError(
            f"plan {plan.name} is {plan.state.replace('_', ' ')}{hint}: only one under review can be executed "
            "(make a new one: ostler drs generate)",
            "PLAN_STATE",
            {"plan": plan.id, "state": plan.state},
        )
    return _launchable(DrsPlan.get_by_id(plan.id), user)


def execute_mapping(
    cluster: Cluster, found: Plan, user: str, *, type: str = "manual", mode: str = "mapping", host_id: str = ""
) -> Operation:
    """Writes a plan down and records the operation that carries it out at once, within the caller's transaction.

    Raises FailedPreconditionError PLAN_ACTIVE.
    """
    with _only_one(cluster.id):
        plan = store.keep(cluster, found, type=type, mode=mode, user=user, host_id=host_id, state="ready")
    return _launchable(plan, user)


def _launchable(plan: DrsPlan, user: str) -> Operation:
    operation = record_operation(executor.VERB, plan, user, {})
    DrsPlan.update(operation_id=operation.id).where(DrsPlan.id == plan.id).execute()
    store.supersede(plan)
    return operation


class _only_one:
    """One plan of a cluster at a time: the index says so, and this says it to people."""

    def __init__(self, cluster_id: str) -> None:
        self._cluster_id = cluster_id
        self._savepoint = transaction()

    def __enter__(self) -> None:
        self._savepoint.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._savepoint.__exit__(kind, error, trace)
        if not isinstance(error, IntegrityError):
            return
        raise _plan_active(store.active(self._cluster_id)) from error


def check_none_active(cluster_id: str) -> None:
    """Raises FailedPreconditionError PLAN_ACTIVE while a plan of the cluster is being executed."""
    if (other := store.active(cluster_id)) is not None:
        raise _plan_active(other)


def _plan_active(other: DrsPlan | None) -> FailedPreconditionError:
    name = other.name if other else "another"
    return FailedPreconditionError(
        f"plan {name} of this cluster is being executed: wait for it, or end it (ostler drs cancel {name})",
        "PLAN_ACTIVE",
        {"plan": other.id if other else ""},
    )


def cancel(plan: DrsPlan, actor: str, cancel_operation: Callable[[str], None]) -> DrsPlan:
    """Ends a plan; moves under way are finished, no further one begins. cancel_operation: the engine's.

    Raises FailedPreconditionError PLAN_STATE when it is over.
    """
    with transaction():
        dropped = store.set_state(plan.id, ("under_review",), "cancelled", outcome=f"dropped by {actor}")
        plan = DrsPlan.get_by_id(plan.id)
        if dropped:
            events.record("drs.cancel", events.Outcome.SUCCEEDED, actor, "drs", plan.id, plan.name)
            return plan
    if plan.state not in store.ACTIVE:
        raise FailedPreconditionError(
            f"plan {plan.name} is {plan.state.replace('_', ' ')} already", "PLAN_STATE", {"state": plan.state}
        )
    cancel_operation(plan.operation_id)
    with transaction():
        events.record("drs.cancel", events.Outcome.SUCCEEDED, actor, "drs", plan.id, plan.name)
    return DrsPlan.get_by_id(plan.id)
