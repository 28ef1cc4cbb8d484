"""The `operation` rows: what the API shows of durable work, and what holds an object meanwhile.

Every function is one short transaction; none knows of the journal.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from google.protobuf import json_format
from google.rpc import status_pb2
from ostler_common.errors import AbortedError, CancelledError, NotFoundError, OstlerError, from_status, to_status
from peewee import ColumnBase, Update, fn

from ostler_control import events
from ostler_control.database import is_sqlite, locked, one_statement, session, transaction
from ostler_control.models import (
    Backup,
    BaseModel,
    Kek,
    Operation,
    OperationState,
    Snapshot,
    Vm,
    VmSnapshot,
    VmState,
    Volume,
    VolumeFile,
    db,
    new_id,
    now,
    tuples,
)
from ostler_control.models.joined import columns_of, objects
from ostler_control.operations.inputs import from_json, to_json
from ostler_control.operations.metrics import count_operation
from ostler_control.prepared import Prepared, Value
from ostler_control.states import OVER_OPERATIONS, UNFINISHED_OPERATIONS

# Objects that one operation at a time may hold, by their `operation_id` column.
Held = Vm | Volume | Snapshot | VmSnapshot | Backup | Kek
HELD: tuple[type[Held], ...] = (Vm, Volume, Snapshot, VmSnapshot, Backup, Kek)

# SQLite and PostgreSQL limit how many values one statement may carry.
_CHUNK = 5000

ENDED = OVER_OPERATIONS
UNFINISHED = UNFINISHED_OPERATIONS

# Any: whatever JSON can hold.
Json = Any
R = TypeVar("R", Vm, Volume, Snapshot, VmSnapshot, Backup, Kek)
T = TypeVar("T")


class _Reserved(threading.local):
    """The id for this thread's next operation; "" for a new one."""

    id = ""


_reserved = _Reserved()


@contextlib.contextmanager
def reserving(operation_id: str) -> Iterator[None]:
    """Inside, the first operation that this thread records has this id, so that others may refer to it before."""
    _reserved.id = operation_id
    try:
        yield
    finally:
        _reserved.id = ""


def next_id() -> str:
    """The id for an operation that is going to be recorded."""
    operation_id, _reserved.id = _reserved.id or new_id(), ""
    return operation_id


def record_operation(
    verb: str,
    resource: BaseModel,
    user: str,
    inputs: object,
    also: Iterable[BaseModel] = (),
    operation_id: str = "",
) -> Operation:
    """Records an operation and claims its object (and `also`) for it: within the caller's transaction.

    Call `launch` after the transaction has committed; if the process dies in between, a sweep launches it.
    inputs: the workflow's dataclass, ids and sizes only; operation_id: "" for `next_id`.

    An object that was inserted with the operation's id is held already.

    Raises AbortedError RESOURCE_BUSY when another operation holds one of the objects.
    """
    operation = Operation.create(
        id=operation_id or next_id(),
        verb=verb,
        resource_type=verb.split(".", 1)[0],
        resource_id=resource.id,
        resource_name=getattr(resource, "name", ""),
        account_id=str(getattr(resource, "account_id", "") or ""),
        user=user,
        inputs=to_json(inputs),
    )
    for row in (resource, *also):
        if isinstance(row, Held) and row.operation_id != operation.id:
            _claim(row, operation.id)
    _event(operation, events.Outcome.STARTED, "")
    return operation


def read_inputs(inputs: type[T], operation: Operation) -> T:
    """What a recorded operation was given."""
    return from_json(inputs, operation.inputs)


def _claim(row: Held, operation_id: str) -> None:
    model = type(row)
    free = (model.id == row.id) & (model.operation_id == "")
    if model.update(operation_id=operation_id).where(free).execute() == 1:
        row.operation_id = operation_id
        return
    current = model.get_or_none(model.id == row.id)
    if current is None:
        raise NotFoundError(f"{_noun(model)} {row.id} is gone", "NOT_FOUND")
    raise busy(current)


def lock_row(row: R) -> R:
    """Locks the row until the caller's transaction ends, and reads it again. Lock a VM before its volumes.

    Raises NotFoundError when it is gone, AbortedError RESOURCE_BUSY when an operation holds it.
    """
    model = type(row)
    query = model.select().where(model.id == row.id)
    fresh = locked(query).get_or_none()
    if fresh is None:
        raise NotFoundError(f"{_noun(model)} {row.name} is gone", f"{_noun(model).replace(' ', '_').upper()}_NOT_FOUND")
    if fresh.operation_id:
        raise busy(fresh)
    return fresh


def busy(row: Held) -> AbortedError:
    """The error for an object that another operation holds."""
    holder = Operation.get_or_none(Operation.id == row.operation_id)
    what = f"{holder.verb} " if holder else ""
    return AbortedError(
        f"{_noun(type(row))} {row.name} is busy with operation {what}{row.operation_id}; "
        "wait for it (ostler operation wait) or cancel it",
        "RESOURCE_BUSY",
        {"operation": row.operation_id, "resource": row.id},
    )


def _noun(model: type[Held]) -> str:
    return "vm snapshot" if model is VmSnapshot else model.__name__.lower()


def _enter(value: Value) -> Update:
    mine = (Operation.state == OperationState.RUNNING) & (Operation.replica == value("replica"))
    changes = {"attempt": Operation.attempt + 1, "replica": value("replica"), "state": OperationState.RUNNING}
    free = (Operation.id == value("operation")) & ((Operation.state == OperationState.PENDING) | mine)
    return Operation.update(**changes).where(free).returning(*columns_of(Operation))


_ENTER = Prepared(_enter)


def enter(operation_id: str, replica: str) -> Operation | None:
    """Counts one more attempt and marks the operation as run by this replica; None when it is over, or another
    replica's."""
    with one_statement():
        rows = _ENTER.rows(tuple[object, ...], operation=operation_id, replica=replica)
    return next((row for (row,) in objects(rows, Operation)), None)


def _finish(value: Value) -> Update:
    mine = (Operation.id == value("operation")) & (Operation.attempt == value("attempt"))
    percent = fn.COALESCE(value("percent"), Operation.percent)
    changes = {"state": value("state"), "end_time": value("end"), "error": value("error"), "percent": percent}
    return Operation.update(**changes).where(mine, Operation.state.in_(UNFINISHED)).returning(*columns_of(Operation))


_FINISH = Prepared(_finish)


def finish(
    operation_id: str, attempt: int, error: OstlerError | None, writes: Iterable[Callable[[], None]] = ()
) -> bool:
    """Records the outcome, releases the objects and writes the event, all at once; False when another attempt has taken
    over. writes: of further rows, in the same transaction."""
    state = _outcome(error)
    with transaction():
        rows = _FINISH.rows(
            tuple[object, ...],
            operation=operation_id,
            attempt=attempt,
            state=state.value,
            end=now(),
            error=error_json(error) if error else "",
            percent=None if error else 100,
        )
        if not rows:
            return False
        operation: Operation = objects(rows, Operation)[0][0]
        write_all(writes)
        release(operation_id)
        _event(operation, events.Outcome(state), str(error) if error else "")
    count_operation(operation.verb, state, (now() - operation.create_time).total_seconds())
    return True


def write_all(writes: Iterable[Callable[[], None]]) -> None:
    """Changes rows within the caller's transaction."""
    for write in writes:
        write()


def _outcome(error: OstlerError | None) -> OperationState:
    if error is None:
        return OperationState.SUCCEEDED
    return OperationState.CANCELLED if isinstance(error, CancelledError) else OperationState.FAILED


def release(operation_id: str, models: Iterable[type[Held]] = HELD) -> None:
    """Releases every object of these kinds that the operation holds, within the caller's transaction."""
    tables = tuple(model._meta.table_name for model in models)
    if not is_sqlite():
        db.execute_sql(_release_all(tables), (operation_id,) * len(tables))
        return
    for name in _holding(operation_id, tables):
        db.execute_sql(_RELEASE.format(name, "?"), (operation_id,))


# Of a table: the names are those of our own.
_RELEASE = "UPDATE {} SET operation_id = '' WHERE operation_id = {}"


@functools.cache
def _release_all(tables: tuple[str, ...]) -> str:
    """One statement, and one way to PostgreSQL and back: it plans each of several anew, for the rows that nobody holds
    make it expect as many of an operation."""
    parts = [f"of_{name} AS ({_RELEASE.format(name, '%s')})" for name in tables]
    return f"WITH {', '.join(parts)} SELECT 1"


def _holding(operation_id: str, tables: tuple[str, ...]) -> list[str]:
    """Those of SQLite's tables with objects that the operation holds, by one statement: mostly it is one or two."""
    query = " UNION ".join(f"SELECT '{name}' FROM {name} WHERE operation_id = ?" for name in tables)  # noqa: S608
    return [name for (name,) in db.execute_sql(query, (operation_id,) * len(tables)).fetchall()]


def attempt_and_cancel(operation_id: str) -> tuple[int, bool]:
    """The operation's latest attempt, and whether it is to be cancelled."""
    with session():
        found = attempt_and_cancel_or_none(operation_id)
    if found is None:
        raise NotFoundError(f"operation {operation_id} is gone", "NOT_FOUND")
    return found


_ATTEMPT = Prepared(
    lambda value: Operation.select(Operation.attempt, Operation.cancel_requested).where(
        Operation.id == value("operation")
    )
)


def attempt_and_cancel_or_none(operation_id: str) -> tuple[int, bool] | None:
    """The same, within the caller's session; None when the operation is gone."""
    found = _ATTEMPT.first(tuple[int, int], operation=operation_id)
    return None if found is None else (found[0], bool(found[1]))


def to_be_cancelled(operation_ids: Iterable[str]) -> list[str]:
    """Which of these operations a cancel was requested of."""
    with session():
        query = Operation.select(Operation.id).where(
            Operation.id.in_(sorted(operation_ids)), Operation.cancel_requested
        )
        return [operation_id for (operation_id,) in tuples(query, tuple[str])]


def forget(condition: ColumnBase, actor: str = "") -> list[str]:
    """Deletes the operations that are over and match, with their steps; returns their ids.

    Keeps those of a VM that is still migrating, and those that have left files behind: their inputs tell where.
    actor: who wants that, if it is a user.
    """
    astray = Vm.select(Vm.id).where(Vm.state == VmState.MIGRATING)
    with transaction():
        query = Operation.select(Operation.id).where(Operation.state.in_(ENDED), Operation.resource_id.not_in(astray))
        query = query.where(Operation.id.not_in(VolumeFile.select(VolumeFile.operation_id)))
        ids = [row.id for row in query.where(condition)]
        for operation_id in ids if actor else ():
            _told(Operation.get_by_id(operation_id), "operation.delete", actor)
        for begin in range(0, len(ids), _CHUNK):
            Operation.delete().where(Operation.id.in_(ids[begin : begin + _CHUNK])).execute()
    return ids


def request_cancel(operation_id: str, actor: str = "") -> None:
    """Asks for an operation's end; one that is over stays as it is. actor: who wants that, when nothing else tells."""
    with transaction():
        ends = (Operation.id == operation_id) & Operation.state.in_(UNFINISHED) & ~Operation.cancel_requested
        if Operation.update(cancel_requested=True).where(ends).execute() and actor:
            _told(Operation.get_by_id(operation_id), "operation.cancel", actor)


def report(operation_id: str, phase: str, bytes_done: int, bytes_total: int, percent: int) -> None:
    """Records the operation's progress."""
    with one_statement():
        Operation.update(phase=phase, bytes_done=bytes_done, bytes_total=bytes_total, percent=percent).where(
            (Operation.id == operation_id) & (Operation.state == OperationState.RUNNING)
        ).execute()


def error_json(error: OstlerError) -> str:
    """An error as it is kept: google.rpc.Status as JSON."""
    text: str = json_format.MessageToJson(to_status(error), indent=None)
    return text


def error_from_json(text: str) -> OstlerError:
    """The error that `error_json` kept."""
    return from_status(json_format.Parse(text, status_pb2.Status()))


def _told(operation: Operation, type: str, actor: str) -> None:
    """Records what a user did with an operation, among the events of its object."""
    events.record(
        type,
        events.Outcome.SUCCEEDED,
        actor,
        operation.resource_type,
        operation.resource_id,
        operation.resource_name,
        operation.verb,
        operation_id=operation.id,
        account_id=operation.account_id,
    )


def _event(operation: Operation, outcome: events.Outcome, message: str) -> None:
    events.record(
        operation.verb,
        outcome,
        operation.user,
        operation.resource_type,
        operation.resource_id,
        operation.resource_name,
        message,
        operation_id=operation.id,
        account_id=operation.account_id,
    )
