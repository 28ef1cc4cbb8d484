"""Waiting for vCenter's tasks, within a limit."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

from ostler_common.errors import DeadlineExceededError, OstlerError
from pyVmomi import vim

from ostler_control.vmware.connection import Connection
from ostler_control.vmware.errors import fault_error
from ostler_control.vmware.properties import read_one

Check = Callable[[], None]
"""Called now and then while something lasts; raises to end it."""

POLL_S = 1.0


def wait(connection: Connection, task: vim.Task, timeout_s: float, check: Check) -> Any:
    """Waits until a task has succeeded; returns its result. When `check` raises, the task is cancelled.

    Raises the error that the task's fault stands for; DeadlineExceededError VCENTER_TASK_TIMEOUT.
    """
    end = time.monotonic() + timeout_s
    try:
        while True:
            info = read_one(connection, vim.Task, str(task._moId), ("info",)).get("info")
            if str(info.state) == "error":
                raise fault_error(connection.server.name, info.error)
            if str(info.state) == "success":
                return info.result
            if time.monotonic() > end:
                raise DeadlineExceededError(
                    f"a task on {connection.server.name} has not ended after {timeout_s:.0f} s", "VCENTER_TASK_TIMEOUT"
                )
            check()
            time.sleep(POLL_S)
    except Exception:
        # One that has ended, or cannot be cancelled, says so; whoever asked cleans up what it made.
        with contextlib.suppress(OstlerError):
            connection.call(task.CancelTask)
        raise


def running(connection: Connection, refs: list[str]) -> list[str]:
    """Which of these tasks have not ended."""
    found = []
    for ref in refs:
        with contextlib.suppress(OstlerError):  # a task's record is dropped some minutes after its end
            info = read_one(connection, vim.Task, ref, ("info",)).get("info")
            if str(info.state) in ("queued", "running"):
                found.append(ref)
    return found
