"""The guardian's decisions, with a clock that the test moves."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ostler_agent.guardian import lease
from ostler_agent.guardian.desk import Desk, State, Wish
from ostler_agent.guardian.hold import HOLD_S
from ostler_agent.guardian.lease import Lease
from ostler_agent.guardian.loop import Guardian
from ostler_agent.guardian.renewer import Renewer

from tests.unit.agent.guardian.place import POOL, VM, Storage, Vms, desk, hang, pool


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.002)


class Site:
    """A guardian at work. now: its clock."""

    def __init__(self, root: Path) -> None:
        self.desk: Desk = desk(root)
        self.wish: Wish = pool(root / "pool")
        self.vms, self.storage = Vms(), Storage()
        self.now = 1000.0
        self.start()

    def start(self, write: Callable[..., None] | None = None) -> None:
        self.renewer = Renewer(lambda: self.now, write or self.storage.write)
        self.guardian = Guardian(self.desk, self.vms, lambda: self.now, "boot", self.renewer)

    def step(self, after_s: float = 0.0) -> State:
        """A step, once the write under way has ended."""
        self.now += after_s
        until(lambda: not self.renewer._busy.is_set())
        return self.guardian.step().state

    def run(self, seconds: float) -> State:
        for _ in range(round(seconds / 2)):
            state = self.step(2)
        return state

    def grant(self) -> None:
        status = self.desk.status()
        assert status is not None
        self.desk.set_grant(status.stamp)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path)
    assert site.step() is State.OFF
    site.desk.set_wish(site.wish)
    assert site.step() is State.STARTING
    assert site.step() is State.GUARDING
    return site


def test_a_host_that_renews_its_lease_keeps_its_vms_without_the_control_plane(site: Site) -> None:
    assert site.run(600) is State.GUARDING
    assert site.vms.ended == []
    numbers = [lease.number for lease in site.storage.leases]
    assert numbers == sorted(set(numbers))
    assert len(numbers) > 200


def test_a_host_that_hears_the_control_plane_keeps_its_vms_without_the_storage(site: Site) -> None:
    site.storage.works = False
    for _ in range(100):
        site.grant()
        assert site.step(6) is State.GUARDING
    assert site.vms.ended == []


def test_vms_end_when_neither_is_there(site: Site) -> None:
    site.storage.works = False
    assert site.run(HOLD_S - 2) is State.GUARDING
    assert site.vms.ended == []
    assert site.run(4) is State.ENDED
    assert site.vms.ended == [VM]


def test_a_vm_that_starts_after_the_end_is_ended_too(site: Site) -> None:
    """A call to libvirt that hung with the storage goes on when the storage is back."""
    site.storage.works = False
    site.run(HOLD_S + 4)
    site.storage.works = True
    site.vms.alive = ["late"]
    assert site.run(60) is State.ENDED
    assert site.vms.ended == [VM, "late"]


def test_a_lost_lease_is_not_renewed(site: Site) -> None:
    site.storage.works = False
    site.run(HOLD_S + 4)
    written = len(site.storage.leases)
    site.storage.works = True
    site.run(60)
    assert len(site.storage.leases) == written


def test_only_a_grant_after_the_end_gives_the_host_back(site: Site) -> None:
    early = site.desk.status()
    assert early is not None
    site.storage.works = False
    site.run(HOLD_S + 4)
    site.storage.works = True
    site.desk.set_grant(early.stamp)
    assert site.run(10) is State.ENDED
    site.desk.set_grant(f"another/{site.now}")
    assert site.run(10) is State.ENDED
    site.grant()
    assert site.run(10) is State.GUARDING
    site.vms.alive = ["new"]
    assert site.run(100) is State.GUARDING
    assert site.vms.ended == [VM]


def test_a_stamp_from_the_future_or_of_nobody_is_no_grant(site: Site) -> None:
    status = site.desk.status()
    assert status is not None
    site.storage.works = False
    for stamp in (f"{status.term}/{site.now + 1000}", f"{status.term}/nan", f"{status.term}/", "", "nonsense"):
        site.desk.set_grant(stamp)
        site.step(1)
    assert site.run(HOLD_S) is State.ENDED


def test_a_machine_that_was_frozen_ends_its_vms_first(site: Site) -> None:
    """The write that waits in the thread is done the moment the machine goes on; it hides nothing."""
    site.now += 300
    site.guardian.step()
    assert site.vms.ended == [VM]
    assert site.run(60) is State.ENDED


@pytest.mark.parametrize("jump", [-500.0, 500.0])
def test_a_clock_that_jumps_ends_the_vms(site: Site, jump: float) -> None:
    """CLOCK_BOOTTIME does not jump. Should it do so all the same, the guardian believes in nothing it knew."""
    site.step(jump)
    assert site.vms.ended == [VM]


def test_a_date_that_jumps_changes_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert site.run(100) is State.GUARDING
    assert site.vms.ended == []


def test_a_guardian_that_was_killed_goes_on_where_it_was(site: Site) -> None:
    site.run(20)
    before = site.desk.status()
    assert before is not None
    site.start()
    assert site.step(1) is State.GUARDING
    after = site.desk.status()
    assert after is not None
    assert after.term == before.term
    assert after.number >= before.number


def test_a_guardian_that_starts_too_late_ends_the_vms_at_once(site: Site) -> None:
    site.now += HOLD_S + 5
    site.start()
    assert site.guardian.step().state is State.ENDED
    assert site.vms.ended == [VM]


def test_after_a_boot_nothing_of_the_old_life_counts(site: Site) -> None:
    before = site.desk.status()
    site.now = 3.0
    guardian = Guardian(
        site.desk, site.vms, lambda: site.now, "another boot", Renewer(lambda: site.now, lambda *_: None)
    )
    guardian.step()
    after = site.desk.status()
    assert before is not None
    assert after is not None
    assert after.term != before.term
    assert after.state is State.STARTING
    assert site.vms.ended == []


def test_a_lease_that_was_never_written_ends_nothing(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.storage.works = False
    site.desk.set_wish(site.wish)
    assert site.run(200) is State.STARTING
    assert site.vms.ended == []


def test_a_storage_that_hangs_keeps_nobody_waiting(site: Site) -> None:
    site.start(lease.write)
    site.run(4)
    pipe = hang(site.wish.place)
    for _ in range(30):
        site.now += 2
        begun = time.monotonic()
        site.guardian.step()
        assert time.monotonic() - begun < 5
    assert site.vms.ended == [VM]
    pipe.open("rb", buffering=0).close()  # lets the thread go


def test_another_pool_is_another_term_and_the_old_lease_is_released(site: Site, tmp_path: Path) -> None:
    before = site.desk.status()
    other = pool(tmp_path / "other")
    site.desk.set_wish(Wish("another", other.directory, other.mark, other.host_id))
    site.step()
    site.run(6)
    after = site.desk.status()
    assert before is not None
    assert after is not None
    assert (after.pool_id, after.state) == ("another", State.GUARDING)
    assert after.term != before.term
    assert [lease.term for lease in site.storage.leases if lease.released] == [before.term]
    site.desk.set_wish(None)
    assert site.run(4) is State.OFF


def test_an_orderly_end_is_said_on_the_storage(site: Site) -> None:
    site.guardian.release(lambda seconds: time.sleep(0.001))
    assert site.storage.leases[-1].released
    assert site.vms.ended == []
    status = site.desk.status()
    assert status is not None
    assert (status.state, status.pool_id) == (State.OFF, "")


def test_a_guardian_that_ended_the_vms_and_is_restarted_has_still_ended_them(site: Site) -> None:
    site.storage.works = False
    site.run(HOLD_S + 4)
    site.storage.works = True
    site.guardian.release(lambda seconds: None)
    site.start()
    site.vms.alive = ["late"]
    assert site.step() is State.ENDED
    assert site.vms.ended == [VM, "late"]


def test_an_end_that_the_storage_does_not_take_ends_the_vms(site: Site) -> None:
    site.storage.works = False

    def pause(seconds: float) -> None:
        until(lambda: not site.renewer._busy.is_set())
        site.now += seconds

    site.guardian.release(pause)
    assert site.vms.ended == [VM]


def test_a_wish_that_makes_no_sense_changes_nothing(site: Site, tmp_path: Path) -> None:
    (tmp_path / "desk/wish.json").write_text("{")
    assert site.run(100) is State.GUARDING
    assert Lease(site.storage.leases[-1].term, site.storage.leases[-1].number) == site.storage.leases[-1]
    assert site.desk.status() is not None
    assert POOL in str(site.desk.status())
