"""The journal: the finished steps of operations, in the same database, from which a later attempt runs on.

A finished step is written when the next one begins, with the look whether this attempt is still the latest, and with
the rows that the step has changed (`Run.defer_write`): one transaction, which lasts before the next step does anything.
The last step is not written: the operation's end says it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from ostler_common.errors import InternalError, OstlerError

from ostler_control.database import is_sqlite, session, transaction
from ostler_control.models import Operation, OperationStep, db, tuples
from ostler_control.operations import old_journal
from ostler_control.operations.records import (
    Json,
    attempt_and_cancel,
    attempt_and_cancel_or_none,
    error_json,
    write_all,
)
from ostler_control.outage import outage
from ostler_control.prepared import Prepared

# Changes rows within the caller's transaction.
Write = Callable[[], None]

# What was read when the attempt began is good for so long.
_FRESH_S = 0.2


@dataclass(frozen=True)
class Step:
    """A finished step. outcome: JSON, see `models.OperationStep`."""

    number: int
    name: str
    outcome: str


class Journal:
    """One operation's steps, as one attempt at it runs them: one after the other. Not thread-safe."""

    def __init__(self, operation: Operation, recorded: Iterable[Step] = ()) -> None:
        """operation: as the attempt found it just now; recorded: what `read` gives."""
        self._id, self._attempt, self._cancel = operation.id, operation.attempt, operation.cancel_requested
        self._entered_s = time.monotonic()
        self._recorded = list(recorded)
        self._next = 0
        self._unwritten: Step | None = None
        # The rows of the last finished step, until they are written.
        self.writes: Sequence[Write] = ()
        # Whether a bug has kept some from being written.
        self.rows_lost = False
        # Whether a bug has kept a step from being written: the record ends with that step, as a failed one.
        self._ended = False

    def recorded(self, name: str) -> dict[str, Json] | None:
        """The outcome that an earlier attempt has recorded of the step that comes next; None when the step is to run.

        Raises InternalError when another step is recorded in its place. The recorded steps count no longer then, so
        that undo steps run.
        """
        if self._next >= len(self._recorded):
            return None
        step = self._recorded[self._next]
        if step.name != name:
            del self._recorded[self._next :]
            raise InternalError(
                f"operation {self._id} cannot go on: step {self._next} is {name} now, and was {step.name} when it was "
                "recorded; another release has begun the operation",
                "INTERNAL",
            )
        self._next += 1
        found: dict[str, Json] = json.loads(step.outcome)
        return found

    def finished(self, name: str, outcome: dict[str, Json], writes: Sequence[Write] = ()) -> None:
        """Keeps the outcome of the step that comes next, to be written by `look`, with its rows. TypeError when it is
        not JSON."""
        if self._ended:  # a later attempt runs these again: to it they come after another step
            return
        self._unwritten = Step(self._next, name, json.dumps(outcome, ensure_ascii=False))
        self.writes = writes
        self._next += 1

    def look(self) -> tuple[int, bool]:
        """The operation's latest attempt, and whether it is to be cancelled. When the latest is this one, everything
        that has finished is recorded."""
        if self._unwritten is not None:
            try:
                found = _record(self._id, self._attempt, self._unwritten, self.writes)
            except Exception as error:
                if outage(error) is None:
                    what = f"recording step {self._unwritten.name} of operation {self._id} failed by a bug"
                    self.fail_step(InternalError(f"{what} ({type(error).__name__})", "INTERNAL"))
                raise
            self._unwritten, self.writes = None, ()
            return found
        if time.monotonic() - self._entered_s < _FRESH_S:
            return self._attempt, self._cancel
        return attempt_and_cancel(self._id)

    def fail_step(self, error: OstlerError) -> None:
        """After a bug in recording the last step: it has failed, without its rows, so that the undo steps are not kept
        from running by the same bug, neither now nor in a later attempt."""
        self.rows_lost = self.rows_lost or bool(self.writes)
        self.writes, self._ended = (), True
        if self._unwritten is not None:
            outcome = json.dumps({"error": error_json(error)}, ensure_ascii=False)
            self._unwritten = replace(self._unwritten, outcome=outcome)


def read(operation_id: str) -> list[Step]:
    """The recorded steps of an operation."""
    with session():
        query = OperationStep.select(OperationStep.number, OperationStep.name, OperationStep.outcome)
        query = query.where(OperationStep.operation == operation_id).order_by(OperationStep.number)
        found = [Step(*row) for row in tuples(query, tuple[int, str, str])]
    return found or [Step(*row) for row in old_journal.move(operation_id)]


_INSERT = Prepared(
    lambda value: OperationStep.insert(
        {column: value(column.name) for column in OperationStep._meta.sorted_fields}
    ).on_conflict_ignore()
)

# `_record` without the way to the server and back for each part.
_RECORD = """
    WITH latest AS (SELECT attempt, cancel_requested FROM operation WHERE id = %s FOR UPDATE),
    written AS (
        INSERT INTO operation_step (operation_id, number, name, outcome)
        SELECT %s::text, %s::integer, %s::text, %s::text FROM latest WHERE attempt = %s ON CONFLICT DO NOTHING
    )
    SELECT attempt, cancel_requested FROM latest
"""


def _record(operation_id: str, attempt: int, step: Step, writes: Sequence[Write]) -> tuple[int, bool]:
    """Records the step and its rows if the attempt is the latest; returns the latest, and whether the operation is to
    be cancelled.

    The operation's row is locked, so that an attempt which begins meanwhile finds the step. A repeat after a commit
    whose answer was lost finds its own row.
    """
    if not is_sqlite():
        with transaction() if writes else session():
            values = (operation_id, operation_id, step.number, step.name, step.outcome, attempt)
            latest: tuple[int, bool] | None = db.execute_sql(_RECORD, values).fetchone()
            if latest is not None and latest[0] == attempt:
                write_all(writes)
            return latest or (0, False)
    with transaction():
        found = attempt_and_cancel_or_none(operation_id) or (0, False)
        if found[0] == attempt:
            _INSERT.run(operation=operation_id, number=step.number, name=step.name, outcome=step.outcome)
            write_all(writes)
        return found
