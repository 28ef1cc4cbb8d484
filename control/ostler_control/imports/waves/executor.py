"""Carrying out an import plan: an operation whose VMs are `vm.import` operations of their own.

The rows of the VMs are the truth. A VM begins in one transaction with its operation, and it ends by what that operation
says. So this process may die at any line: the next one reads the rows and goes on, and no VM is lost or imported twice.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from ostler_common.errors import CancelledError, FailedPreconditionError

from ostler_control import events
from ostler_control.database import session, transaction
from ostler_control.imports.waves import begin as beginning
from ostler_control.imports.waves import check, order, store
from ostler_control.imports.waves.begin import Verdict
from ostler_control.imports.waves.progress import Sample, Speed, left_s
from ostler_control.keys import Keyring
from ostler_control.models import (
    ImportPlan,
    ImportPlanState,
    ImportPlanVm,
    ImportPlanVmState,
    Operation,
    OperationState,
    now,
)
from ostler_control.operations import Json, Run, Undo, periodic, workflow
from ostler_control.operations.records import attempt_and_cancel, error_from_json, request_cancel
from ostler_control.states import ACTIVE_IMPORT_PLANS, OVER_OPERATIONS

VERB = "import-plan.execute"
TICK_S = 0.5
# VMs that were kept waiting are tried again when an import has ended, and after this time.
TRY_AGAIN_S = 15.0
# How long a source that does not answer is waited for before the plan pauses.
PATIENCE_S = 300.0
_SAVE_S = 2.0
_WAITING, _RUNNING = ImportPlanVmState.WAITING, ImportPlanVmState.RUNNING


@workflow(VERB)
def _execute(run: Run) -> None:
    with run.undoing() as undo:
        undo.push("pause", lambda: _pause_after_error(run, undo))
        run.always("check", lambda: _check(run))
        end = run.always("vms", lambda: Execution(run).carry_out())
        undo.clear()
    if end["state"] == "cancelled":
        raise CancelledError(end["outcome"], "IMPORT_PLAN_CANCELLED")
    if end["state"] in ("partial", "failed"):
        raise FailedPreconditionError(end["outcome"], f"IMPORT_PLAN_{end['state'].upper()}", {"plan": run.resource_id})


def _pause_after_error(run: Run, undo: Undo) -> None:
    """What could not go on waits for `resume`; imports under way go on by themselves."""
    error = undo.error
    why = f"{error.message} [{error.reason}]" if error else ""
    if store.set_state(run.resource_id, _ACTIVE, ImportPlanState.PAUSED, why):
        _told(run, events.Outcome.FAILED, "import-plan.pause", why)


_ACTIVE = (ImportPlanState.RUNNING, ImportPlanState.PAUSING)


def _check(run: Run) -> None:
    run.phase("checking the VMs", 0)
    with session():
        plan = ImportPlan.get_by_id(run.resource_id)
    if attempt_and_cancel(run.id)[1]:
        return
    check.check_all(plan, run.keys, run.agents, lambda: run.pause(0))
    check.refuse(plan)


def _told(run: Run, outcome: events.Outcome, type: str, message: str) -> None:
    with transaction():
        plan = ImportPlan.get_by_id(run.resource_id)
        store.record(plan, type, outcome, run.user, message)


class Execution:
    """One attempt at a plan."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._speeds: dict[str, Speed] = {}
        self._saved_s = 0.0
        # The imports under way when VMs were last kept waiting, and when that was.
        self._tried: tuple[frozenset[str], float] | None = None
        self._away_since_s: float | None = None

    def carry_out(self) -> Json:
        """Inside a step: until every VM has ended, or the plan is paused. Idempotent."""
        while True:
            with session():
                plan = ImportPlan.get_by_id(self._run.resource_id)
            if plan.operation_id != self._run.id or not plan.state.is_active:
                return {"state": str(plan.state), "outcome": plan.outcome}
            account(plan)
            rows = store.vms_of(plan.id)
            self._show(rows)
            self._save_speeds(rows)
            if attempt_and_cancel(self._run.id)[1]:
                cancel_rest(plan)
            elif plan.state is ImportPlanState.RUNNING and self._advance(plan, rows):
                continue
            if end := conclude(plan, self._run):
                return end
            self._run.pause(TICK_S)

    def _show(self, rows: Sequence[ImportPlanVm]) -> None:
        over = sum(row.state.is_over for row in rows)
        done = sum(row.state is ImportPlanVmState.IMPORTED for row in rows)
        self._run.phase(f"{done} of {len(rows)} VMs imported", 100 * over // max(len(rows), 1))

    def _advance(self, plan: ImportPlan, rows: Sequence[ImportPlanVm]) -> bool:
        """Begins or skips VMs; whether any row has changed."""
        entries = store.entries(rows)
        by_position = {row.position: row for row in rows}
        skipped = [
            store.change_vm(
                by_position[position],
                (_WAITING,),
                state=ImportPlanVmState.SKIPPED,
                reason_code="NEEDED_VM_NOT_IMPORTED",
                reason=why,
            )
            for position, why in order.to_skip(entries)
        ]
        if any(skipped):
            return True
        running = frozenset(row.id for row in rows if row.state is _RUNNING)
        if self._tried is not None:
            tried_with, when = self._tried
            if tried_with == running and time.monotonic() - when < TRY_AGAIN_S:
                return False
        choice = order.choose(entries, store.limits_of(plan), beginning.busy(plan.source_id))
        for position, why in choice.waiting.items():
            _explain(by_position[position], why)
        for position in choice.begin:
            self._run.pause(0)
            answer = beginning.begin(self._run, plan, by_position[position], bool(running))
            if answer.verdict is Verdict.SOURCE_AWAY:
                return self._source_away(plan, by_position[position], answer.why)
            self._away_since_s = None
            if answer.verdict is not Verdict.WAITS:
                self._tried = None
                return True
            _explain(by_position[position], answer.why)
        self._tried = (running, time.monotonic())
        return False

    def _source_away(self, plan: ImportPlan, row: ImportPlanVm, why: str) -> bool:
        self._tried = None
        self._away_since_s = self._away_since_s or time.monotonic()
        _explain(row, why)
        if time.monotonic() - self._away_since_s < PATIENCE_S:
            self._run.pause(min(TRY_AGAIN_S, PATIENCE_S / 10))
            return False
        why = f"the source does not answer: {why}"
        if store.set_state(plan.id, (ImportPlanState.RUNNING,), ImportPlanState.PAUSING, why):
            _told(self._run, events.Outcome.NOTICED, "import-plan.pause", why)
        return True

    def _save_speeds(self, rows: Sequence[ImportPlanVm]) -> None:
        running = {row.operation_id: row for row in rows if row.state is _RUNNING}
        if not running:
            return
        with session():
            operations = list(Operation.select().where(Operation.id.in_(list(running))))
        clock_s, save = time.monotonic(), time.monotonic() - self._saved_s >= _SAVE_S
        for operation in operations:
            row = running[operation.id]
            sample = Sample(clock_s, operation.phase, operation.bytes_done, operation.bytes_total)
            speed = self._speeds.setdefault(operation.id, Speed())
            speed.add(sample)
            if save:
                elapsed_s = int((now() - row.begin_time).total_seconds()) if row.begin_time else 0
                left = left_s(sample, speed.bytes_per_s, row.size_bytes, row.estimated_s, elapsed_s)
                store.change_vm(row, (_RUNNING,), bytes_per_s=speed.bytes_per_s, left_s=left)
        if save:
            self._saved_s = clock_s


def _explain(row: ImportPlanVm, why: str) -> None:
    if why and row.reason != why:
        store.change_vm(row, (_WAITING,), reason=why)


@periodic
def tidy_up(_: Keyring) -> None:
    """Accounts for imports whose plan no operation carries out, and pauses plans whose operation ended early."""
    with session():
        running = ImportPlanVm.select(ImportPlanVm.plan).where(ImportPlanVm.state == _RUNNING)
        over = Operation.select(Operation.id).where(Operation.state.in_(OVER_OPERATIONS))
        left = ImportPlan.operation_id.in_(over) & ImportPlan.state.in_(ACTIVE_IMPORT_PLANS)
        ended = ImportPlan.id.in_(running) & ImportPlan.state.not_in(ACTIVE_IMPORT_PLANS)
        plans = list(ImportPlan.select().where(left | ended))
    for plan in plans:
        if plan.state.is_active:
            why = "its operation ended early; the log has the details"
            store.set_state(plan.id, _ACTIVE, ImportPlanState.PAUSED, why)
        account(plan)


_ENDS: Mapping[OperationState, ImportPlanVmState] = {
    OperationState.SUCCEEDED: ImportPlanVmState.IMPORTED,
    OperationState.FAILED: ImportPlanVmState.FAILED,
    OperationState.CANCELLED: ImportPlanVmState.CANCELLED,
}


def account(plan: ImportPlan) -> None:
    """Writes down how imports have ended that were under way."""
    for row in store.vms_of(plan.id):
        if row.state is not _RUNNING:
            continue
        with session():
            operation: Operation | None = Operation.get_or_none(Operation.id == row.operation_id)
        if operation is not None and not operation.state.is_over:
            continue
        values: dict[str, object] = {"end_time": now(), "bytes_per_s": 0, "left_s": 0}
        if operation is None:
            values |= {
                "state": ImportPlanVmState.FAILED,
                "reason_code": "OPERATION_GONE",
                "reason": "the record of its import was deleted; see whether the VM is there before you retry",
            }
        else:
            values |= {"state": _ENDS[operation.state], "end_time": operation.end_time or now()}
            if operation.error:
                error = error_from_json(operation.error)
                values |= {"reason_code": error.reason, "reason": error.message}
            if operation.state is not OperationState.SUCCEEDED:
                values["vm_id"] = ""
        store.change_vm(row, (_RUNNING,), **values)


def cancel_rest(plan: ImportPlan) -> None:
    """No further VM begins, and the imports under way are cancelled."""
    for row in store.vms_of(plan.id):
        if row.state is _RUNNING:
            request_cancel(row.operation_id)
        elif row.state is _WAITING:
            store.change_vm(
                row,
                (_WAITING,),
                state=ImportPlanVmState.CANCELLED,
                reason_code="IMPORT_PLAN_CANCELLED",
                reason="the plan was cancelled before it began",
            )


def conclude(plan: ImportPlan, run: Run) -> Json:
    """Ends or pauses a plan for which there is nothing to do; what it came to, or None when there is something."""
    with transaction():
        current = store.lock(plan.id)
        if current.operation_id != run.id or not current.state.is_active:
            return {"state": str(current.state), "outcome": current.outcome}
        rows = store.vms_of(plan.id)
        if any(row.state is _RUNNING for row in rows):
            return None
        waiting = any(row.state is _WAITING for row in rows)
        if waiting and current.state is ImportPlanState.RUNNING:
            return None
        cancelled = attempt_and_cancel(run.id)[1]
        state, outcome = verdict(rows, cancelled)
        if waiting:
            state, outcome = ImportPlanState.PAUSED, current.outcome or outcome
        store.set_state(plan.id, _ACTIVE, state, outcome)
        return {"state": str(state), "outcome": outcome}


_WORDS = (
    (ImportPlanVmState.FAILED, "failed"),
    (ImportPlanVmState.REFUSED, "refused by the check"),
    (ImportPlanVmState.SKIPPED, "skipped"),
    (ImportPlanVmState.CANCELLED, "cancelled"),
    (ImportPlanVmState.WAITING, "waiting"),
)


def verdict(rows: Sequence[ImportPlanVm], cancelled: bool) -> tuple[ImportPlanState, str]:
    """State and outcome of a plan by its VMs. Pure."""
    counts = Counter(row.state for row in rows)
    done = counts[ImportPlanVmState.IMPORTED]
    told = [f"{done} of {len(rows)} VMs imported", *(f"{counts[s]} {word}" for s, word in _WORDS if counts[s])]
    missed = (ImportPlanVmState.FAILED, ImportPlanVmState.REFUSED)
    first = next((row for row in rows if row.state in missed), None)
    if first is not None:
        told.append(f"first {first.source_vm}: {first.reason}")
    outcome = "; ".join(told)
    if done == len(rows):
        return ImportPlanState.COMPLETED, outcome
    if cancelled:
        return ImportPlanState.CANCELLED, outcome
    return (ImportPlanState.PARTIAL if done else ImportPlanState.FAILED), outcome
