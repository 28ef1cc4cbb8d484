"""All hosts lose their power at once: nothing is proved, nothing starts, and what returns goes on."""

from __future__ import annotations

import datetime
from functools import partial

from ostler_control import settings, vms
from ostler_control.fleet import store, watch
from ostler_control.fleet.comparison import Comparison
from ostler_control.fleet.reconcile import HostView
from ostler_control.ha.status import status
from ostler_control.models import Cluster, Host, HostState, Operation, Vm, VmRestart, VmState, now
from ostler_control.operations import Engine

from tests.fakes.fence import FakeDevice
from tests.fakes.working_agent import wait_until
from tests.sites import GIB, Site, outcome
from tests.unit.control.ha.place import OK, ON_BOTH, Clock, finish_all, host_of, refused, vm

ON_H1 = ("high", "low", "other")


class Outage:
    """All hosts lose their power at once; their agents and the definitions of their VMs are there when they return."""

    def __init__(self, site: Site, clock: Clock) -> None:
        self._site = site
        self._views = {fake.host_id: HostView(fake.host_id, name, silent=True) for name, fake in site.hosts.items()}
        for name, fake in site.hosts.items():
            site.silence(name)
            fake.secrets.clear()
            for machine in fake.vms.values():
                machine.running = False
        Host.update(state_time=now() - datetime.timedelta(minutes=20)).execute()
        for _ in range(3):
            clock.tick(600)

    def come_back(self, name: str) -> None:
        """The host boots, is heard, and reports that it runs nothing."""
        fake = self._site.hosts[name]
        fake.start()
        row = self._site.host(name)
        store.set_state(store.WatchedHost(row.id, row.name, row.address, row.state), HostState.UP, "")
        vms_there = {info.vm_id: watch.seen(info) for info in fake.vm_infos()}
        self._views[fake.host_id] = HostView(fake.host_id, name, heard=True, vms=vms_there)
        Vm.update(state_time=now() - datetime.timedelta(hours=1)).execute()  # the last operation is a while ago
        Comparison().write({fake.host_id}, self._views)


@ON_BOTH
def test_hosts_that_return_tell_that_their_vms_are_gone_and_the_dead_ones_are_restarted_where_they_fit(
    site: Site, engine: Engine, bmc: FakeDevice, clock: Clock
) -> None:
    created = site.record(partial(site.new_vm, "there", host=site.host("h2"), pool=site.pools["shared"]))
    assert outcome(engine, created) == OK
    Cluster.update(memory_overcommit=1.0).execute()
    settings.change("host.reserved.memory", "0", "root")
    Host.update(memory_bytes=GIB).where(Host.name != "h1").execute()  # h2 is full, and h3 takes one VM
    outage = Outage(site, clock)
    assert bmc.calls() == []
    assert not Operation.select().where(Operation.verb == "host.fence").exists()
    assert {host.row.name: host.verdict for host in status(Cluster.get()).hosts}["h1"] == "too_many_silent"
    assert {vm(name).state for name in (*ON_H1, "there")} == {VmState.RUNNING}
    assert refused(lambda: vms.start(vm("there"), "alice")) == "HOST_SILENT"

    for name in ("h2", "h3"):
        outage.come_back(name)
    assert (vm("there").power_state, vm("there").attention) == ("stopped", "stopped outside Ostler")
    assert outcome(engine, site.record(lambda: vms.start(vm("there"), "alice"))) == OK
    assert site.fleet.running_on(vm("there").id) == ["h2"]

    clock.tick()
    clock.tick(61)
    finish_all(engine)
    assert bmc.calls() == ["off", "status"], "most hosts answer again, so that the one which does not is dead"
    clock.tick()
    finish_all(engine)
    clock.tick()
    assert (host_of("high"), vm("high").state) == ("h3", VmState.RUNNING), "the highest priority first"
    [waits] = VmRestart.select()
    assert (waits.vm.name, "lack memory" in waits.reason) == ("low", True)

    outage.come_back("h1")
    clock.tick()
    wait_until(lambda: site.host("h1").state is HostState.UP)
    VmRestart.update(next_time=now()).execute()
    clock.tick()
    finish_all(engine)
    clock.tick()
    assert [(name, host_of(name), vm(name).state) for name in ("high", "low", "other")] == [
        ("high", "h3", VmState.RUNNING),
        ("low", "h1", VmState.RUNNING),
        ("other", "", VmState.STOPPED),
    ]
    site.check_whole()


def test_when_all_hosts_return_every_vm_is_told_and_starts_where_it_was(
    site: Site, engine: Engine, bmc: FakeDevice, clock: Clock
) -> None:
    outage = Outage(site, clock)
    for name in site.hosts:
        outage.come_back(name)
    for _ in range(2):
        clock.tick(61)
        finish_all(engine)
    assert bmc.calls() == []
    assert {(vm(name).state, vm(name).power_state) for name in ON_H1} == {(VmState.RUNNING, "stopped")}
    for name in ON_H1:
        assert outcome(engine, site.record(partial(vms.start, vm(name), "alice"))) == OK
    assert [site.fleet.running_on(vm(name).id) for name in ON_H1] == [["h1"]] * 3
    site.check_whole()
