"""Hosts are switched off to save power, and on again."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from ostler_common.errors import FailedPreconditionError
from ostler_common.secret import Secret
from ostler_control import settings
from ostler_control.drs_plans import store
from ostler_control.ha import devices, run_agent, switching
from ostler_control.ha.fence_agents import Device, Power
from ostler_control.hosts import manage
from ostler_control.models import DrsPlan, Event, Host, HostPower, Operation, SwitchState, new_id, now
from ostler_control.operations import Engine
from ostler_control.power.keeper import Keeper
from ostler_control.power.plans import plan_power

from tests.fakes.fence import PASSWORD, FakeDevice
from tests.fakes.working_agent import wait_until
from tests.sites import Site, outcome
from tests.unit.control.ha.place import OK, ON_BOTH, finish_all, refused

MINUTE, HOUR = datetime.timedelta(minutes=1), datetime.timedelta(hours=1)


@pytest.fixture
def bmc3(tmp_path: Any, site: Site, monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    """The fence device of h3, which has no VMs."""
    fake = FakeDevice(tmp_path / "fence3")
    monkeypatch.setattr(run_agent, "_DIRECTORY", fake.directory)
    new = devices.NewDevice(new_id(), Device("redfish", "bmc3", "ostler", {"plug": "1"}), Secret(PASSWORD), False)
    devices.create(site.host("h3"), new, Power.ON, "root", site.keys)
    return fake


def switched_off(site: Site, engine: Engine, name: str) -> None:
    manage.set_maintenance(site.host(name), True, "", "root")
    assert outcome(engine, site.record(lambda: switching.power_off(site.host(name), "root"))) == OK
    site.silence(name)


def is_asked_on(bmc: FakeDevice) -> bool:
    return bmc.power == "on"


def test_only_an_empty_host_in_maintenance_is_switched_off(site: Site, engine: Engine, bmc: FakeDevice) -> None:
    h1 = site.host("h1")
    assert refused(lambda: switching.power_off(h1, "root")) == "NOT_IN_MAINTENANCE"
    manage.set_maintenance(h1, True, "", "root")
    assert refused(lambda: switching.power_off(site.host("h1"), "root")) == "HOST_HAS_VMS"
    assert refused(lambda: switching.power_off(site.host("h2"), "root")) == "FENCE_NOT_FOUND"
    assert refused(lambda: switching.power_on(site.host("h1"), "root")) == "HOST_UP"
    assert not HostPower.select().exists()
    assert not Operation.select().where(Operation.verb == switching.OFF_VERB).exists()
    assert bmc.calls() == []


def test_a_host_that_is_off_returns_by_its_device_alone(site: Site, engine: Engine, bmc3: FakeDevice) -> None:
    switched_off(site, engine, "h3")
    assert (bmc3.calls(), bmc3.power) == (["off", "status"], "off")
    with pytest.raises(FailedPreconditionError) as caught:
        manage.set_maintenance(site.host("h3"), False, "", "root")
    assert caught.value.reason == "HOST_SWITCHED_OFF"
    operation = site.record(lambda: switching.power_on(site.host("h3"), "root"))
    wait_until(lambda: is_asked_on(bmc3))
    site.revive("h3")
    assert outcome(engine, operation) == OK
    assert not HostPower.select().exists()
    assert site.host("h3").maintenance, "an admin ends it"


def test_a_device_that_does_not_switch_leaves_the_host_as_it_is(site: Site, engine: Engine, bmc3: FakeDevice) -> None:
    bmc3.fault("stuck")
    manage.set_maintenance(site.host("h3"), True, "", "root")
    assert outcome(engine, site.record(lambda: switching.power_off(site.host("h3"), "root"))) == ("failed", "NOT_OFF")
    assert not HostPower.select().exists()
    manage.set_maintenance(site.host("h3"), False, "", "root")


def test_a_host_that_is_not_heard_again_can_be_switched_on_again(
    site: Site, engine: Engine, bmc3: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    switched_off(site, engine, "h3")
    monkeypatch.setattr(switching, "HEARD_WITHIN", datetime.timedelta(0))
    operation = site.record(lambda: switching.power_on(site.host("h3"), "root"))
    assert outcome(engine, operation) == ("failed", "HOST_NOT_HEARD")
    assert HostPower.get().state is SwitchState.OFF
    site.record(lambda: switching.power_on(site.host("h3"), "root"))


def test_a_host_that_is_off_is_no_failure_that_the_reserve_is_for(site: Site, engine: Engine, bmc3: FakeDevice) -> None:
    from ostler_control.drs.reserve import Reserve
    from ostler_control.drs_plans.snapshot import take
    from ostler_control.models import Cluster

    settings.change("ha.reserve.hosts", "1", "root")
    switched_off(site, engine, "h3")
    present = take(Cluster.get())
    assert [host.name for host in present.snapshot.hosts if host.asleep] == ["h3"]
    assert Reserve(present.snapshot, present.settings)._failures == 1


def test_power_is_only_planned_until_a_setting_says_otherwise(site: Site, engine: Engine, bmc3: FakeDevice) -> None:
    from ostler_control.models import Cluster

    found = plan_power(Cluster.get())
    assert [change.host_name for change in found.switch_off] == ["h3"]
    keeper = Keeper(lambda: True)
    for minute in range(20):
        keeper.tick(now() + minute * MINUTE)
    assert (bmc3.calls(), HostPower.select().count()) == ([], 0)


@ON_BOTH
def test_hosts_are_switched_off_and_woken_by_themselves(site: Site, engine: Engine, bmc3: FakeDevice) -> None:
    settings.change("drs.power.automatic", "true", "root")
    settings.change("drs.automatic.hold", "2", "root")
    keeper, start = Keeper(lambda: True), now()
    keeper.tick(start)
    keeper.tick(start + MINUTE)
    assert not HostPower.select().exists(), "not yet for long enough"
    keeper.tick(start + 2 * MINUTE)
    assert (HostPower.get().state, site.host("h3").maintenance) == (SwitchState.EMPTYING, True)
    keeper.tick(start + 3 * MINUTE)
    finish_all(engine)
    assert (HostPower.get().state, bmc3.power) == (SwitchState.OFF, "off")
    site.silence("h3")
    settings.change("drs.power.on.threshold", "0", "root")
    keeper.tick(start + 4 * MINUTE)
    wait_until(lambda: is_asked_on(bmc3))
    site.revive("h3")
    finish_all(engine)
    assert not HostPower.select().exists()
    assert not site.host("h3").maintenance, "nobody asked for it, so nobody has to end it"
    told = [(event.type, event.outcome) for event in Event.select().where(Event.type.startswith("host.power"))]
    assert told.count((switching.OFF_VERB, "succeeded")) == told.count((switching.ON_VERB, "succeeded")) == 1


def test_a_host_whose_vms_cannot_leave_stays_on(site: Site, engine: Engine, bmc: FakeDevice) -> None:
    h1 = manage.set_maintenance(site.host("h1"), True, "", "root")
    HostPower.create(host=h1, state=SwitchState.EMPTYING, automatic=True)
    Host.update(enabled=False).where(Host.name != "h1").execute()
    settings.change("drs.power.automatic", "true", "root")
    keeper, start = Keeper(lambda: True), now()
    keeper.tick(start)
    finish_all(engine)
    keeper.tick(start + MINUTE)
    assert not HostPower.select().exists()
    assert not site.host("h1").maintenance
    assert bmc.calls() == []


def test_a_host_that_is_being_emptied_stays_on_once_the_setting_is_off(site: Site, bmc3: FakeDevice) -> None:
    h3 = manage.set_maintenance(site.host("h3"), True, "", "root")
    HostPower.create(host=h3, state=SwitchState.EMPTYING, automatic=True)
    Keeper(lambda: True).tick(now())
    assert not HostPower.select().exists()
    assert (site.host("h3").maintenance, bmc3.calls()) == (False, [])


def test_a_host_that_comes_up_by_itself_is_no_longer_off(site: Site, engine: Engine, bmc3: FakeDevice) -> None:
    switched_off(site, engine, "h3")
    switching.tidy()
    assert HostPower.get().state is SwitchState.OFF
    site.revive("h3")
    switching.tidy()
    assert not HostPower.select().exists()
    manage.set_maintenance(site.host("h3"), False, "", "root")


def test_a_host_recorded_as_off_that_is_up_can_be_switched_on(site: Site, engine: Engine, bmc3: FakeDevice) -> None:
    """As when it was switched off and on while no control plane ran."""
    manage.set_maintenance(site.host("h3"), True, "", "root")
    assert outcome(engine, site.record(lambda: switching.power_off(site.host("h3"), "root"))) == OK
    assert outcome(engine, site.record(lambda: switching.power_on(site.host("h3"), "root"))) == OK
    assert not HostPower.select().exists()


@pytest.mark.parametrize("state", SwitchState)
def test_maintenance_that_an_admin_wants_is_theirs(
    site: Site, engine: Engine, bmc3: FakeDevice, state: SwitchState
) -> None:
    settings.change("drs.power.automatic", "true", "root")
    settings.change("drs.power.on.threshold", "0", "root")
    h3 = manage.set_maintenance(site.host("h3"), True, "", "root")
    HostPower.create(host=h3, state=state, automatic=True, operation_id=new_id())
    manage.set_maintenance(site.host("h3"), True, "replacing the board", "ann")
    keeper, start = Keeper(lambda: True), now()
    for minute in range(3):
        keeper.tick(start + minute * MINUTE)
    assert (site.host("h3").maintenance, site.host("h3").maintenance_reason) == (True, "replacing the board")
    assert bmc3.calls() == []


def test_a_host_that_does_not_start_is_not_tried_again_and_again(
    site: Site, engine: Engine, bmc3: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.change("drs.power.automatic", "true", "root")
    settings.change("drs.power.on.threshold", "0", "root")
    monkeypatch.setattr(switching, "HEARD_WITHIN", datetime.timedelta(0))
    switched_off(site, engine, "h3")
    HostPower.update(automatic=True).execute()
    keeper, start = Keeper(lambda: True), now()
    for minute in range(5):
        keeper.tick(start + minute * MINUTE)
        finish_all(engine)
    assert bmc3.calls().count("on") == 1
    keeper.tick(start + 2 * HOUR)
    finish_all(engine)
    assert bmc3.calls().count("on") == 2


def test_a_host_that_cannot_be_switched_off_is_left_alone_for_an_hour(
    site: Site, engine: Engine, bmc3: FakeDevice
) -> None:
    settings.change("drs.power.automatic", "true", "root")
    settings.change("drs.automatic.hold", "1", "root")
    bmc3.fault("stuck")
    keeper, start = Keeper(lambda: True), now()
    for minute in range(12):
        keeper.tick(start + minute * MINUTE)
        finish_all(engine)
    assert bmc3.calls().count("off") == 1


def test_a_device_that_falls_silent_after_the_cut_leaves_the_host_recorded_as_off(
    site: Site, engine: Engine, bmc3: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch = run_agent.switch

    def then_silent(*args: Any) -> None:
        switch(*args)
        bmc3.fault("dead")

    monkeypatch.setattr(run_agent, "switch", then_silent)
    switched_off(site, engine, "h3")
    assert (HostPower.get().state, site.host("h3").maintenance) == (SwitchState.OFF, True)


def test_a_host_that_is_needed_again_is_not_switched_off(site: Site, engine: Engine, bmc3: FakeDevice) -> None:
    h3 = manage.set_maintenance(site.host("h3"), True, "", "root")
    HostPower.create(host=h3, state=SwitchState.EMPTYING, automatic=True)
    settings.change("drs.power.automatic", "true", "root")
    settings.change("drs.power.on.threshold", "0", "root")
    Keeper(lambda: True).tick(now())
    finish_all(engine)
    assert not HostPower.select().exists()
    assert (site.host("h3").maintenance, bmc3.calls()) == (False, [])


def test_a_host_is_woken_while_a_plan_is_carried_out(
    site: Site, engine: Engine, bmc3: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.change("drs.power.automatic", "true", "root")
    settings.change("drs.power.on.threshold", "0", "root")
    switched_off(site, engine, "h3")
    HostPower.update(automatic=True).execute()
    monkeypatch.setattr(store, "active", lambda cluster_id: DrsPlan())
    Keeper(lambda: True).tick(now())
    wait_until(lambda: is_asked_on(bmc3))
    site.revive("h3")
    finish_all(engine)


def test_what_was_not_looked_at_for_a_while_begins_anew(site: Site, engine: Engine, bmc3: FakeDevice) -> None:
    settings.change("drs.power.automatic", "true", "root")
    settings.change("drs.automatic.hold", "60", "root")
    keeper, start = Keeper(lambda: True), now()
    keeper.tick(start)
    keeper.tick(start + 2 * HOUR)
    assert not HostPower.select().exists()


def test_an_admin_who_ends_the_maintenance_keeps_the_host_on(site: Site, engine: Engine, bmc3: FakeDevice) -> None:
    h3 = manage.set_maintenance(site.host("h3"), True, "", "root")
    HostPower.create(host=h3, state=SwitchState.EMPTYING, automatic=True)
    manage.set_maintenance(site.host("h3"), False, "", "root")
    assert not HostPower.select().exists()
    Keeper(lambda: True).tick(now())
    assert bmc3.calls() == []
