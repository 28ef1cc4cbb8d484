"""The `operation` rows: what the API shows of durable work, and what holds an object while it is worked on.

Everything here is short and transactional; nothing here knows of the journal.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from google.protobuf import json_format
from google.rpc import status_pb2
from ostler_common.errors import AbortedError, CancelledError, NotFoundError, OstlerError, from_status, to_status

from ostler_control import events
from ostler_control.database import is_sqlite, session, transaction
from ostler_control.models import BaseModel, Kek, Operation, Snapshot, Vm, Volume, VolumeFile, new_id, now
from ostler_control.operations.inputs import from_json, to_json

# Objects that one operation at a time may hold, by their `operation_id` column.
HELD: dict[str, type[BaseModel]] = {"vm": Vm, "volume": Volume, "snapshot": Snapshot, "key": Kek}

ENDED = ("succeeded", "failed", "cancelled")
UNENDED = ("pending", "running")

Json = Any
T = TypeVar("T")


def record_operation(
    verb: str,
    resource: BaseModel,
    user: str,
    inputs: object,
    also: Iterable[BaseModel] = (),
    operation_id: str = "",
) -> Operation:
    """Records an operation and claims its object (and `also`) for it: within the caller's transaction.

    Call `Engine.launch` after the transaction has committed; should the process die in between, the sweeper does it.
    inputs: the workflow's dataclass, ids and sizes only; operation_id: "" for a new one.

    Raises AbortedError RESOURCE_BUSY when another operation holds one of the objects.
    """
    operation = Operation.create(
        id=operation_id or new_id(),
        verb=verb,
        resource_type=verb.split(".", 1)[0],
        resource_id=resource.id,
        resource_name=getattr(resource, "name", ""),
        account_id=str(getattr(resource, "account_id", "") or ""),
        user=user,
        inputs=to_json(inputs),
    )
    for row in (resource, *also):
        _claim(row, operation.id)
    _event(operation, events.Outcome.STARTED, "")
    return operation


def read_inputs(inputs: type[T], operation: Operation) -> T:
    """What a recorded operation was given."""
    return from_json(inputs, operation.inputs)


def _claim(row: Any, operation_id: str) -> None:
    model: Any = type(row)
    if model not in HELD.values():
        return
    free = (model.id == row.id) & (model.operation_id == "")
    if model.update(operation_id=operation_id).where(free).execute() == 1:
        row.operation_id = operation_id
        return
    current = model.get_or_none(model.id == row.id)
    if current is None:
        raise NotFoundError(f"{model.__name__.lower()} {row.id} is gone", "NOT_FOUND")
    raise busy(current)


def lock_row(row: Any) -> Any:
    """The row as it is now, and as it stays until the caller's transaction ends. VMs are taken before their volumes.

    Raises NotFoundError when it is gone, AbortedError RESOURCE_BUSY when an operation holds it.
    """
    model: Any = type(row)
    query = model.select().where(model.id == row.id)
    fresh = (query if is_sqlite() else query.for_update()).get_or_none()
    if fresh is None:
        raise NotFoundError(f"{model.__name__.lower()} {row.name} is gone", f"{model.__name__.upper()}_NOT_FOUND")
    if fresh.operation_id:
        raise busy(fresh)
    return fresh


def busy(row: Any) -> AbortedError:
    """The error for an object that another operation holds."""
    holder = Operation.get_or_none(Operation.id == row.operation_id)
    what = f"{holder.verb} " if holder else ""
    return AbortedError(
        f"{type(row).__name__.lower()} {row.name} is busy with operation {what}{row.operation_id}; "
        "wait for it (ostler operation wait) or cancel it",
        "RESOURCE_BUSY",
        {"operation": row.operation_id, "resource": row.id},
    )


def enter(operation_id: str, replica: str) -> Operation | None:
    """Counts one more try and marks the operation as carried out by this replica; None when it is over."""
    with transaction():
        Operation.update(attempt=Operation.attempt + 1, replica=replica, state="running").where(
            (Operation.id == operation_id) & Operation.state.in_(UNENDED)
        ).execute()
        operation = Operation.get_or_none(Operation.id == operation_id)
        return None if operation is None or operation.state in ENDED else operation


def finish(operation_id: str, attempt: int, error: OstlerError | None) -> bool:
    """Records the end, lets the objects go and writes the event, all at once; False when another try has taken over."""
    state = "succeeded" if error is None else "cancelled" if isinstance(error, CancelledError) else "failed"
    with transaction():
        mine = (Operation.id == operation_id) & (Operation.attempt == attempt) & Operation.state.in_(UNENDED)
        values: dict[str, Any] = {"state": state, "end_time": now(), "error": error_json(error) if error else ""}
        if error is None:
            values["percent"] = 100
        if Operation.update(**values).where(mine).execute() != 1:
            return False
        release(operation_id)
        operation = Operation.get_by_id(operation_id)
        _event(operation, events.Outcome(state), str(error) if error else "")
    return True


def release(operation_id: str) -> None:
    """Lets go every object that the operation holds: within the caller's transaction."""
    for model in HELD.values():
        held: Any = model
        held.update(operation_id="").where(held.operation_id == operation_id).execute()


def attempt_and_cancel(operation_id: str) -> tuple[int, bool]:
    """The operation's latest attempt, and whether it is to be cancelled."""
    with session():
        row = Operation.select(Operation.attempt, Operation.cancel_requested).where(Operation.id == operation_id).get()
        return row.attempt, row.cancel_requested


def forget(condition: Any) -> list[str]:
    """Deletes the operations that are over and match; returns their ids.

    Those of a VM that is still on its way stay, and those that have left files behind: what they were to do says how
    to find them.
    """
    astray = Vm.select(Vm.id).where(Vm.state == "migrating")
    with transaction():
        query = Operation.select(Operation.id).where(Operation.state.in_(ENDED), Operation.resource_id.not_in(astray))
        query = query.where(Operation.id.not_in(VolumeFile.select(VolumeFile.operation_id)))
        ids = [row.id for row in query.where(condition)]
        Operation.delete().where(Operation.id.in_(ids)).execute()
    return ids


def request_cancel(operation_id: str) -> None:
    """Asks for an operation's end; one that is over stays as it is."""
    with transaction():
        Operation.update(cancel_requested=True).where(
            (Operation.id == operation_id) & Operation.state.in_(UNENDED)
        ).execute()


def report(operation_id: str, phase: str, bytes_done: int, bytes_total: int, percent: int) -> None:
    """Shows how far the operation has come."""
    with transaction():
        Operation.update(phase=phase, bytes_done=bytes_done, bytes_total=bytes_total, percent=percent).where(
            (Operation.id == operation_id) & (Operation.state == "running")
        ).execute()


def error_json(error: OstlerError) -> str:
    """An error as it is kept: google.rpc.Status as JSON."""
    text: str = json_format.MessageToJson(to_status(error), indent=None)
    return text


def error_from_json(text: str) -> OstlerError:
    """The error that `error_json` kept."""
    return from_status(json_format.Parse(text, status_pb2.Status()))


def _event(operation: Any, outcome: events.Outcome, message: str) -> None:
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
