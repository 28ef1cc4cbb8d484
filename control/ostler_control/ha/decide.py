"""Which silent hosts to fence now, and why the others are not. Pure: facts in, decisions out.

Silence alone proves nothing: a host that is fenced is switched off first, and only then its VMs start elsewhere. What
this module guards against is the opposite mistake: that a control plane which has lost its own network switches off a
fleet that works.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ostler_control.states import FenceState, HostState

# After a failed attempt: 1, 2, 4, ... minutes, at most this.
MAX_RETRY_S = 600.0
_FIRST_RETRY_S = 60.0


@dataclass(frozen=True)
class HostFacts:
    """A host as this decision sees it.

    silent_s: for how long this process has seen it silent without a break, 0 when it is heard; in_service: not in
    maintenance; protected_vms: VMs placed on it that restart by themselves; has_device: a fence device is configured;
    has_lease: its guardian guarded it when it was last heard; fence: how far its fencing is, None for not fenced;
    heard: it was heard since it was proved off; late_starts: a protected VM may have started there since; fell_silent:
    it is fenced, and does not answer now; attempts and failed_s: failed fencings, and the time since the latest.
    """

    id: str
    cluster_id: str
    state: HostState
    silent_s: float = 0.0
    in_service: bool = True
    protected_vms: int = 0
    has_device: bool = False
    has_lease: bool = False
    fence: FenceState | None = None
    heard: bool = False
    late_starts: bool = False
    fell_silent: bool = False
    attempts: int = 0
    failed_s: float = 0.0


@dataclass(frozen=True)
class Rules:
    """A cluster's settings. delay_s: how long a host is silent before it is fenced; limit: how many hosts are fenced in
    an hour, and how often each; recent: by host that was tried in the last hour how often it was, as `facts.rules`
    counts it."""

    enabled: bool
    delay_s: float
    limit: int
    recent: Mapping[str, int] = field(default_factory=dict)


class Hold(StrEnum):
    """Why a silent host is not fenced by itself now."""

    OFF = "off"
    RETURNED = "returned"
    FENCING = "fencing"
    DISABLED = "disabled"
    MAINTENANCE = "maintenance"
    NO_VMS = "no_vms"
    NO_DEVICE = "no_device"
    TOO_MANY_SILENT = "too_many_silent"
    WAITING = "waiting"
    RETRY_LATER = "retry_later"
    RATE_LIMIT = "rate_limit"


_HELD_UP = (Hold.DISABLED, Hold.MAINTENANCE, Hold.NO_DEVICE, Hold.TOO_MANY_SILENT, Hold.RATE_LIMIT)


@dataclass(frozen=True)
class Decision:
    """What to do with a silent host: fence it now, or why not. by_lease: its lease is to prove it, not its device;
    is_held_up: it is not fenced although it has protected VMs and was silent for long enough, and an admin may have to
    do something."""

    host_id: str
    hold: Hold | None
    by_lease: bool = False
    is_held_up: bool = False

    @property
    def fence(self) -> bool:
        return self.hold is None


def decide(hosts: Iterable[HostFacts], rules: Mapping[str, Rules]) -> list[Decision]:
    """A decision for every host that is silent, in the order in which they are to be fenced: most protected VMs first.

    rules: by cluster id. Hosts that are heard have no decision.
    """
    known = sorted(hosts, key=lambda host: (-host.protected_vms, host.id))
    crowded = too_many_silent(known)
    started: Counter[str] = Counter()
    decisions = []
    for host in known:
        if not is_silent(host):
            continue
        rule = rules[host.cluster_id]
        hold = _hold(host, rule, crowded, started[host.cluster_id])
        if hold is None and host.id not in rule.recent and host.fence is not FenceState.OFF:
            started[host.cluster_id] += 1
        is_due = bool(host.protected_vms) and host.silent_s >= rule.delay_s
        decisions.append(Decision(host.id, hold, hold is None and _by_lease(host), is_due and hold in _HELD_UP))
    return decisions


def is_silent(host: HostFacts) -> bool:
    """Whether a host counts as silent."""
    return host.state in (HostState.DISCONNECTED, HostState.FENCED)


def too_many_silent(hosts: Iterable[HostFacts]) -> frozenset[str]:
    """Ids of the clusters in which nothing is fenced without an admin: more than half of their hosts, or of all the
    fleet's, do not answer. Then it is likely that the control plane is cut off rather than they.

    A host that is only being connected does not answer either. Hosts in maintenance are left out, and so are hosts
    proved off, unless they were heard since and do not answer now: what took others away may have taken them.
    """
    known = [
        host
        for host in hosts
        if host.in_service and (host.fence is not FenceState.OFF or (host.heard and host.fell_silent))
    ]
    total = Counter(host.cluster_id for host in known)
    missing = Counter(host.cluster_id for host in known if host.state is not HostState.UP)
    if 2 * missing.total() > total.total():
        return frozenset(total)
    return frozenset(cluster_id for cluster_id in total if 2 * missing[cluster_id] > total[cluster_id])


def _needs_new_proof(host: HostFacts) -> bool:
    """Whether a host that was proved off needs a new proof: the old one says nothing of what it may have run since."""
    return host.fence is FenceState.OFF and (host.heard or host.late_starts) and host.fell_silent


def retry_s(attempts: int) -> float:
    """How long to wait after this many failed attempts."""
    doubled: float = _FIRST_RETRY_S * 2.0 ** min(max(attempts - 1, 0), 10)
    return min(doubled, MAX_RETRY_S)


def _by_lease(host: HostFacts) -> bool:
    """The device comes first. Where both are, the two take turns after failures: each may be dead with the host."""
    return host.has_lease and (not host.has_device or host.attempts % 2 == 1)


def _hold(host: HostFacts, rule: Rules, crowded: frozenset[str], started: int) -> Hold | None:
    if host.fence is FenceState.OFF and not _needs_new_proof(host):
        return Hold.RETURNED if host.heard else Hold.OFF
    if host.fence is FenceState.FENCING:
        return Hold.FENCING
    if not rule.enabled:
        return Hold.DISABLED
    if not host.in_service:
        return Hold.MAINTENANCE
    if not host.protected_vms:
        return Hold.NO_VMS
    if not (host.has_device or host.has_lease):
        return Hold.NO_DEVICE
    if host.cluster_id in crowded:
        return Hold.TOO_MANY_SILENT
    if host.silent_s < rule.delay_s:
        return Hold.WAITING
    if host.attempts and -MAX_RETRY_S < host.failed_s < retry_s(host.attempts):  # less: the clock was put back
        return Hold.RETRY_LATER
    return Hold.RATE_LIMIT if _is_limited(host, rule, started) else None


def _is_limited(host: HostFacts, rule: Rules, started: int) -> bool:
    """A host that falls silent again and again takes one place of its cluster's limit, and no place of the others. To
    prove anew that one is off which was not heard since takes none."""
    if host.fence is FenceState.OFF and not host.heard:
        return False
    if host.id in rule.recent:
        return rule.recent[host.id] >= rule.limit
    return len(rule.recent) + started >= rule.limit
