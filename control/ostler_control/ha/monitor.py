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
from ostler_control.ha.restart import Restarts
from ostler_control.ha.status import EXPLANATIONS
from ostler_control.models import Host, HostFence, tuples
from ostler_control.operations import launch
from ostler_control.outage import bug_logged
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
        self._told: set[tuple[str, Hold]] = set()  # the hosts of which events have told already, and why they wait
        self._restarts = Restarts()

    def work(self) -> None:
        if self._leads():
            self.tick()
        else:
            self._silence, self._restarts = facts.Silence(), Restarts()
            self._told.clear()

    def tick(self) -> None:
        """Does what is due now."""
        tidy()
        decisions = self.decisions()
        for decision in decisions:
            if decision.fence:
                _fence(decision)
        self._tell_held(decisions)
        _free()
        self._restarts.tick(self._clock())

    def decisions(self) -> list[Decision]:
        """What is to be done with each silent host now."""
        clock_s = self._clock()
        with session():
            self._silence.update(clock_s)
            if self._silence.is_quiet():  # nearly always: then nothing more is read
                return []
            return decide(facts.hosts(self._silence.seconds(clock_s)), facts.rules())

    def _tell_held(self, decisions: Iterable[Decision]) -> None:
        """One event for each silence and each reason that holds a host up for longer: an admin has to look."""
        silent = {decision.host_id for decision in decisions}
        held = {(decision.host_id, decision.hold) for decision in decisions if decision.hold and decision.is_held_up}
        for host_id, hold in sorted(held - self._told):
            with transaction():
                host = Host.get_or_none(Host.id == host_id)
                if host is None:  # it was removed just now
                    continue
                type, text = "host.fence.held", f"host {host.name} is {EXPLANATIONS[hold]}"
                if hold is Hold.RATE_LIMIT:
                    type, text = "host.fence.limit", _why_limited(host.name)
                events.record(type, events.Outcome.NOTICED, SYSTEM, "host", host.id, host.name, text)
        self._told = {told for told in self._told if told[0] in silent} | held


def _free() -> None:
    """VMs that an operation held when their host was proved off. Hosts that were heard since are `returns`'s."""
    with session():
        off = HostFence.select(HostFence.host).where(HostFence.is_off())
        host_ids = [host_id for (host_id,) in tuples(off, tuple[str])]
    for host_id in host_ids:
        with bug_logged("the VMs of a host are not freed by a bug; it is tried again", host=host_id):
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
