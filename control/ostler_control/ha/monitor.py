"""The thread that watches for hosts that are to be fenced and VMs that are to be restarted. One replica does it; two at
once would cost one of them its attempt and nothing else. It calls no host: no host can hold it up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import structlog
from ostler_common.errors import OstlerError

from ostler_control import events
from ostler_control.database import session, transaction
from ostler_control.events import SYSTEM
from ostler_control.ha import facts
from ostler_control.ha.decide import Decision, Hold, decide
from ostler_control.ha.fence import fence, tidy
from ostler_control.ha.free import free_vms
from ostler_control.ha.restart import restart_vms
from ostler_control.models import FenceState, Host, HostFence, tuples
from ostler_control.operations import launch
from ostler_control.periodic import Periodic

log = structlog.get_logger(__name__)

_TICK_S = 2.0


class Monitor(Periodic):
    """Looks at the fleet every few seconds. leads: whether this replica is to do it."""

    def __init__(
        self,
        leads: Callable[[], bool],
        tick_s: float = _TICK_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__("ha", tick_s)
        self._leads = leads
        self._clock = clock
        self._silence = facts.Silence()
        self._limited: frozenset[str] = frozenset()  # the hosts of which an event has told already

    def work(self) -> None:
        if self._leads():
            self.tick()
        else:
            self._silence = facts.Silence()
            self._limited = frozenset()

    def tick(self) -> None:
        """Does what is due now."""
        tidy()
        decisions = self.decisions()
        for decision in decisions:
            if decision.fence:
                _fence(decision)
        self._tell_limited(decisions)
        _free()
        restart_vms()

    def decisions(self) -> list[Decision]:
        """What is to be done with each silent host now."""
        clock_s = self._clock()
        with session():
            self._silence.update(clock_s)
            if self._silence.is_quiet():  # nearly always: then nothing more is read
                return []
            return decide(facts.hosts(self._silence.seconds(clock_s)), facts.rules())

    def _tell_limited(self, decisions: Iterable[Decision]) -> None:
        """One event for each silence in which the limit of fencings holds a host up: an admin has to look."""
        limited = frozenset(decision.host_id for decision in decisions if decision.hold is Hold.RATE_LIMIT)
        for host_id in sorted(limited - self._limited):
            with transaction():
                host = Host.get_or_none(Host.id == host_id)
                if host is None:  # it was removed just now
                    continue
                events.record(
                    "host.fence.limit",
                    events.Outcome.NOTICED,
                    SYSTEM,
                    "host",
                    host.id,
                    host.name,
                    _why_limited(host.name),
                )
        self._limited = limited


def _free() -> None:
    """VMs that an operation held when their host was proved off. Hosts that were heard since are `returns`'s."""
    with session():
        off = (HostFence.state == FenceState.OFF) & ~HostFence.heard
        host_ids = [host_id for (host_id,) in tuples(HostFence.select(HostFence.host).where(off), tuple[str])]
    for host_id in host_ids:
        free_vms(host_id)


def _why_limited(host_name: str) -> str:
    return (
        f"host {host_name} is silent and is not fenced: in the last hour it was fenced as often as ha.fence.limit "
        "allows, or as many other hosts of its cluster were; look at the hosts, then raise the limit or run "
        "ostler host declare-dead, or wait"
    )


def _fence(decision: Decision) -> None:
    try:
        with transaction():
            host = Host.get_by_id(decision.host_id)
            by_lease = decision.by_lease
            operation = fence(host, SYSTEM, device=not by_lease, automatic=True, lease=by_lease)
    except OstlerError as error:  # somebody else was faster, or the host is back
        log.info("a host is not fenced", host=decision.host_id, reason=error.reason)
        return
    log.warning("fencing a silent host", host=host.name)
    launch(operation)
