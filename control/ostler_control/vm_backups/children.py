"""Operations that another one begins, one after the other, and waits for.

Each has an id that follows from its parent's and its name, so that a parent that begins again finds it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable

from ostler_control.database import session, transaction
from ostler_control.models import Operation
from ostler_control.operations import Run, launch
from ostler_control.operations.records import error_from_json, request_cancel
from ostler_control.states import OperationState

POLL_S = 0.5


def operation_id_of(run: Run, name: str) -> str:
    """The id of the operation of this name that a run begins."""
    return str(uuid.uuid5(uuid.UUID(run.id), name))


def carry_out(run: Run, name: str, record: Callable[[str], Operation]) -> Operation:
    """Inside a step: begins the operation, unless an earlier attempt did, and waits for its end. record: gets its id.

    When the run is cancelled, so is the operation, and its end is waited for. Raises the operation's error.
    """
    operation_id = operation_id_of(run, name)
    with transaction():
        begun = Operation.get_or_none(Operation.id == operation_id) or record(operation_id)
    launch(begun)
    return wait(run, operation_id)


def wait(run: Run, operation_id: str) -> Operation:
    """Inside a step: waits for an operation's end. Raises its error."""
    while True:
        with session():
            operation: Operation = Operation.get_by_id(operation_id)
        if operation.state.is_over:
            break
        if run.cancel_requested():
            request_cancel(operation_id)
        run.pause(POLL_S)
    if operation.state is not OperationState.SUCCEEDED:
        raise error_from_json(operation.error)
    return operation
