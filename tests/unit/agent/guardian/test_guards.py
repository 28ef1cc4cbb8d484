"""The agent's side: what it asks of the guardian, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from ostler_agent.guardian import guards as guards_module
from ostler_agent.guardian import lease
from ostler_agent.guardian.desk import Desk, State, Status
from ostler_agent.guardian.guards import Guards
from ostler_agent.guardian.lease import Lease
from ostler_agent.pools.base import Pool, PoolSpec
from ostler_common.errors import FailedPreconditionError, OstlerError

from tests.unit.agent.guardian.place import HOST, POOL, desk, hang, pool

GUARDING = Status(State.GUARDING, "boot", "term", 1, 1000.0, since=999.0, pool_id=POOL)


class OnePool:
    """Pools of a host that has one."""

    def __init__(self, directory: Path, mark: str) -> None:
        self._directory, self._mark = directory, mark
        self.shared = True

    def get(self, pool_id: str) -> Pool:
        return Pool(PoolSpec(pool_id, "nfs"), self.shared, True, 100, 50, self._mark)

    def directory(self, pool_id: str) -> Path:
        return self._directory


class Site:
    """now: the clock of agent and guardian."""

    def __init__(self, root: Path) -> None:
        self.wish = pool(root / "pool")
        self.desk: Desk = desk(root)
        self.pools = OnePool(root / "pool", self.wish.mark)
        self.now = 1000.0
        self.guards = Guards(HOST, self.pools, self.desk, True, lambda: self.now)

    def stands(self, **values: object) -> None:
        """Writes what a guardian would."""
        self.desk.set_status(replace(GUARDING, time=self.now, **values))  # type: ignore[arg-type]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(guards_module, "_WAIT_S", 0.0)
    monkeypatch.setattr(guards_module, "_READ_S", 0.5)
    return Site(tmp_path)


def reason(call: Callable[[], object]) -> str:
    with pytest.raises(OstlerError) as caught:
        call()
    return caught.value.reason


def test_a_pool_is_proved_before_the_guardian_is_asked(site: Site) -> None:
    site.stands(state=State.OFF, pool_id="")
    assert site.guards.keep(POOL, "").status.state is State.STARTING
    assert site.desk.wish() == site.wish
    assert [path.name for path in Path(site.wish.directory).iterdir()] == [".ostler-pool"], "the proof leaves nothing"
    assert site.guards.keep(POOL, "").status.state is State.OFF, "as the guardian says"


def test_what_cannot_guard_is_refused(site: Site, tmp_path: Path) -> None:
    assert reason(lambda: site.guards.keep(POOL, "")) == "GUARDIAN_ABSENT"
    site.stands(state=State.OFF, pool_id="")
    site.pools.shared = False
    assert reason(lambda: site.guards.keep(POOL, "")) == "LEASE_POOL_UNFIT"
    site.pools.shared = True
    hang(replace(site.wish.place, host_id=f"{HOST}.probe"))
    assert reason(lambda: site.guards.keep(POOL, "")) == "LEASE_POOL_UNFIT"
    other = Guards(HOST, site.pools, site.desk, False, lambda: site.now)
    assert reason(lambda: other.keep(POOL, "")) == "GUARD_NOT_SUPPORTED"
    assert site.desk.wish() is None


def test_a_grant_goes_to_the_guardian(site: Site) -> None:
    site.desk.set_wish(site.wish)
    site.stands()
    stamp = site.guards.keep(POOL, "").status.stamp
    assert site.desk.grant() == ""
    site.guards.keep(POOL, stamp)
    assert site.desk.grant() == stamp


def test_a_host_that_ended_its_vms_keeps_its_pool_until_it_is_given_back(site: Site) -> None:
    site.desk.set_wish(site.wish)
    site.stands(state=State.ENDED, lost=1000.0)
    assert site.guards.keep("", "").status.state is State.ENDED
    assert site.desk.wish() == site.wish


def test_nothing_to_guard_is_said_to_the_guardian(site: Site) -> None:
    site.desk.set_wish(site.wish)
    site.stands()
    assert site.guards.keep("", "").status.state is State.OFF
    assert site.desk.wish() is None


def test_no_vm_starts_unseen_by_the_guardian(site: Site) -> None:
    site.guards.check_may_start()
    site.desk.set_wish(site.wish)
    assert reason(site.guards.check_may_start) == "NOT_GUARDED"
    for state in (State.ENDED, State.STARTING):
        site.stands(state=state)
        assert reason(site.guards.check_may_start) == "NOT_GUARDED"
    site.stands(pool_id="another")
    assert reason(site.guards.check_may_start) == "NOT_GUARDED"
    site.stands()
    site.guards.check_may_start()
    site.now += 60
    assert reason(site.guards.check_may_start) == "NOT_GUARDED", "it wrote nothing for a minute"
    assert site.guards.status().state is State.ABSENT


def test_the_pool_of_the_lease_is_not_removed(site: Site) -> None:
    site.desk.set_wish(site.wish)
    assert reason(lambda: site.guards.check_not_used(POOL)) == "POOL_IN_USE"
    site.guards.check_not_used("another")


def test_another_hosts_lease_is_read(site: Site) -> None:
    place = replace(site.wish.place, host_id="another")
    assert reason(lambda: site.guards.read(POOL, "another")) == "LEASE_NOT_FOUND"
    lease.write(place, Lease("term", 7))
    assert site.guards.read(POOL, "another") == Lease("term", 7)
    pipe = hang(place)
    with pytest.raises(FailedPreconditionError, match="hangs"):
        site.guards.read(POOL, "another")
    with pipe.open("wb", buffering=0):
        pass  # lets the thread go


def test_a_host_that_joins_anew_forgets_what_it_was_to_guard(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.desk.set_wish(site.wish)
    site.desk.set_wish(None)
    assert site.desk.wish() is None
    assert not (tmp_path / "guard.json").exists()
    Desk(tmp_path / "none/guard.json", tmp_path / "nowhere").set_wish(None)
    assert not (tmp_path / "nowhere").exists()


def test_a_wish_survives_a_restart_of_the_machine(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.desk.set_wish(site.wish)
    (tmp_path / "desk/wish.json").unlink()  # as memory is
    assert site.desk.wish() is None
    site.desk.prepare()
    assert site.desk.wish() == site.wish
