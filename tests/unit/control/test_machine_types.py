"""A VM keeps the machine type that it first started with, until it is upgraded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ostler_common.errors import OstlerError
from ostler_control import vm_backups, vms
from ostler_control.database import session
from ostler_control.models import Backup, Event, Operation, Vm, VmMachine
from ostler_control.operations import Engine

from tests import databases
from tests.sites import Site, outcome, site_at_work

OK = ("succeeded", "")


class Place:
    """A site with one running VM, made when QEMU was at 7.2; it is at 9.0 now."""

    def __init__(self, site: Site, engine: Engine) -> None:
        self.site, self.engine = site, engine
        self.do(lambda: site.new_vm("web", offering=site.plain))
        for host in site.hosts.values():
            host.machine = "pc-q35-9.0"

    def do(self, record: Callable[[], Operation]) -> None:
        assert outcome(self.engine, self.site.record(record)) == OK

    def vm(self, name: str = "web") -> Vm:
        with session():
            return Vm.get(Vm.name == name)

    def restart(self) -> None:
        self.do(lambda: vms.stop(self.vm(), "alice", 0, True))
        self.do(lambda: vms.start(self.vm(), "alice"))

    def runs_with(self) -> set[str]:
        """The machine type that each VM was started with on its host; empty: the newest."""
        return {machine.spec.machine for host in self.site.hosts.values() for machine in host.vms.values()}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with databases.bound(f"sqlite:///{tmp_path}/ostler.sqlite") as url, site_at_work(url, tmp_path) as (site, engine):
        yield Place(site, engine)


def kept() -> dict[str, str]:
    with session():
        return {row.vm.name: row.machine for row in VmMachine.select()}


def test_it_stays_through_an_upgrade_of_its_host(place: Place) -> None:
    assert (kept(), place.runs_with()) == ({"web": "pc-q35-7.2"}, {""})
    place.restart()
    assert (kept(), place.runs_with()) == ({"web": "pc-q35-7.2"}, {"pc-q35-7.2"})


def test_an_upgrade_takes_the_newest_at_the_next_start(place: Place) -> None:
    with pytest.raises(OstlerError) as caught, session():
        vms.upgrade_machine(place.vm(), "alice")
    assert caught.value.reason == "VM_STATE"
    place.do(lambda: vms.stop(place.vm(), "alice", 0, True))
    with session():
        for _ in range(2):
            vms.upgrade_machine(place.vm(), "alice")
        messages = [row.message for row in Event.select().where(Event.type == "vm.upgrade-machine")]
    assert messages == ["it had pc-q35-7.2", ""]
    assert kept() == {}
    place.do(lambda: vms.start(place.vm(), "alice"))
    assert (kept(), place.runs_with()) == ({"web": "pc-q35-9.0"}, {""})


def test_a_clone_has_the_hardware_of_its_source(place: Place) -> None:
    place.do(lambda: vms.stop(place.vm(), "alice", 0, True))
    place.do(lambda: vms.clone(place.vm(), "web-2", "alice", place.site.keys))
    assert kept() == {"web": "pc-q35-7.2", "web-2": "pc-q35-7.2"}


def test_a_restored_vm_has_the_hardware_that_was_backed_up(place: Place) -> None:
    place.site.add_backup_store()
    place.do(lambda: place.site.new_vm("db", host=place.site.host("h1")))
    place.do(lambda: vm_backups.create(vm_backups.NewBackup(place.vm("db"), "monday"), "alice", place.site.keys))
    place.do(lambda: vms.stop(place.vm("db"), "alice", 0, True))
    with session():
        vms.upgrade_machine(place.vm("db"), "alice")
        restored = vm_backups.NewVmRestore(Backup.get(), "db-2")
    place.do(lambda: vm_backups.restore_vm(restored, "alice", place.site.keys))
    assert kept() == {"web": "pc-q35-7.2", "db-2": "pc-q35-9.0"}
