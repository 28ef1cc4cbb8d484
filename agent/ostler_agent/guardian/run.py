"""The guardian's process."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from pathlib import Path

import structlog
from ostler_common import notify

from ostler_agent.config import AgentConfig
from ostler_agent.guardian.desk import Desk, Status
from ostler_agent.guardian.loop import STEP_S, Ender, Guardian
from ostler_agent.hypervisors.libvirt.ending import QemuEnder
from ostler_agent.migration.admissions import seconds_since_boot

_MCL_CURRENT, _MCL_FUTURE = 1, 2
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

log = structlog.get_logger(__name__)


def desk(config: AgentConfig) -> Desk:
    """The desk of this host's agent and guardian."""
    return Desk(config.state_dir / "guard.json")


def ender(config: AgentConfig) -> Ender | None:
    """What ends the VMs of the configured driver; None when nothing can."""
    return QemuEnder() if config.driver == "libvirt" else None


def run(config: AgentConfig) -> None:
    """Guards this host until SIGTERM or SIGINT. Raises OSError."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    found = ender(config)
    if found is None:
        log.info("nothing to guard: the driver's VMs cannot be ended here", driver=config.driver)
        notify.ready("nothing to guard")
        while not stop.wait(notify.watchdog_interval_s()):
            notify.alive()
        return
    _stay_in_memory()
    table = desk(config)
    table.prepare()
    serve(Guardian(table, found, seconds_since_boot, BOOT_ID.read_text().strip()), stop)


def serve(guardian: Guardian, stop: threading.Event) -> None:
    """Guards until `stop` is set, then says so on the storage."""
    status = guardian.step()  # before systemd is told: what was due while nobody was here is done first
    notify.ready(str(status.state))
    while not stop.wait(STEP_S):
        before, status = status, _step(guardian, status)
        notify.alive()
        if status.state is not before.state:
            notify.status(str(status.state))
            log.info("the guardian", state=str(status.state))
    notify.stopping()
    guardian.release(threading.Event().wait)


def _step(guardian: Guardian, before: Status) -> Status:
    try:
        return guardian.step()
    except OSError as error:  # the agent sees that the status is old
        log.error("the guardian cannot write how it stands", reason=str(error))
        return before


def _stay_in_memory() -> None:
    """A disk that hangs must not keep the guardian waiting for its own program or swapped memory."""
    if ctypes.CDLL(None, use_errno=True).mlockall(_MCL_CURRENT | _MCL_FUTURE) != 0:
        log.warning("the guardian may be swapped out", reason=os.strerror(ctypes.get_errno()))
