"""Waiting for an operation's end: woken at once when it ends in this process, else by polling."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator

from ostler_common.errors import NotFoundError

from ostler_control.database import session
from ostler_control.models import Operation

# Polling is for what ends in another process: soon at first, and then less often, for there may be many waiters.
_MIN_POLL_S, _MAX_POLL_S = 0.25, 1.0

_lock = threading.Lock()
_waiters: defaultdict[str, set[threading.Event]] = defaultdict(set)


def ended(operation_id: str) -> None:
    """Wakes those that wait for this operation."""
    with _lock:
        waiters = list(_waiters.get(operation_id, ()))
    for waiter in waiters:
        waiter.set()


def get(operation_id: str) -> Operation:
    """The operation; NotFoundError when there is none."""
    with session():
        operation = Operation.get_or_none(Operation.id == operation_id)
    if operation is None:
        raise NotFoundError(f"there is no operation {operation_id}", "OPERATION_NOT_FOUND")
    return operation


def wait(
    operation_id: str,
    timeout_s: float | None,
    wanted: Callable[[], bool] = lambda: True,
    find: Callable[[], Operation] | None = None,
) -> Operation:
    """The operation once it is over, or as it is after `timeout_s` (None: no limit), or once `wanted` is false.

    find: how it is read the first time, in place of `get`; raises where the caller may not see it.
    """
    end = None if timeout_s is None else time.monotonic() + timeout_s
    poll_s = _MIN_POLL_S
    with _woken(operation_id) as woken:
        while True:
            # Registered before it is read, so that an end between the read and the wait is not missed.
            operation = find() if find is not None else get(operation_id)
            find = None
            left = poll_s if end is None else end - time.monotonic()
            if operation.state.is_over or left <= 0 or not wanted():
                return operation
            woken.wait(min(left, poll_s))
            woken.clear()
            poll_s = min(poll_s * 1.2, _MAX_POLL_S)


@contextlib.contextmanager
def _woken(operation_id: str) -> Iterator[threading.Event]:
    """Set when the operation ends in this process."""
    woken = threading.Event()
    with _lock:
        _waiters[operation_id].add(woken)
    try:
        yield woken
    finally:
        with _lock:
            _waiters[operation_id].discard(woken)
            if not _waiters[operation_id]:
                del _waiters[operation_id]
