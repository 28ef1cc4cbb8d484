"""What people do with a plan: start, pause, resume, retry, cancel."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from ostler_common.errors import FailedPreconditionError, NotFoundError

from ostler_control import events
from ostler_control.database import transaction
from ostler_control.imports.waves import executor, store
from ostler_control.models import (
    ImportPlan,
    ImportPlanState,
    ImportPlanVm,
    ImportPlanVmState,
    Operation,
    new_id,
)
from ostler_control.operations import record_operation

State = ImportPlanState
_RETRIED = (
    ImportPlanVmState.FAILED,
    ImportPlanVmState.REFUSED,
    ImportPlanVmState.SKIPPED,
    ImportPlanVmState.CANCELLED,
)
_ENDED = (State.COMPLETED, State.PARTIAL, State.FAILED, State.CANCELLED)


def start(plan: ImportPlan, user: str) -> Operation:
    """Records the operation that carries out a plan, within the caller's transaction.

    Raises FailedPreconditionError IMPORT_PLAN_STATE.
    """
    row = store.lock(plan.id)
    if row.state is not State.READY:
        verb = "resume" if row.state in (State.PAUSING, State.PAUSED) else "retry"
        raise _state(row, f"only a new one is started (ostler import plan {verb} {row.name})")
    return _launchable(row, (State.READY,), user)


def resume(plan: ImportPlan, user: str) -> Operation:
    """Continues a paused plan, within the caller's transaction: its operation, a new one unless one waits for imports.

    Raises FailedPreconditionError IMPORT_PLAN_STATE.
    """
    row = store.lock(plan.id)
    if row.state is State.PAUSED or (row.state.is_active and _is_abandoned(row)):
        return _launchable(row, (row.state,), user)
    if row.state is State.PAUSING:
        store.set_state(row.id, (State.PAUSING,), State.RUNNING)
        store.record(row, "import-plan.resume", events.Outcome.SUCCEEDED, user)
        return Operation.get_by_id(row.operation_id)
    hint = "start" if row.state is State.READY else "retry"
    raise _state(row, f"only a paused one is resumed (ostler import plan {hint} {row.name})")


def retry(plan: ImportPlan, vms: Sequence[str], user: str) -> Operation:
    """Lets VMs wait again that were not imported, within the caller's transaction; the operation that imports them.

    vms: as the plan names them, none: all. Raises NotFoundError PLAN_VM_NOT_FOUND, FailedPreconditionError
    NOTHING_TO_RETRY, IMPORT_PLAN_STATE.
    """
    row = store.lock(plan.id)
    if row.state is State.READY:
        raise _state(row, f"start it (ostler import plan start {row.name})")
    rows = store.vms_of(row.id)
    unknown = sorted(set(vms) - {vm.source_vm for vm in rows})
    if unknown:
        raise NotFoundError(f'import plan {row.name} has no VM "{unknown[0]}"', "PLAN_VM_NOT_FOUND", {"vm": unknown[0]})
    chosen = [vm for vm in rows if vm.state in _RETRIED and (not vms or vm.source_vm in vms)]
    if not chosen:
        raise FailedPreconditionError(
            f"import plan {row.name} has no such VM that failed, was refused, skipped or cancelled", "NOTHING_TO_RETRY"
        )
    for vm in _with_needed(chosen, rows):
        store.change_vm(
            vm, _RETRIED, state=ImportPlanVmState.WAITING, reason="", reason_code="", findings="", operation_id=""
        )
    if row.state.is_active and not _is_abandoned(row):
        if row.state is State.PAUSING:
            store.set_state(row.id, (State.PAUSING,), State.RUNNING)
        store.record(row, "import-plan.retry", events.Outcome.SUCCEEDED, user, f"{len(chosen)} VMs")
        return Operation.get_by_id(row.operation_id)
    return _launchable(row, (row.state,), user)


def _with_needed(chosen: Sequence[ImportPlanVm], rows: Sequence[ImportPlanVm]) -> list[ImportPlanVm]:
    """The chosen VMs, and those that they come after and that were not imported either: else they would be skipped
    again."""
    by_position = {row.position: row for row in rows}
    found = {row.position: row for row in chosen}
    left = list(chosen)
    while left:
        for position in store.after_of(left.pop()):
            if position not in found and by_position[position].state in _RETRIED:
                found[position] = by_position[position]
                left.append(by_position[position])
    return list(found.values())


def pause(plan: ImportPlan, actor: str) -> ImportPlan:
    """Lets no further import begin. Raises FailedPreconditionError IMPORT_PLAN_STATE unless the plan runs."""
    with transaction():
        if not store.set_state(plan.id, (State.RUNNING,), State.PAUSING, f"paused by {actor}"):
            raise _state(store.lock(plan.id), "only a running one is paused")
        store.record(plan, "import-plan.pause", events.Outcome.SUCCEEDED, actor)
        return ImportPlan.get_by_id(plan.id)


def cancel(plan: ImportPlan, actor: str, cancel_operation: Callable[[str], None]) -> ImportPlan:
    """Ends a plan; imports under way are cancelled and undone. cancel_operation: the engine's.

    Raises FailedPreconditionError IMPORT_PLAN_STATE when it is over.
    """
    with transaction():
        row = store.lock(plan.id)
        if row.state in _ENDED:
            raise _state(row, "there is nothing to cancel")
        abandoned = not row.state.is_active or _is_abandoned(row)
        if abandoned:
            executor.cancel_rest(row)
            executor.account(row)
            store.set_state(row.id, (row.state,), State.CANCELLED, executor.verdict(store.vms_of(row.id), True)[1])
        store.record(row, "import-plan.cancel", events.Outcome.SUCCEEDED, actor)
    if not abandoned:
        cancel_operation(row.operation_id)
    with transaction():
        return ImportPlan.get_by_id(plan.id)


def _launchable(row: ImportPlan, before: Collection[ImportPlanState], user: str) -> Operation:
    operation_id = new_id()
    store.set_state(row.id, before, State.RUNNING, operation_id=operation_id)
    return record_operation(executor.VERB, row, user, {}, operation_id=operation_id)


def _is_abandoned(row: ImportPlan) -> bool:
    """Whether the operation that should carry the plan out is over or gone."""
    operation: Operation | None = Operation.get_or_none(Operation.id == row.operation_id)
    return operation is None or operation.state.is_over


def _state(row: ImportPlan, hint: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"import plan {row.name} is {row.state}: {hint}", "IMPORT_PLAN_STATE", {"plan": row.id, "state": str(row.state)}
    )
