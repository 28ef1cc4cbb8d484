"""The optional parts of a driver with which people see and reach a guest, beside the console and screenshots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable


class LogReader(Protocol):
    """Reads one VM's console log."""

    def read(self) -> bytes:
        """Returns everything that is kept; from the second call on, what was printed since. Does not wait."""


@runtime_checkable
class ConsoleLog(Protocol):
    """Optional part of a driver: `Function.CONSOLE_LOG`.

    Keeps the end of what guests print, also while the agent does not run and nobody has the console open. The log
    survives a stop of the VM and is deleted with it. It is bounded, and readable by root only. It may hold secrets:
    no disk of the host may have it in clear.
    """

    def console_log(self, vm_id: str) -> LogReader:
        """Opens the log of a VM, running or stopped."""


@runtime_checkable
class SendKey(Protocol):
    """Optional part of a driver: `Function.SEND_KEY`."""

    def send_key(self, vm_id: str, codes: Sequence[int]) -> None:
        """Presses keys of a running VM's keyboard together, and releases them. codes: see `key_names`.

        Raises FailedPreconditionError VM_NOT_RUNNING.
        """
