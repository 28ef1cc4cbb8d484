"""The serial console as a byte stream."""

from __future__ import annotations

import threading

import libvirt
from ostler_common.errors import AbortedError, FailedPreconditionError

from ostler_agent.hypervisors.libvirt import domains
from ostler_agent.hypervisors.libvirt.errors import is_code, lost_connection, translated
from ostler_agent.hypervisors.libvirt.session import Session

CHUNK_BYTES = 64 * 1024


class LibvirtConsole:
    """A console through a libvirt stream; libvirt itself admits one holder at a time."""

    def __init__(self, session: Session, vm_id: str, force: bool) -> None:
        self._domain = domains.get_active(session, vm_id)
        self._vm_id = vm_id
        self._closed = threading.Event()
        flags = libvirt.VIR_DOMAIN_CONSOLE_FORCE if force else libvirt.VIR_DOMAIN_CONSOLE_SAFE
        with translated(f"opening the console of VM {vm_id}"):
            self._stream = session.connect().newStream()
            try:
                self._domain.openConsole(None, self._stream, flags)
            except libvirt.libvirtError as error:
                if is_code(error, libvirt.VIR_ERR_OPERATION_FAILED):
                    raise FailedPreconditionError(
                        f"the console of VM {vm_id} is in use (use force to take it over)",
                        "CONSOLE_BUSY",
                        {"vm": vm_id},
                    ) from error
                raise

    def read(self) -> bytes:
        """See `base.Console`."""
        if self._closed.is_set():
            return b""
        try:
            data: bytes = self._stream.recv(CHUNK_BYTES)
        except libvirt.libvirtError as error:
            return self._ended(error)
        return data if data else self._ended(None)

    def write(self, data: bytes) -> None:
        """See `base.Console`."""
        while data:
            try:
                sent = self._stream.send(data)
            except libvirt.libvirtError:
                return  # closed; read() tells why
            data = data[sent:]

    def close(self) -> None:
        """See `base.Console`."""
        if self._closed.is_set():
            return
        self._closed.set()
        try:
            self._stream.abort()
        except libvirt.libvirtError:
            pass  # already closed

    def _ended(self, error: libvirt.libvirtError | None) -> bytes:
        """Ends of a console: we closed it, the VM went, or another took it while the VM runs on."""
        if self._closed.is_set():
            return b""
        self.close()
        if error is not None and lost_connection(error):
            with translated(f"reading the console of VM {self._vm_id}"):
                raise error
        try:
            still_runs = bool(self._domain.isActive())
        except libvirt.libvirtError:
            still_runs = False
        if still_runs:
            raise AbortedError(f"another caller took over the console of VM {self._vm_id}", "CONSOLE_TAKEN")
        return b""
