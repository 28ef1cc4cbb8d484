"""Waiting for an operation's end: woken at once when it ends in this process, else by polling."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ostler_common.errors import NotFoundError

from ostler_control.database import session
from ostler_control.models import Operation

_POLL_INTERVAL_S = 0.25

_end = threading.Condition()


def ended(operation_id: str) -> None:
    """Wakes all waiters."""
    with _end:
        _end.notify_all()


def get(operation_id: str) -> Operation:
    """The operation; NotFoundError when there is none."""
    with session():
        operation = Operation.get_or_none(Operation.id == operation_id)
    if operation is None:
        raise NotFoundError(f"there is no operation {operation_id}", "OPERATION_NOT_FOUND")
    return operation


def wait(operation_id: str, timeout_s: float | None, wanted: Callable[[], bool] = lambda: True) -> Operation:
    """The operation once it is over, or as it is after `timeout_s` (None: no limit), or once `wanted` is false."""
    end = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        with _end:
            # Read under the lock, so that an end between the read and the wait is not missed.
            operation = get(operation_id)
            left = _POLL_INTERVAL_S if end is None else end - time.monotonic()
            if operation.state.is_over or left <= 0 or not wanted():
                return operation
            _end.wait(min(left, _POLL_INTERVAL_S))
