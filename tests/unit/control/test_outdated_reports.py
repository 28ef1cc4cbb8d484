"""What a host reported of a VM before it answered that the VM has ended there is out of date, whoever heard which."""

from __future__ import annotations

import datetime
import threading
from typing import Any

import pytest
from ostler_common.errors import FailedPreconditionError, OstlerError
from ostler_control import housekeeping, vms
from ostler_control.database import session, transaction
from ostler_control.fleet import watch
from ostler_control.fleet.comparison import Comparison
from ostler_control.fleet.reconcile import HostView
from ostler_control.models import Event, Host, Operation, Vm, VmAbsence, VmSighting, now
from ostler_control.operations import Engine
from ostler_control.states import VmState

from tests.fakes.faults import Fault
from tests.sites import Site, outcome
from tests.unit.control.copies import running_vm
from tests.unit.control.copies import working as working

OK = ("succeeded", "")


def view(site: Site, name: str, tells_looks: bool = True) -> HostView:
    """What the watcher has of a host once that has reported its VMs as they are now."""
    fake = site.hosts[name]
    infos = fake.vm_infos()
    look = fake.look()
    for info in infos if tells_looks else ():
        info.look.life, info.look.number = look.life, look.number
    return HostView(fake.host_id, name, heard=True, vms={info.vm_id: watch.seen(info) for info in infos})


def compare(*views: HostView) -> None:
    """A while after the last operation, for the first of these hosts has told something."""
    Vm.update(state_time=now() - datetime.timedelta(hours=1)).execute()
    Comparison().write({views[0].host_id}, {view.host_id: view for view in views})


def recorded(vm: Any) -> tuple[str, str, str, list[str]]:
    with session():
        row = Vm.get_by_id(vm.id)
        sightings = VmSighting.select(VmSighting, Host).join(Host).where(VmSighting.vm == vm.id)
        return row.state, row.power_state, row.attention, [sighting.host.name for sighting in sightings]


def force_stop(vm: Any) -> Operation:
    return vms.stop(vm, "alice", force=True)


STOPPED: tuple[str, str, str, list[str]] = ("stopped", "stopped", "", [])


def test_a_vm_that_was_stopped_starts_elsewhere_although_its_host_was_cut_off_before_it_told(
    site: Site, engine: Engine
) -> None:
    vm = running_vm(site, engine, "web", host=site.host("h1"))
    before = view(site, "h1")
    assert outcome(engine, site.record(lambda: force_stop(vm))) == OK
    compare(before)
    assert recorded(vm) == STOPPED
    site.silence("h1")
    try:
        assert outcome(engine, site.record(lambda: vms.start(Vm.get_by_id(vm.id), "alice", site.host("h2")))) == OK
        compare(view(site, "h2"), before)
        assert recorded(vm) == ("running", "running", "", []), "h1 was not seen running it since"
    finally:
        site.revive("h1")
    assert site.fleet.running_on(vm.id) == ["h2"]
    del site.hosts["h1"].vms[vm.id]


def test_a_start_outside_after_the_stop_counts_as_soon_as_it_was_seen(site: Site, engine: Engine) -> None:
    vm = running_vm(site, engine, "web", host=site.host("h1"))
    assert outcome(engine, site.record(lambda: force_stop(vm))) == OK
    site.hosts["h1"].vms[vm.id].running = True
    compare(view(site, "h1"))
    assert recorded(vm)[1:3] == ("running", "started outside Ostler")
    with transaction(), pytest.raises(FailedPreconditionError) as caught:
        vms.start(Vm.get_by_id(vm.id), "alice", site.host("h2"))
    assert caught.value.reason == "VM_STATE"


@pytest.mark.parametrize("why", ["another life of the agent", "an agent of an older release"])
def test_reports_that_are_in_no_order_with_the_answer_count(site: Site, engine: Engine, why: str) -> None:
    vm = running_vm(site, engine, "web", host=site.host("h1"))
    before = view(site, "h1", tells_looks=why.startswith("another"))
    if why.startswith("another"):
        site.hosts["h1"].kill()
        site.hosts["h1"].revive()
        for _ in range(1000):
            site.hosts["h1"].look()
    assert outcome(engine, site.record(lambda: force_stop(vm))) == OK
    compare(before)
    assert recorded(vm)[1:3] == ("running", "started outside Ostler")
    compare(view(site, "h1"))
    assert recorded(vm) == STOPPED


def test_the_source_of_a_migration_that_was_cut_off_before_it_told_does_not_count_as_running_it(
    site: Site, engine: Engine
) -> None:
    vm = running_vm(site, engine, "web", host=site.host("h1"))
    before = view(site, "h1")
    assert outcome(engine, site.record(lambda: vms.migrate(vm, "alice", host=site.host("h2")))) == OK
    compare(before, view(site, "h2"))
    assert recorded(vm) == ("running", "running", "", [])
    assert not Event.select().where(Event.type == "vm.doubled").exists()
    site.hosts["h1"].vms[vm.id] = site.hosts["h2"].vms[vm.id]  # somebody starts it there
    compare(view(site, "h1"), view(site, "h2"))
    assert recorded(vm)[3] == ["h1"]
    del site.hosts["h1"].vms[vm.id]
    compare(view(site, "h1"), view(site, "h2"))


def test_where_a_broken_off_migration_was_asked_the_answers_count(site: Site, engine: Engine) -> None:
    vm = running_vm(site, engine, "web", host=site.host("h1"))
    before = view(site, "h1")
    site.hosts["h1"].fail("MigrateVm", Fault(OstlerError("lost", "LOST"), before=False))
    assert outcome(engine, site.record(lambda: vms.migrate(vm, "alice", host=site.host("h2")))) == OK
    compare(before, view(site, "h2"))
    assert recorded(vm) == ("running", "running", "", [])


def test_what_was_seen_at_the_destination_of_a_migration_that_failed_does_not_count_once_it_was_asked(
    site: Site, engine: Engine
) -> None:
    vm = running_vm(site, engine, "web", host=site.host("h1"))
    site.hosts["h2"].vms[vm.id] = site.hosts["h1"].vms[vm.id]  # as an incoming one is there, for a moment
    incoming = view(site, "h2")
    del site.hosts["h2"].vms[vm.id]
    site.hosts["h1"].fail("MigrateVm", Fault(OstlerError("broken", "BROKEN")))
    failed = outcome(engine, site.record(lambda: vms.migrate(vm, "alice", host=site.host("h2"))))
    assert failed == ("failed", "BROKEN")
    assert [absence.host.name for absence in VmAbsence.select()] == ["h2"], "it runs on h1"
    compare(incoming, view(site, "h1"))
    assert recorded(vm) == ("running", "running", "", [])


def test_a_start_that_failed_was_undone_whatever_was_reported_meanwhile(site: Site, engine: Engine) -> None:
    vm, h1 = running_vm(site, engine, "web", host=site.host("h1")), site.hosts["h1"]
    assert outcome(engine, site.record(lambda: force_stop(vm))) == OK
    h1.fail("StartVm", Fault(OstlerError("broken", "BROKEN"), before=False))
    undo = h1.fail("StopVm", Fault(hold=threading.Event()))
    operation = site.record(lambda: vms.start(Vm.get_by_id(vm.id), "alice", site.host("h1")))
    assert undo.reached.wait(20)
    meanwhile = view(site, "h1")
    assert undo.hold is not None
    undo.hold.set()
    assert outcome(engine, operation) == ("failed", "BROKEN")
    compare(meanwhile)
    assert recorded(vm) == STOPPED


def test_a_stop_that_failed_although_the_vm_ended_counts(site: Site, engine: Engine) -> None:
    vm = running_vm(site, engine, "web", host=site.host("h1"))
    before = view(site, "h1")
    site.hosts["h1"].fail("StopVm", Fault(OstlerError("broken", "BROKEN"), before=False))
    assert outcome(engine, site.record(lambda: force_stop(vm))) == ("failed", "BROKEN")
    compare(before)
    assert recorded(vm) == STOPPED


def test_answers_that_say_that_the_vm_runs_are_no_absence(site: Site, engine: Engine) -> None:
    vm = running_vm(site, engine, "web", host=site.host("h1"))
    site.hosts["h1"].fail("StopVm", Fault(OstlerError("broken", "BROKEN")))
    assert outcome(engine, site.record(lambda: force_stop(vm))) == ("failed", "BROKEN")
    assert Vm.get_by_id(vm.id).state is VmState.RUNNING
    assert not VmAbsence.select().exists()


def test_absences_go_with_their_vm_or_after_a_day(site: Site, engine: Engine) -> None:
    def absences(age: datetime.timedelta) -> int:
        VmAbsence.update(create_time=now() - age).execute()
        housekeeping.tidy()
        return VmAbsence.select().count()

    vm = running_vm(site, engine, "web", host=site.host("h1"))
    for _ in range(2):
        assert outcome(engine, site.record(lambda: force_stop(Vm.get_by_id(vm.id)))) == OK
        assert absences(datetime.timedelta(hours=23)) == 1
        assert outcome(engine, site.record(lambda: vms.start(Vm.get_by_id(vm.id), "alice"))) == OK
    assert absences(datetime.timedelta(hours=25)) == 0
    assert outcome(engine, site.record(lambda: force_stop(Vm.get_by_id(vm.id)))) == OK
    assert outcome(engine, site.record(lambda: vms.delete(Vm.get_by_id(vm.id), "alice"))) == OK
    assert absences(datetime.timedelta()) == 0
