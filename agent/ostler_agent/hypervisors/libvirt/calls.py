"""Calls of libvirt that block for as long as a job lasts."""

from __future__ import annotations

import threading
from collections.abc import Callable

import libvirt


class Call:
    """Runs a blocking call in its own thread. error: what it raised."""

    def __init__(self, name: str, function: Callable[[], object]) -> None:
        self.error: libvirt.libvirtError | None = None
        self._function = function
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._function()
        except libvirt.libvirtError as error:
            self.error = error

    def wait(self, timeout_s: float) -> bool:
        """Waits up to timeout_s for the call to end; returns whether it has."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()
