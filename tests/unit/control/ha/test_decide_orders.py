"""Hours of hosts that die, return, flap and are cut off together, decision by decision: what holds in every order."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from ostler_control.ha.decide import Hold, HostFacts, Rules, decide, retry_s
from ostler_control.states import FenceState, HostState

DELAY_S, STEP_S, HOUR_S = 60.0, 10.0, 3600.0


@dataclass
class Host:
    """device: how often its device works; answers: what is true; the others: what the rows say. silent_since: None
    while it is heard; was_off: it had a proof when it was fenced last; fencings: of each the time, whether it was
    proved, and whether the host had not been heard since the proof before."""

    id: str
    device: float  # how often its device works
    answers: bool = True
    state: HostState = HostState.UP
    fence: FenceState | None = None
    heard: bool = False
    late: bool = False
    silent_since: float | None = None
    attempts: int = 0
    tried_at: float = 0.0
    was_off: bool = False
    fencings: list[tuple[float, bool, bool]] = field(default_factory=list)

    def facts(self, now_s: float) -> HostFacts:
        return HostFacts(
            id=self.id,
            cluster_id="c",
            state=self.state,
            silent_s=0.0 if self.silent_since is None else now_s - self.silent_since,
            protected_vms=1,
            has_device=True,
            fence=self.fence,
            heard=self.heard,
            late_starts=self.late,
            fell_silent=self.state is HostState.FENCED and self.silent_since is not None,
            attempts=self.attempts,
            failed_s=now_s - self.tried_at,
        )


class Cluster:
    """A cluster of hosts, one step of ten seconds after the other."""

    def __init__(self, dice: random.Random) -> None:
        self.dice, self.now_s, self.limit = dice, 0.0, dice.choice([1, 2, 3, 5])
        self.hosts = [Host(f"h{number}", dice.choice([1.0, 1.0, 0.5, 0.0])) for number in range(dice.randint(3, 9))]
        self.flapping = dice.choice([*self.hosts, None])

    def happen(self) -> None:
        """What happens to hosts in ten seconds: to one, or to many at once."""
        dice = self.dice
        if dice.random() < 0.01:
            for host in dice.sample(self.hosts, dice.randint(1, len(self.hosts))):
                host.answers = False
        for host in self.hosts:
            if dice.random() < (0.2 if host is self.flapping else 0.02 if host.answers else 0.03):
                host.answers = not host.answers

    def watch(self) -> None:
        """What the watcher makes of it, and what a fenced host may get and give."""
        for host in self.hosts:
            if host.answers:
                host.silent_since = None
                host.heard = host.heard or host.fence in (FenceState.OFF, FenceState.FENCING)
                if host.state is HostState.DISCONNECTED:
                    host.state, host.fence, host.attempts = HostState.UP, None, 0
                if host.fence is FenceState.OFF and host.heard and self.dice.random() < 0.3:
                    host.state, host.fence, host.heard, host.late = HostState.UP, None, False, False
                continue
            host.silent_since = self.now_s if host.silent_since is None else host.silent_since
            host.state = HostState.DISCONNECTED if host.state is HostState.UP else host.state
            host.late = host.late or (host.fence is FenceState.OFF and self.dice.random() < 0.05)

    def end_fencings(self) -> None:
        for host in self.hosts:
            if host.fence is not FenceState.FENCING:
                continue
            proved = not host.answers and self.dice.random() < host.device
            last_s, _, renews = host.fencings.pop()
            host.fencings.append((last_s, proved, renews))
            host.tried_at = self.now_s
            if proved:
                host.fence, host.heard, host.late, host.attempts = FenceState.OFF, False, False, 0
            elif host.was_off:
                host.fence, host.heard, host.attempts = FenceState.OFF, True, host.attempts + 1
            else:
                host.fence, host.attempts = FenceState.FAILED, host.attempts + 1
                host.state = HostState.UP if host.answers else HostState.DISCONNECTED
                host.fence = None if host.answers else host.fence

    def rules(self) -> Rules:
        recent = {}
        for host in self.hosts:
            lately = [proved for when, proved, _ in host.fencings if when > self.now_s - HOUR_S]
            if lately:
                recent[host.id] = sum(lately)
        return Rules(True, DELAY_S, self.limit, recent)

    def decide(self) -> None:
        rules = {"c": self.rules()}
        missing = [host for host in self.hosts if host.silent_since is not None]
        off = [host for host in missing if host.fence is FenceState.OFF and not host.heard]
        by_id = {host.id: host for host in self.hosts}
        for decision in decide([host.facts(self.now_s) for host in self.hosts], rules):
            host = by_id[decision.host_id]
            if decision.hold is Hold.RETRY_LATER:
                assert self.now_s - host.tried_at < retry_s(host.attempts)
            if not decision.fence:
                continue
            assert host.silent_since is not None
            assert self.now_s - host.silent_since >= DELAY_S
            assert 2 * (len(missing) - len(off)) <= len(self.hosts) - len(off), "most of them do not answer"
            assert host.fence is not FenceState.FENCING
            assert host.fence is not FenceState.OFF or host.heard or host.late, "its proof covers all that it ran"
            host.was_off = host.fence is FenceState.OFF
            renews = host.was_off and not host.heard
            host.fencings.append((self.now_s, False, renews))
            host.fence, host.state, host.heard = FenceState.FENCING, HostState.FENCED, False

    def check_limits(self) -> None:
        """Of the hosts that may run something: re-proving one that is off harms nobody."""
        lately: Counter[str] = Counter()
        for host in self.hosts:
            cut = [renews for when, _, renews in host.fencings if when > self.now_s - HOUR_S]
            proved = [proved for when, proved, renews in host.fencings if when > self.now_s - HOUR_S and not renews]
            if cut.count(False):
                lately[host.id] = sum(proved)
        assert len(lately) <= self.limit, lately
        assert all(count <= self.limit for count in lately.values()), lately


@pytest.mark.parametrize("seed", range(8))
def test_every_decision_keeps_the_rules(seed: int) -> None:
    for round in range(6):
        cluster = Cluster(random.Random(f"{seed}/{round}"))
        for _ in range(800):
            cluster.now_s += STEP_S
            cluster.happen()
            cluster.watch()
            cluster.end_fencings()
            cluster.decide()
            cluster.check_limits()


@pytest.mark.parametrize("seed", range(8))
def test_a_host_that_stays_dead_is_proved_off_whatever_one_other_does(seed: int) -> None:
    """Whoever holds one host of five cannot keep another from being fenced."""
    for round in range(6):
        dice = random.Random(f"{seed}/{round}")
        cluster = Cluster(dice)
        cluster.limit = max(cluster.limit, 2)
        cluster.hosts = [Host(f"h{number}", 1.0) for number in range(5)]
        enemy, dead = cluster.hosts[:2]
        for step in range(360 + 12):
            cluster.now_s += STEP_S
            enemy.answers = dice.random() < dice.choice([0.02, 0.5, 0.98])
            dead.answers = step < 360
            cluster.watch()
            cluster.end_fencings()
            cluster.decide()
        assert any(proved for _, proved, _ in dead.fencings), cluster.rules()
