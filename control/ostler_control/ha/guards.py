"""The thread that tells hosts to guard themselves, gives them grants, and notices those that have ended their VMs.

A grant names a moment that the host's guardian told of in an earlier answer. Before it is given, the database is asked
whether the host is being fenced, or was: from the moment when a fencing is recorded no replica gives a grant for a
moment after that, whatever connections delay.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import structlog
from ostler.agent.v1 import host_pb2 as agent_pb
from ostler_common.errors import OstlerError

from ostler_control import events, settings
from ostler_control.agents import Agents, HostAddress, reports
from ostler_control.database import session, transaction
from ostler_control.events import SYSTEM
from ostler_control.hosts.rows import address
from ostler_control.models import FenceState, Host, HostFence, HostGuard, HostSilence, HostState, now
from ostler_control.periodic import Periodic
from ostler_control.states import GuardState

log = structlog.get_logger(__name__)

_EVERY_S = 5.0
_CALL_S = 5.0
_AT_ONCE = 16
MAX_ENDS_WITHIN_S = 600.0
_MAX_STAMP = 100


@dataclass(frozen=True)
class _Guarded:
    """A host to be asked. pool_id: of the lease that it is to have, "" for none; before: what is recorded of it;
    is_fenced: it was proved off and has returned, so that it gets no grant."""

    host: HostAddress
    pool_id: str
    before: HostGuard | None
    is_fenced: bool = False


class Guards(Periodic):
    """leads: whether this replica is to do it."""

    def __init__(self, leads: Callable[[], bool], agents: Agents, interval_s: float = _EVERY_S) -> None:
        super().__init__("guards", interval_s)
        self._leads = leads
        self._agents = agents
        self._stamps: dict[str, str] = {}

    def work(self) -> None:
        if self._leads():
            self.tick()
        else:
            self._stamps.clear()

    def tick(self) -> None:
        """Asks every host once. The stamps are those of earlier calls: the database is read after they were made."""
        guarded = _guarded()
        if not guarded:
            return
        with ThreadPoolExecutor(min(_AT_ONCE, len(guarded)), thread_name_prefix="guards") as pool:
            list(pool.map(self._keep, guarded))

    def _keep(self, one: _Guarded) -> None:
        host_id = one.host.host_id
        stamp = self._stamps.pop(host_id, "")
        stamp = "" if one.is_fenced else stamp
        if one.before and one.before.pool_id not in ("", one.pool_id):
            # Before the host is told: no lease of before may prove anything from now on.
            _record(one, agent_pb.Guard(state=agent_pb.Guard.OFF), "")
            one = replace(one, before=None)
        request = agent_pb.KeepGuardRequest(pool_id=one.pool_id, stamp=stamp)
        try:
            guard = self._agents.call(one.host, lambda agent: agent.host.KeepGuard, request, _CALL_S)
        except OstlerError as error:
            if error.reason != "HOST_UNREACHABLE":  # of a silent host the last word counts
                _record(one, agent_pb.Guard(state=agent_pb.Guard.OFF), error.message)
            return
        if wrong := _find_wrong(guard):
            _record(one, agent_pb.Guard(state=agent_pb.Guard.OFF), wrong)
            return
        _record(one, guard, "")
        if guard.state == agent_pb.Guard.ENDED:
            _notice_end(host_id)
        elif guard.state != agent_pb.Guard.ABSENT and not one.is_fenced:
            self._stamps[host_id] = guard.stamp


def _guarded() -> list[_Guarded]:
    """The hosts that are up and not fenced, and are to guard themselves or did; and those that have returned, whose
    guardian may be another by now: its lease is to prove it if they fall silent again."""
    with session():
        wanted = settings.ha.LEASE_POOL.by_cluster()
        rows = {row.host_id: row for row in HostGuard.select()}
        if not rows and not any(wanted.values()):
            return []
        fenced = HostFence.select(HostFence.host).where(HostFence.state.in_((FenceState.FENCING, FenceState.OFF)))
        is_up = (Host.state == HostState.UP) & Host.id.not_in(fenced)
        back = HostFence.select(HostFence.host).where(HostFence.has_returned())
        silent = HostSilence.select(HostSilence.host)
        has_returned = (Host.state == HostState.FENCED) & Host.id.in_(back) & Host.id.not_in(silent)
        found = []
        for host in Host.select().where(is_up | has_returned, ~Host.removed):
            pool_id = wanted.get(host.cluster_id, wanted[""])
            before = rows.get(host.id)
            if pool_id or (before and before.pool_id):
                found.append(_Guarded(address(host), pool_id, before, host.state is HostState.FENCED))
        return found


def _find_wrong(guard: agent_pb.Guard) -> str:
    """What is wrong with a host's answer, for people; "" when nothing is."""
    wrong = reports.find_wrong(guard)
    if not wrong and guard.state not in agent_pb.Guard.State.values():
        wrong = f"state is {guard.state}"
    if not wrong and max(len(guard.stamp), len(guard.term), len(guard.pool_id)) > _MAX_STAMP:
        wrong = "its stamp is too long"
    if not wrong and guard.ends_within_ms > MAX_ENDS_WITHIN_S * 1000:
        wrong = f"ends_within_ms is {guard.ends_within_ms}"
    return reports.complaint(wrong) if wrong else ""


def _record(one: _Guarded, guard: agent_pb.Guard, reason: str) -> None:
    """Nearly always nothing has changed, and the database is not asked."""
    state = GuardState(agent_pb.Guard.State.Name(guard.state).lower()) if guard.state else GuardState.OFF
    if state is GuardState.ABSENT:
        reason = "its guardian does not run (systemctl enable --now ostler-guardian.service)"
    values = {
        "state": state,
        "term": guard.term if state is GuardState.GUARDING and guard.ends_within_ms else "",
        "pool_id": guard.pool_id,
        "ends_within_s": guard.ends_within_ms / 1000,
        "reason": reason,
    }
    if one.before is not None and all(getattr(one.before, key) == value for key, value in values.items()):
        return
    with transaction():
        if HostGuard.update(**values).where(HostGuard.host == one.host.host_id).execute():
            return
        if Host.select().where(Host.id == one.host.host_id).exists():
            HostGuard.create(host=one.host.host_id, **values)


def _notice_end(host_id: str) -> None:
    """A host has ended its VMs and is heard: it is as one that was fenced and came back. Its VMs are freed as they are
    reported stopped, the protected ones start, and then it is given back."""
    with transaction():
        host = Host.get_or_none((Host.id == host_id) & ~Host.removed)
        held = HostFence.state.in_((FenceState.FENCING, FenceState.OFF))
        if host is None or HostFence.select().where((HostFence.host == host_id) & held).exists():
            return
        changes = {"state": HostState.FENCED, "state_time": now(), "state_reason": "its guardian ended its VMs"}
        if Host.update(**changes).where(Host.id == host_id, Host.state == HostState.UP).execute() != 1:
            return
        HostFence.delete().where(HostFence.host == host_id).execute()
        HostFence.create(host=host_id, state=FenceState.OFF, operation_id="", heard=True, proof="lease")
        events.record(
            "host.guard.end",
            events.Outcome.NOTICED,
            SYSTEM,
            "host",
            host.id,
            host.name,
            f"host {host.name} heard neither its storage nor the control plane, and its guardian ended its VMs",
        )
    log.warning("a host has ended its VMs", host=host.name)
