"""A host that was silent while a VM started elsewhere, or was deleted, keeps its definition: it is deleted there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ostler_common.errors import FailedPreconditionError, OstlerError
from ostler_common.hypervisors import Function
from ostler_control import vms
from ostler_control.database import session, transaction
from ostler_control.fleet.leftovers import Leftovers, left_elsewhere, left_of_strays
from ostler_control.fleet.reconcile import HostView, Seen, VmRow
from ostler_control.hosts.definitions import Left, delete_left
from ostler_control.models import Event, Host, HostState, Operation, PowerState, Vm, VmSighting, VmState
from ostler_control.operations import Engine, record_operation

from tests import databases
from tests.fakes.working_agent import FakeHost, Fault
from tests.sites import Site, outcome, site_at_work

OK = ("succeeded", "")


class Place:
    """A VM with a TPM that was stopped on a host which fell silent, and was started on another one."""

    def __init__(self, site: Site, engine: Engine) -> None:
        self.site, self.engine = site, engine
        wanted = {"offering": site.plain, "pool": site.pools["shared"], "tpm": True}
        self.do(lambda: site.new_vm("web", host=site.host("h1"), **wanted))
        self.do(lambda: vms.stop(self.vm, "alice", 0, True))
        site.silence("h1")
        self.do(lambda: vms.start(self.vm, "alice", host=site.host("h2")))
        site.revive("h1")
        self.left = Left(site.host("h1").id, self.vm.id, "web")

    @property
    def vm(self) -> Vm:
        with session():
            return Vm.get(Vm.name == "web")

    @property
    def old(self) -> FakeHost:
        return self.site.hosts["h1"]

    def do(self, record: Callable[[], Operation]) -> None:
        assert outcome(self.engine, self.site.record(record)) == OK

    def heal(self) -> tuple[str, str]:
        operation = delete_left(self.left)
        assert operation is not None
        return outcome(self.engine, operation)

    def told(self, kind: str = "host.vm.definition-deleted") -> list[str]:
        with session():
            return [row.message for row in Event.select().where(Event.type == kind)]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with databases.bound(f"sqlite:///{tmp_path}/ostler.sqlite") as url, site_at_work(url, tmp_path) as (site, engine):
        yield Place(site, engine)


def test_a_definition_and_the_tpm_of_a_vm_that_runs_elsewhere_are_deleted(place: Place) -> None:
    files = place.site.fleet.files()
    assert place.vm.id in place.old.vms
    assert place.vm.id in place.old.tpms
    assert place.heal() == OK
    assert (place.vm.id in place.old.vms, place.vm.id in place.old.tpms) == (False, False)
    assert place.site.fleet.files() == files, "disks stay"
    assert place.site.hosts["h2"].vms[place.vm.id].running
    assert place.told() == ["host h1 still had the definition of VM web, which is on host h2: it was deleted there"]
    with session():
        assert Vm.get().operation_id == ""
        place.site.check_whole()


def test_what_the_tpm_keeps_on_the_old_host_alone_is_not_destroyed(place: Place) -> None:
    """Its guest ran on after the last copy was taken: another host has an older state, or a new TPM."""
    place.old.tpms[place.vm.id].content = b"sealed keys"
    assert place.heal() == OK
    assert place.vm.id in place.old.vms
    assert place.old.tpms[place.vm.id].content == b"sealed keys"
    [text] = place.told("host.vm.definition-kept")
    assert "VM web, which is on host h2: it stays" in text
    assert delete_left(place.left) is None, "the answer is the same until something changes"
    place.old.tpms.clear()
    place.do(lambda: vms.stop(place.vm, "alice", 0, True))
    assert place.heal() == OK
    assert place.vm.id not in place.old.vms


def test_it_is_not_destroyed_either_where_it_cannot_be_read(place: Place) -> None:
    able = ",".join(sorted(set(Function) - {Function.FIRMWARE_STATE}))
    with transaction():
        Host.update(functions=able).where(Host.name == "h1").execute()
    assert place.heal() == OK
    assert place.vm.id in place.old.vms


def test_one_that_cannot_be_deleted_is_tried_a_few_times(place: Place) -> None:
    place.old.fail("DeleteVm", Fault(FailedPreconditionError("no", "NO_WAY"), times=1000))
    for _ in range(3):
        assert place.heal() == ("failed", "NO_WAY")
    assert delete_left(place.left) is None
    place.old.faults.clear()
    place.site.silence("h1")
    place.site.revive("h1")
    assert place.heal() == OK


def test_that_of_a_vm_that_was_deleted_goes_too(place: Place) -> None:
    vm_id = place.vm.id
    place.old.stop()
    with transaction():
        Host.update(state=HostState.DISCONNECTED).where(Host.name == "h1").execute()
    place.do(lambda: vms.delete(place.vm, "alice", force=True))
    place.site.revive("h1")
    assert vm_id in place.old.vms
    assert place.heal() == OK
    assert vm_id not in place.old.vms
    assert place.told() == ["host h1 still had the definition of VM web, which was deleted: it was deleted there"]


def test_a_vm_that_nobody_has_deleted_is_left_alone(place: Place) -> None:
    """It was created after the backup that the database is from, or belongs to another fleet."""
    assert delete_left(replace(place.left, vm_id="unknown")) is None


@pytest.mark.parametrize("host", ["h1", "h2"])
def test_one_that_runs_here_or_has_gone_from_its_own_host_meanwhile_stays(place: Place, host: str) -> None:
    """What the watcher had heard is old by now."""
    if host == "h1":
        place.old.vms[place.vm.id].running = True
    else:
        del place.site.hosts["h2"].vms[place.vm.id]
    assert place.heal() == OK
    assert place.vm.id in place.old.vms
    assert place.told() == []


def test_the_agent_has_the_last_word(place: Place) -> None:
    """Somebody starts it by hand right after it was looked at."""
    place.old.fail("DeleteVm", Fault(FailedPreconditionError("the VM runs", "VM_RUNNING")))
    assert place.heal() == ("failed", "VM_RUNNING")
    assert place.vm.id in place.old.vms
    with session():
        assert Vm.get().operation_id == ""


def test_nothing_is_deleted_while_an_operation_has_the_vm(place: Place) -> None:
    """It may be about to come back to this very host."""
    with transaction():
        migration = record_operation("vm.migrate", Vm.get(), "alice", {})
    assert delete_left(place.left) is None
    with transaction():
        Vm.update(operation_id="").execute()
        Operation.delete().where(Operation.id == migration.id).execute()
    assert place.heal() == OK


def test_a_migration_has_to_wait_until_the_definition_is_deleted(place: Place) -> None:
    go_on = threading.Event()
    fault = Fault(hold=go_on)
    place.old.fail("DeleteVm", fault)
    operation = delete_left(place.left)
    assert operation is not None
    assert fault.reached.wait(10)
    with pytest.raises(OstlerError) as caught:
        place.site.record(lambda: vms.migrate(place.vm, "alice", host=place.site.host("h1")))
    assert caught.value.reason == "RESOURCE_BUSY"
    go_on.set()
    assert outcome(place.engine, operation) == OK


def test_a_vm_that_has_moved_back_keeps_its_definition(place: Place) -> None:
    place.do(lambda: vms.migrate(place.vm, "alice", host=place.site.host("h1")))
    assert delete_left(place.left) is None
    place.do(lambda: vms.stop(place.vm, "alice", 0, True))
    assert delete_left(place.left) is None, "it is stopped here"


@pytest.mark.parametrize("values", [{"state": VmState.FAILED}, {"state": VmState.MIGRATING}, {"destination": "h1"}])
def test_a_vm_that_may_be_on_the_host_keeps_its_definition(place: Place, values: dict[str, object]) -> None:
    ids = {"destination": place.left.host_id}
    with transaction():
        Vm.update(**{name: ids.get(name, value) for name, value in values.items()}).execute()
    assert delete_left(place.left) is None


def test_a_vm_that_was_last_seen_running_on_the_host_keeps_its_definition(place: Place) -> None:
    with transaction():
        VmSighting.create(vm=place.vm, host=place.left.host_id)
    assert delete_left(place.left) is None


@pytest.mark.parametrize("state", [HostState.FENCED, HostState.DISCONNECTED])
def test_a_host_that_is_not_up_is_left_alone(place: Place, state: HostState) -> None:
    """One that was fenced gets its definitions deleted before it is given back."""
    with transaction():
        Host.update(state=state).where(Host.name == "h1").execute()
    assert delete_left(place.left) is None


ROW = VmRow("v1", "web", "acc", VmState.RUNNING, PowerState.RUNNING, "", home="B", quiet=True)


def host(host_id: str, power_state: str = "", *, heard: bool = True, managed: bool = True) -> HostView:
    seen = {"v1": Seen("v1", "web", PowerState(power_state), managed=managed)} if power_state else {}
    return HostView(host_id, f"host-{host_id}", heard, not heard, seen)


@pytest.mark.parametrize(
    ("row", "here", "home", "is_left"),
    [
        (ROW, host("A", "stopped"), host("B", "running"), True),
        (ROW, host("A", "stopped"), host("B", "paused"), True),
        (ROW._replace(state=VmState.STOPPED), host("A", "stopped"), host("B", "stopped"), True),
        (ROW._replace(quiet=False), host("A", "stopped"), host("B", "running"), False),
        (ROW._replace(state=VmState.FAILED), host("A", "stopped"), host("B", "running"), False),
        (ROW._replace(home=""), host("A", "stopped"), host("B", "running"), False),
        (ROW._replace(home="A"), host("A", "stopped"), host("B", "running"), False),
        (ROW._replace(seen_on=frozenset({"A"})), host("A", "stopped"), host("B", "running"), False),
        (ROW, host("A", "stopped"), host("B", "stopped"), False),
        (ROW, host("A", "stopped"), host("B", ""), False),
        (ROW, host("A", "stopped"), host("B", "running", heard=False), False),
        (ROW, host("A", "stopped", heard=False), host("B", "running"), False),
        (ROW, host("A", "stopped", managed=False), host("B", "running"), False),
        (ROW, host("A", "paused"), host("B", "running"), False),
        (ROW, host("A", "running"), host("B", "running"), False),
        (ROW, host("A", "crashed"), host("B", "running"), False),
    ],
)
def test_what_counts_as_left(row: VmRow, here: HostView, home: HostView, is_left: bool) -> None:
    found = left_elsewhere([row], {"A": here, "B": home}, {"A", "B"})
    assert found == ([Left("A", "v1", "web")] if is_left else [])


def test_of_vms_without_a_row_only_those_that_do_not_run_count() -> None:
    assert left_of_strays(host("A", "stopped"), ["v1", "v2"]) == [Left("A", "v1", "web")]
    assert left_of_strays(host("A", "running"), ["v1"]) == []


def test_one_is_tried_again_only_after_a_while_and_few_at_once() -> None:
    found = [Left("A", f"v{number}", "web") for number in range(10)]
    busy, tried, now = {"v0"}, list[str](), 0.0

    def delete(left: Left) -> object | None:
        tried.append(left.vm_id)
        return None if left.vm_id in busy else object()

    leftovers = Leftovers(delete, lambda: now)
    leftovers.delete(found)
    assert tried == [left.vm_id for left in found[:8]]
    tried.clear()
    busy.clear()
    leftovers.delete(found)
    assert tried == ["v8", "v9"]
    tried.clear()
    leftovers.delete(found)
    assert tried == []
    now = 11.0
    leftovers.delete(found)
    assert tried == ["v0"], "it was busy"
    tried.clear()
    now = 61.0
    leftovers.delete(found[1:2])
    assert tried == ["v1"]
