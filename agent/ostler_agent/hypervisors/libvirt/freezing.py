"""Freezes the file systems of a guest for the moment in which a copy of its disks begins.

What programs have written is on the disks then, and file systems are clean. Both calls end within a bound, whatever the
guest does.
"""

from __future__ import annotations

import structlog
from ostler_common.errors import OstlerError

from ostler_agent.hypervisors.libvirt import guest_agent
from ostler_agent.hypervisors.libvirt.live import retry_while_unavailable
from ostler_agent.hypervisors.libvirt.session import Session
from ostler_agent.spec import Freeze

log = structlog.get_logger(__name__)

FREEZE_TIMEOUT_S = 10  # a guest must write out what it has in memory
THAW_TIMEOUT_S = 30.0
_WHY = {
    "GUEST_AGENT_MISSING": "no guest agent is connected",
    "GUEST_AGENT_SILENT": "the guest agent did not answer in time",
    "GUEST_AGENT_REFUSED": "the guest agent refused to freeze the file systems",
}


def freeze(session: Session, vm_id: str) -> Freeze:
    """Freezes all file systems, or says why not. `thaw` must follow: a freeze may take effect after its time."""
    try:
        with guest_agent.asking(session, vm_id, "freezing file systems", timeout_s=FREEZE_TIMEOUT_S) as domain:
            count = domain.fsFreeze()
    except OstlerError as error:
        return Freeze(False, _WHY.get(error.reason, "the guest agent could not be asked"))
    return Freeze(True) if count else Freeze(False, "the guest agent found no file system to freeze")


def thaw(session: Session, vm_id: str, before: Freeze) -> Freeze:
    """Thaws the file systems; returns whether they were frozen until now. Raises nothing."""
    if before.reason == _WHY["GUEST_AGENT_MISSING"]:
        return before
    try:
        count = retry_while_unavailable(lambda: _thaw(session, vm_id), THAW_TIMEOUT_S)
    except OstlerError as error:
        log.error("the file systems of a guest may still be frozen", vm=vm_id, error=str(error))
        return before if before.reason else Freeze(False, "the guest agent did not confirm the thaw")
    if before.frozen and not count:  # some guests thaw by themselves after some seconds
        return Freeze(False, "the guest thawed its file systems too early")
    return before


def thaw_left_frozen(session: Session, vm_id: str) -> None:
    """Thaws what an earlier run of the agent may have left frozen. Raises nothing."""
    thaw(session, vm_id, Freeze(False, "an earlier run of the agent froze it"))


def _thaw(session: Session, vm_id: str) -> int:
    with guest_agent.asking(session, vm_id, "thawing file systems") as domain:
        count: int = domain.fsThaw()
    return count
