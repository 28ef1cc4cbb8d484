"""Keepers as the driver sees them: finds, starts, asks and ends them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from ostler_agent.process import run
from ostler_common.errors import DeadlineExceededError, FailedPreconditionError, InternalError

from ostler_nspawn_driver.definition import environment
from ostler_nspawn_driver.keeper import ANSWER, ENDED, KEEPER, POWER_OFF

START_TIMEOUT_S = 60.0
END_TIMEOUT_S = 15.0
KILL_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Machine:
    """The keeper of a running VM. is_started: False while it starts."""

    pid: int
    is_started: bool


def find(directory: Path) -> Machine | None:
    """A VM's keeper, whichever run of the agent started it."""
    try:
        file = os.open(directory / KEEPER, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        words = os.pread(file, 100, 0).split()
        return Machine(int(words[0]), b"running" in words) if words else None
    else:
        return None
    finally:
        os.close(file)


def start(directory: Path) -> None:
    """Starts a VM's keeper and returns once the VM runs.

    Raises FailedPreconditionError DISK_IN_USE, VOLUME_MISSING, VM_RUNNING; InternalError HYPERVISOR_ERROR.
    """
    (directory / ANSWER).unlink(missing_ok=True)
    run(start_command(directory), env=environment(), timeout_s=START_TIMEOUT_S)
    answer = json.loads((directory / ANSWER).read_bytes())
    if not answer:
        return
    message, reason = f"starting VM {directory.name}: {answer['message']}", answer["reason"]
    if reason == "HYPERVISOR_ERROR":
        raise InternalError(message, reason)
    raise FailedPreconditionError(message, reason)


def start_command(directory: Path, systemd: Path = Path("/run/systemd/system")) -> list[str]:
    """What starts a keeper: under systemd, as a unit of its own. What the agent's unit takes away, a container would
    lack, too; and a stop of that unit would end it."""
    keeper = [sys.executable, "-m", "ostler_nspawn_driver.keeper", str(directory)]
    if not systemd.is_dir():
        return keeper
    unit = ["systemd-run", "--quiet", "--collect", f"--description=Container {directory.name}"]
    unit += ["--service-type=forking", "--property=KillMode=mixed", "--property=KillSignal=SIGINT"]
    return [*unit, *(f"--setenv={name}={value}" for name, value in environment().items()), "--", *keeper]


def wait_until_started(directory: Path) -> bool:
    """Waits for a start that an earlier run of the agent began; returns whether the VM runs."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while (found := find(directory)) and not found.is_started and time.monotonic() < deadline:
        time.sleep(0.05)
    return found is not None


def ask(directory: Path) -> None:
    """Asks the container to power off."""
    if found := find(directory):
        with contextlib.suppress(ProcessLookupError):
            os.kill(found.pid, signal.SIGTERM)


def end(directory: Path) -> None:
    """Ends a VM. Raises DeadlineExceededError HYPERVISOR_TIMEOUT."""
    for number, timeout_s in ((signal.SIGINT, END_TIMEOUT_S), (signal.SIGKILL, KILL_TIMEOUT_S)):
        if _signal_and_wait(directory, number, timeout_s):
            return
    raise DeadlineExceededError(f"VM {directory.name} cannot be ended", "HYPERVISOR_TIMEOUT")


def how_it_ended(directory: Path) -> str:
    """What the keeper wrote at its end; "" if it was killed itself."""
    try:
        return (directory / ENDED).read_text()
    except FileNotFoundError:
        return ""


def is_orderly(how: str) -> bool:
    return how == POWER_OFF


def _signal_and_wait(directory: Path, number: signal.Signals, timeout_s: float) -> bool:
    found = find(directory)
    if found is None:
        return True
    try:
        pidfd = os.pidfd_open(found.pid)
    except ProcessLookupError:
        return True
    try:
        again = find(directory)
        if again and again.pid == found.pid:  # so the descriptor is of the process that holds the lock
            signal.pidfd_send_signal(pidfd, number)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))
    finally:
        os.close(pidfd)
