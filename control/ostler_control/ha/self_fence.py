"""Proves by a host's lease that it has ended its VMs: other hosts look at it until it was unchanged for long enough.

From before the first look the row of the fencing says so in the database, and no replica gives the host a grant any
more. A step that is repeated begins anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ostler.agent.v1 import host_pb2 as agent_pb
from ostler_common.errors import AbortedError, FailedPreconditionError, OstlerError, UnavailableError

from ostler_control.agents import HostAddress
from ostler_control.database import session
from ostler_control.ha.lease_watch import LeaseWatch, Look, Verdict
from ostler_control.hosts.rows import address, reaching
from ostler_control.models import Host, HostFence, HostGuard, HostState
from ostler_control.operations import Run
from ostler_control.states import GuardState

_LOOK_EVERY_S = 2.0
_LOOK_S = 15.0
# How long no other host may be able to read the lease.
_BLIND_S = 120.0


def watch_lease(run: Run, check_silent: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
    """Returns once the lease proves that the VMs are ended.

    check_silent: raises when the host answers. Raises FailedPreconditionError LEASE_RENEWED, LEASE_UNGUARDED,
    UnavailableError LEASE_UNREADABLE, and what `check_silent` raises.
    """
    with session():
        guard = HostGuard.get_or_none((HostGuard.host == run.resource_id) & (HostGuard.state == GuardState.GUARDING))
        host = Host.get_by_id(run.resource_id)
    if guard is None:
        raise _unguarded(host)
    watch, seen = LeaseWatch(guard.term, guard.ends_within_s), clock()
    while True:
        look = _look(run, guard, clock)
        if look is not None:
            watch, verdict = watch.look(look)
            seen = look.ended
            if verdict is Verdict.RENEWED:
                raise FailedPreconditionError(
                    f"host {host.name} renews its lease: it runs, and only the way to its agent is broken",
                    "LEASE_RENEWED",
                    {"host": host.name},
                )
            if verdict is Verdict.UNGUARDED:
                raise _unguarded(host)
            if verdict is Verdict.PROVED:
                break
        elif clock() - seen > _BLIND_S:
            raise UnavailableError(
                f"no other host can read the lease of host {host.name} (look at its pool)",
                "LEASE_UNREADABLE",
                {"host": host.name},
            )
        waited_s = clock() - watch.first.ended if watch.first else 0.0
        run.phase("watching its lease", min(20 + round(60 * waited_s / watch.needed_s), 80))
        run.pause(_LOOK_EVERY_S)
    check_silent()
    with session():
        if HostFence.select().where(HostFence.operation_id == run.id, HostFence.heard).exists():
            raise AbortedError(f"host {host.name} was heard meanwhile", "HOST_ANSWERS", {"host": host.name})


def _look(run: Run, guard: HostGuard, clock: Callable[[], float]) -> Look | None:
    """What the first host that can read the lease reads now; None when none can."""
    request = agent_pb.ReadLeaseRequest(pool_id=guard.pool_id, host_id=guard.host_id)
    for reader in _readers(guard):
        begun = clock()
        try:
            lease = run.agents.call(reader, lambda agent: agent.host.ReadLease, request, _LOOK_S)
        except OstlerError:
            continue
        return Look(lease.term, lease.number, lease.released, begun, clock())
    return None


def _readers(guard: HostGuard) -> list[HostAddress]:
    with session():
        hosts = reaching(guard.pool_id)
        return [address(host) for host in hosts if host.id != guard.host_id and host.state is HostState.UP]


def _unguarded(host: Host) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"host {host.name} does not guard its VMs by the lease that it told of, so the lease proves nothing",
        "LEASE_UNGUARDED",
        {"host": host.name},
    )
