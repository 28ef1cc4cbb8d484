"""Carrying out a plan: an operation whose moves are operations of their own.

The rows of the moves are the truth. A move begins in one transaction with its `vm.migrate` operation, whose id follows
from plan and move, and it ends by what that operation, or the VM's own row, says. So this process may die at any line:
the next one reads the rows and goes on, and no move is lost, made twice, or told done when it was not.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Sequence

from ostler_common.errors import AbortedError, CancelledError, FailedPreconditionError, OstlerError

from ostler_control import events, settings, vms
from ostler_control.database import session, transaction
from ostler_control.drs import windows
from ostler_control.drs_plans import store
from ostler_control.drs_plans.recheck import Recheck, Say
from ostler_control.drs_plans.snapshot import take
from ostler_control.models import Cluster, DrsMove, DrsPlan, Host, Operation, Vm, now
from ostler_control.operations import Json, Run, launch, workflow
from ostler_control.operations.records import ENDED, attempt_and_cancel, error_from_json
from ostler_control.states import MoveState

VERB = "drs.execute"
_LOOK_S = 0.5
# Looking at the whole cluster costs more than looking at the moves: not again so soon, unless a move has ended.
_LOOK_AGAIN_S = 3.0
# How long a plan of which nothing moves waits for what should pass by itself.
PATIENCE_S = 60.0


@workflow(VERB)
def _execute(run: Run) -> None:
    run.always("moves", lambda: Execution(run).carry_out())
    end = run.always("end", lambda: finish(run.resource_id, _cancelled(run)))
    if end["state"] == "cancelled":
        raise CancelledError(end["outcome"], "PLAN_CANCELLED")
    if end["state"] != "completed":
        raise FailedPreconditionError(end["outcome"], f"PLAN_{end['state'].upper()}", {"plan": run.resource_id})


def _cancelled(run: Run) -> bool:
    return attempt_and_cancel(run.id)[1]


class Execution:
    """One try at a plan."""

    def __init__(self, run: Run) -> None:
        self._work = run
        self._plan = DrsPlan()  # read when the execution begins
        self._looked: tuple[frozenset[str], float] = (frozenset(), 0.0)
        self._stuck_since: float | None = None

    def carry_out(self) -> None:
        """Inside a step: until every move has ended. Idempotent."""
        store.set_state(self._work.resource_id, ("ready",), "in_progress")
        with session():
            self._plan = DrsPlan.get_by_id(self._work.resource_id)
        while True:
            account(self._plan)
            moves = store.moves_of(self._plan.id)
            pending = [move for move in moves if move.state == MoveState.PENDING]
            running = [move for move in moves if move.state == MoveState.RUNNING]
            self._show(moves)
            if pending and (why := self._stop(moves)):
                drop(self._plan, why)
            elif not pending and not running:
                return
            elif not (pending and self._advance(moves, pending, running)):
                self._work.pause(_LOOK_S)

    def _show(self, moves: Sequence[DrsMove]) -> None:
        over = sum(move.state.is_over for move in moves)
        done = sum(move.state == MoveState.DONE for move in moves)
        self._work.phase(f"{done} of {len(moves)} moves made", 100 * over // max(len(moves), 1))

    def _stop(self, moves: Sequence[DrsMove]) -> str:
        """Why no further move begins, "" when they do."""
        if _cancelled(self._work):
            return "the plan was cancelled"
        failed = sum(move.state == MoveState.FAILED for move in moves)
        at = settings.At(cluster_id=self._plan.cluster_id)
        with session():
            most = settings.drs.PLAN_MAX_FAILURES.get(at)
            window = windows.parse(settings.drs.AUTOMATIC_WINDOW.get(at))
        if self._plan.type == "automated" and not window.is_open(now()):
            return "the time window of automatic plans has closed (drs.automatic.window)"
        return f"{failed} moves have failed (drs.plan.max.failures)" if failed >= most else ""

    def _advance(self, moves: Sequence[DrsMove], pending: Sequence[DrsMove], running: Sequence[DrsMove]) -> bool:
        """Begins or skips one move, if one can be; whether it did."""
        key = frozenset(move.id for move in running)
        if self._looked[0] == key and time.monotonic() - self._looked[1] < _LOOK_AGAIN_S:
            return False
        with session():
            cluster = Cluster.get_by_id(self._plan.cluster_id)
            limits = settings.drs.planner_settings(cluster)
            if len(running) >= limits.max_parallel_per_cluster:
                return False
            recheck = self._recheck(cluster, pending)
        waiting: list[tuple[DrsMove, Say, str]] = []
        busy = Counter(host for move in running for host in (move.source_id, move.destination_id))
        for move in pending:
            if why := _swap_partner_failed(move, moves):
                return skip(self._plan, move, why)
            if _unmet(move, moves):
                continue
            found = recheck.check(move)
            if found.say is Say.SKIP:
                return skip(self._plan, move, found.reason)
            if found.say is not Say.GO:
                waiting.append((move, found.say, found.reason))
                continue
            if max(busy[move.source_id], busy[move.destination_id]) >= limits.max_parallel_per_host:
                continue
            found_now = self._begin(move)
            if found_now is None:
                self._stuck_since = None
                return True
            if found_now[0] is Say.SKIP:
                return skip(self._plan, move, found_now[1])
            waiting.append((move, *found_now))
        self._looked = (key, time.monotonic())
        return not running and bool(waiting) and self._give_up(waiting)

    def _give_up(self, waiting: Sequence[tuple[DrsMove, Say, str]]) -> bool:
        """Nothing moves, so nothing will make room: the first that waits for that is skipped. What should pass by
        itself is waited for, for a while."""
        self._stuck_since = self._stuck_since or time.monotonic()
        late = time.monotonic() - self._stuck_since >= PATIENCE_S
        for move, say, reason in waiting:
            if say is Say.ROOM or late:
                return skip(self._plan, move, reason)
        return False

    def _recheck(self, cluster: Cluster, pending: Sequence[DrsMove]) -> Recheck:
        query = Vm.select().where(Vm.id.in_([move.vm_id for move in pending]))
        rows = {row.id: row for row in query}
        leaving = [self._plan.host_id] if self._plan.mode == "evacuate" else []
        return Recheck(take(cluster), rows, leaving, self._plan.mode in ("balance", "repair"))

    def _begin(self, move: DrsMove) -> tuple[Say, str] | None:
        """Begins a move; None when it has begun, else what to do with it and why."""
        operation_id = operation_id_of(self._plan.id, move.id)
        try:
            with transaction():
                attempt, cancel = attempt_and_cancel(self._work.id)
                mine = attempt == self._work.attempt and not cancel
                if not mine or not _change(move, (MoveState.PENDING,), MoveState.RUNNING, operation_id=operation_id):
                    return Say.SOON, "somebody else works on the plan"
                vm = Vm.get_by_id(move.vm_id)
                host = Host.get_by_id(move.destination_id)
                if vm.host_id != move.source_id:
                    raise FailedPreconditionError(f"the VM is no longer on {move.source_name}", "MOVED_MEANWHILE")
                motion = bool(move.storage_motion)
                operation = vms.migrate(vm, self._plan.user, host, motion, operation_id=operation_id)
                _event(self._plan, move, events.Outcome.STARTED, "", operation_id)
        except AbortedError as error:
            return Say.SOON, error.message
        except OstlerError as error:
            return Say.SKIP, error.message
        launch(operation)
        return None


def operation_id_of(plan_id: str, move_id: str) -> str:
    """The id of the operation that makes a move: the same whoever asks, and however often."""
    return str(uuid.uuid5(uuid.UUID(plan_id), move_id))


def _unmet(move: DrsMove, moves: Sequence[DrsMove]) -> bool:
    """Whether moves must end before this one begins."""
    return any(not moves[position].state.is_over for position in _needs(move) if position < len(moves))


def _needs(move: DrsMove) -> list[int]:
    return [int(position) for position in json.loads(move.needs)]


def _swap_partner_failed(move: DrsMove, moves: Sequence[DrsMove]) -> str:
    """Why a move gains nothing any more: its counterpart was not made."""
    for other in moves:
        tied = move.swap >= 0 and other.swap == move.swap and other.id != move.id
        if tied and other.state in (MoveState.SKIPPED, MoveState.FAILED, MoveState.CANCELLED):
            return f"it only helps together with the move of {other.vm_name}, which was not made"
    return ""


def account(plan: DrsPlan) -> None:
    """Writes down how moves have ended that were under way."""
    for move in store.moves_of(plan.id):
        if move.state != MoveState.RUNNING:
            continue
        with session():
            operation = Operation.get_or_none(Operation.id == move.operation_id)
            vm = Vm.get_or_none(Vm.id == move.vm_id)
        if operation is not None and operation.state not in ENDED:
            continue
        there = vm is not None and vm.host_id == move.destination_id and vm.destination_id is None
        error = error_from_json(operation.error).message if operation is not None and operation.error else ""
        with transaction():
            if there:
                # Where the VM is counts; what was left to tidy up behind it is told.
                if _change(move, (MoveState.RUNNING,), MoveState.DONE, state_reason=error, end_time=now()):
                    _event(plan, move, events.Outcome.SUCCEEDED, error, move.operation_id)
            else:
                why = error or ("the VM is gone" if vm is None else "the VM is not at its destination")
                if _change(move, (MoveState.RUNNING,), MoveState.FAILED, state_reason=why, end_time=now()):
                    _event(plan, move, events.Outcome.FAILED, why, move.operation_id)


def skip(plan: DrsPlan, move: DrsMove, why: str) -> bool:
    """Writes down that a move is not made; true."""
    with transaction():
        if _change(move, (MoveState.PENDING,), MoveState.SKIPPED, state_reason=why, end_time=now()):
            _event(plan, move, events.Outcome.NOTICED, f"skipped: {why}", "")
    return True


def drop(plan: DrsPlan, why: str) -> None:
    """Writes down that no further move begins."""
    with transaction():
        DrsMove.update(state=MoveState.CANCELLED, state_reason=why, end_time=now()).where(
            (DrsMove.plan == plan.id) & (DrsMove.state == MoveState.PENDING)
        ).execute()


def finish(plan_id: str, cancelled: bool) -> Json:
    """Ends a plan whose moves have ended; what it came to. Idempotent."""
    with transaction():
        plan: DrsPlan = DrsPlan.get_by_id(plan_id)
        if plan.state in store.ACTIVE:
            state, outcome = verdict(plan, store.moves_of(plan_id), cancelled)
            store.set_state(plan_id, store.ACTIVE, state, outcome=outcome)
            plan = DrsPlan.get_by_id(plan_id)
        return {"state": plan.state, "outcome": plan.outcome}


def verdict(plan: DrsPlan, moves: Sequence[DrsMove], cancelled: bool) -> tuple[str, str]:
    """State and outcome of a plan by its moves. Pure."""
    counts = Counter(move.state for move in moves)
    stay = json.loads(plan.report).get("left_counts", {}) if plan.mode == "evacuate" else {}
    told = [f"{counts[MoveState.DONE]} of {len(moves)} moves made"]
    told += [f"{counts[state]} {word}" for state, word in _WORDS if counts[state]]
    if stay:
        count = sum(stay.values())
        told.append(f"{count} VM{'s' if count > 1 else ''} cannot leave")
    missed = (MoveState.FAILED, MoveState.SKIPPED, MoveState.CANCELLED)
    first = next((move for move in moves if move.state in missed), None)
    if first is not None:
        told.append(f"first {first.vm_name}: {first.state_reason}")
    outcome = "; ".join(told)
    if counts[MoveState.DONE] == len(moves) and not stay:
        return "completed", outcome
    if cancelled:
        return "cancelled", outcome
    return ("partial" if counts[MoveState.DONE] else "failed"), outcome


_WORDS = ((MoveState.FAILED, "failed"), (MoveState.SKIPPED, "skipped"), (MoveState.CANCELLED, "not started"))


def _change(move: DrsMove, before: Sequence[MoveState], state: MoveState, **values: object) -> bool:
    held = (DrsMove.id == move.id) & DrsMove.state.in_(list(before))
    return bool(DrsMove.update(state=state, **values).where(held).execute() == 1)


def _event(plan: DrsPlan, move: DrsMove, outcome: events.Outcome, message: str, operation_id: str) -> None:
    way = f"{move.source_name} -> {move.destination_name} ({plan.name})"
    text = f"{way}: {message}" if message else way
    events.record("drs.move", outcome, plan.user, "vm", move.vm_id, move.vm_name, text, operation_id=operation_id)
