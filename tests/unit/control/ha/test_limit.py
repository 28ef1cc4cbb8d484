"""The limit of fencings in an hour: a host that flaps uses it up, and then an admin has to look."""

from __future__ import annotations

import datetime
from dataclasses import replace
from functools import partial

import pytest
from ostler_control import settings, vms
from ostler_control.fleet import store
from ostler_control.ha import devices, facts
from ostler_control.ha.fence import fence
from ostler_control.ha.fence_agents import Power
from ostler_control.ha.status import status
from ostler_control.models import Cluster, Event, Host, HostFence, HostState, Operation, VmState, now
from ostler_control.operations import Engine

from tests.fakes.fence import FakeDevice
from tests.fakes.working_agent import wait_until
from tests.sites import Site, outcome
from tests.unit.control.ha.place import (
    DEVICE,
    OK,
    ON_BOTH,
    Clock,
    die,
    finish_all,
    host_of,
    new_device,
    refused,
    vm,
)

FENCED = ["off", "status"]
LIMIT = 2


class Flapping:
    """h1, which falls silent with the protected VM `high` again and again."""

    def __init__(self, site: Site, engine: Engine, clock: Clock) -> None:
        self._site, self._engine, self._clock = site, engine, clock
        settings.change("ha.fence.limit", str(LIMIT), "root")

    def fall_silent(self) -> None:
        """For as long as it takes to be fenced."""
        die(self._site, "h1")
        Host.update(state_time=now() - datetime.timedelta(minutes=2)).where(Host.name == "h1").execute()
        self.tick()
        self.tick(61)

    def come_back(self) -> None:
        """Its VM started elsewhere, and is brought back to it."""
        self.tick()
        assert host_of("high") in ("h2", "h3")
        self._site.hosts["h1"].start()
        row = self._site.host("h1")
        store.set_state(store.WatchedHost(row.id, row.name, row.address, row.state), HostState.UP, "")
        self.tick()
        wait_until(lambda: self._site.host("h1").state is HostState.UP)
        self.tick()
        stopped = self._site.record(lambda: vms.stop(vm("high"), "root", force=True))
        assert outcome(self._engine, stopped) == OK
        started = self._site.record(lambda: vms.start(vm("high"), "root", host=self._site.host("h1")))
        assert outcome(self._engine, started) == OK

    def use_up_the_limit(self) -> None:
        for _ in range(LIMIT):
            self.fall_silent()
            self.come_back()
        self.fall_silent()

    def tick(self, after_s: float = 0.0) -> None:
        self._clock.tick(after_s)
        finish_all(self._engine)


@pytest.fixture
def flapping(site: Site, engine: Engine, clock: Clock) -> Flapping:
    return Flapping(site, engine, clock)


@ON_BOTH
def test_a_host_that_flaps_is_fenced_no_more_at_the_limit_until_the_hour_is_over(
    site: Site, bmc: FakeDevice, flapping: Flapping
) -> None:
    flapping.use_up_the_limit()
    assert bmc.calls() == FENCED * LIMIT
    assert (host_of("high"), site.host("h1").state) == ("h1", HostState.DISCONNECTED)
    shown = {host.row.name: host for host in status(Cluster.get()).hosts}["h1"]
    assert (shown.verdict, "ha.fence.limit" in shown.explanation) == ("rate_limit", True)
    for _ in range(2):
        flapping.tick(30)
    assert bmc.calls() == FENCED * LIMIT
    [event] = Event.select().where(Event.type == "host.fence.limit")
    assert (event.resource_name, event.outcome) == ("h1", "noticed")
    first = Operation.select().where(Operation.verb == facts.FENCE_VERB).order_by(Operation.create_time).first()
    Operation.update(create_time=now() - datetime.timedelta(minutes=61)).where(Operation.id == first.id).execute()
    flapping.tick()
    assert bmc.calls() == FENCED * (LIMIT + 1)
    flapping.tick()
    assert (host_of("high") in ("h2", "h3"), vm("high").state) == (True, VmState.RUNNING)
    site.check_whole()


def test_a_host_that_flaps_leaves_the_others_their_places(
    site: Site, engine: Engine, bmc: FakeDevice, flapping: Flapping
) -> None:
    flapping.use_up_the_limit()
    created = site.record(partial(site.new_vm, "there", host=site.host("h2"), pool=site.pools["shared"]))
    assert outcome(engine, created) == OK
    other = replace(new_device(), device=replace(DEVICE, address="other.example.org"))
    devices.create(site.host("h2"), other, Power.ON, "root", site.keys)
    site.revive("h1")
    die(site, "h2")
    flapping.tick()
    flapping.tick(61)
    assert site.host("h2").state is HostState.FENCED
    flapping.tick()
    assert (host_of("there") in ("h1", "h3"), vm("there").state) == (True, VmState.RUNNING)


def test_an_admin_may_raise_the_limit(bmc: FakeDevice, flapping: Flapping) -> None:
    flapping.use_up_the_limit()
    settings.change("ha.fence.limit", str(LIMIT + 1), "root")
    flapping.tick()
    assert bmc.calls() == FENCED * (LIMIT + 1)


def test_an_admin_who_declares_a_host_dead_meets_no_limit_and_uses_none_up(
    site: Site, engine: Engine, bmc: FakeDevice, flapping: Flapping
) -> None:
    flapping.use_up_the_limit()
    declared = site.record(lambda: fence(site.host("h1"), "root", device=True, automatic=False))
    assert outcome(engine, declared) == OK
    assert HostFence.get().proof == "device"
    assert [rules.recent for rules in facts.rules().values()] == [{site.host("h1").id: LIMIT}]
    assert refused(lambda: fence(site.host("h1"), "root", device=True, automatic=False)) == "HOST_OFF"
    flapping.tick()
    assert host_of("high") in ("h2", "h3")


def test_each_silence_that_the_limit_holds_up_is_told_once(site: Site, bmc: FakeDevice, flapping: Flapping) -> None:
    flapping.use_up_the_limit()
    site.revive("h1")
    flapping.tick()
    flapping.fall_silent()
    assert Event.select().where(Event.type == "host.fence.limit").count() == 2
    assert bmc.calls() == FENCED * LIMIT
