"""The optional parts of a driver with which people see and reach a guest, beside the console and screenshots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from ostler_agent.hypervisors.base import Console


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


@runtime_checkable
class Screen(Protocol):
    """Optional part of a driver: `Function.SCREEN`."""

    def open_screen(self, vm_id: str, force: bool) -> Console:
        """Connects to a running VM's screen, which has one holder at a time, as its console does.

        The bytes are RFB (RFC 6143) without a password. No port of the host is open for it, and only root can reach the
        socket. force: takes it over from its holder. Raises FailedPreconditionError CONSOLE_BUSY, VM_NOT_RUNNING,
        SCREEN_MISSING (the VM has no screen, or one that VNC does not reach).
        """
