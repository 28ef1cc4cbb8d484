"""Sends what a VM's guest printed on its serial console."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from ostler_common.errors import bad_field
from ostler_common.hypervisors import Function

from ostler_agent.hypervisors.base import Hypervisor, need
from ostler_agent.hypervisors.interaction import ConsoleLog, LogReader
from ostler_agent.spec import PowerState

PIECE_BYTES = 64 * 1024
POLL_S = 0.5


def read(driver: Hypervisor, vm_id: str, lines: int, ended: threading.Event | None = None) -> Iterator[bytes]:
    """The last lines of the log (0: all of it), in pieces; then what the guest prints until `ended` is set or the VM
    leaves the host. ended None: does not follow.

    Raises InvalidArgumentError INVALID_VALUE; NotFoundError VM_NOT_FOUND; FailedPreconditionError
    FUNCTION_NOT_SUPPORTED.
    """
    if lines < 0:
        raise bad_field("lines", "must not be negative", "INVALID_VALUE")
    need(driver, Function.CONSOLE_LOG)
    assert isinstance(driver, ConsoleLog)
    log = driver.console_log(vm_id)
    yield from _pieces(last_lines(log.read(), lines))
    if ended is not None:
        yield from _follow(driver, vm_id, log, ended)


def last_lines(text: bytes, count: int) -> bytes:
    """The last lines of a text, each with its end; 0: the whole text."""
    return b"".join(text.splitlines(keepends=True)[-count:])


def _follow(driver: Hypervisor, vm_id: str, log: LogReader, ended: threading.Event) -> Iterator[bytes]:
    while not ended.is_set():
        if printed := log.read():
            yield from _pieces(printed)
        elif driver.vm(vm_id).power_state is PowerState.ABSENT:
            return
        else:
            ended.wait(POLL_S)


def _pieces(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), PIECE_BYTES):
        yield data[start : start + PIECE_BYTES]
