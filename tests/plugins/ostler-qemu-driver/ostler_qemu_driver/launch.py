"""Starting QEMU."""

from __future__ import annotations

import contextlib
import os
from contextlib import ExitStack
from pathlib import Path

from ostler_agent.process import RunError, run

from ostler_qemu_driver import sockets
from ostler_qemu_driver.command import CONSOLE, MONITOR, command
from ostler_qemu_driver.definition import Definition
from ostler_qemu_driver.errors import to_ostler_error
from ostler_qemu_driver.tap import open_tap

START_TIMEOUT_S = 60.0


def launch(qemu: str, accel: str, definition: Definition, directory: Path) -> None:
    """Starts QEMU and returns once the VM runs. Raises the errors of `to_ostler_error`."""
    with ExitStack() as stack:
        descriptors = {}
        for name in (MONITOR, CONSOLE):
            server = stack.enter_context(contextlib.closing(sockets.listen(directory, name)))
            descriptors[name] = server.fileno()
        taps = []
        for nic in definition.nics:
            taps.append(open_tap(nic.bridge))
            stack.callback(os.close, taps[-1])
        argv = command(qemu, accel, definition, directory, descriptors, taps)
        try:
            run(argv, pass_fds=[*descriptors.values(), *taps], timeout_s=START_TIMEOUT_S)
        except RunError as error:
            raise to_ostler_error(f"starting VM {definition.vm_id}", error.stderr.strip() or str(error)) from error
