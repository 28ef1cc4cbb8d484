"""Emulated TPMs of VMs: a key for each, which hosts get for a run only, and which goes with its VM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ostler_common.errors import OstlerError
from ostler_common.hypervisors import Function
from ostler_control import vm_backups, vms
from ostler_control.database import session, transaction
from ostler_control.keys import versions
from ostler_control.models import Backup, HostFunction, Operation, Passphrase, Template, Vm, VmTpm
from ostler_control.operations import Engine
from ostler_control.templates import tpms
from ostler_control.vm_backups.firmware_state import forget

from tests import databases
from tests.fakes.working_agent import Fault
from tests.sites import Site, outcome, site_at_work

OK = ("succeeded", "")


class Place:
    """A site with one running VM that has a TPM."""

    def __init__(self, site: Site, engine: Engine) -> None:
        self.site, self.engine = site, engine
        self.do(lambda: site.new_vm("web", offering=site.plain, tpm=True))

    def run(self, record: Callable[[], Operation]) -> tuple[str, str]:
        return outcome(self.engine, self.site.record(record))

    def do(self, record: Callable[[], Operation]) -> None:
        assert self.run(record) == OK

    def vm(self, name: str = "web") -> Vm:
        with session():
            return Vm.get(Vm.name == name)

    def opens(self, name: str = "web") -> bytes:
        """The passphrase of its TPM."""
        with session():
            row = VmTpm.select().join(Vm).where(Vm.name == name).get()
        return self.site.keys.open(row).reveal()

    def states(self) -> dict[str, bytes]:
        """By host what opens the state of the VM's TPM there."""
        return {
            name: host.tpms[self.vm().id].passphrase
            for name, host in self.site.hosts.items()
            if self.vm().id in host.tpms
        }

    def reason(self, record: Callable[[], Operation]) -> str:
        with pytest.raises(OstlerError) as caught:
            self.site.record(record)
        return caught.value.reason


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with databases.bound(f"sqlite:///{tmp_path}/ostler.sqlite") as url, site_at_work(url, tmp_path) as (site, engine):
        yield Place(site, engine)


def test_a_host_gets_the_key_for_a_run(place: Place) -> None:
    vm = place.vm()
    host = place.site.at(vm.host_id)
    with session():
        key_id = VmTpm.get().passphrase_id
    assert place.states() == {host.name: place.opens()}
    assert key_id in host.secrets
    place.do(lambda: vms.stop(place.vm(), "alice", 0, True))
    assert key_id not in host.secrets
    assert place.states() == {host.name: place.opens()}, "it keeps its state where it ran"
    place.do(lambda: vms.start(place.vm(), "alice"))
    assert place.states() == {host.name: place.opens()}
    with session():
        place.site.check_whole()


def test_it_moves_live_with_its_key(place: Place) -> None:
    source = place.site.at(place.vm().host_id)
    place.do(lambda: vms.migrate(place.vm(), "alice"))
    destination = place.site.at(place.vm().host_id)
    assert destination is not source
    with session():
        key_id = VmTpm.get().passphrase_id
    assert (key_id in source.secrets, key_id in destination.secrets) == (False, True)


def test_a_migration_that_failed_leaves_no_key_behind(place: Place) -> None:
    source = place.site.at(place.vm().host_id)
    source.fail("MigrateVm", Fault(OstlerError("no", "MIGRATION_FAILED")))
    assert place.run(lambda: vms.migrate(place.vm(), "alice"))[0] == "failed"
    with session():
        key_id = VmTpm.get().passphrase_id
    assert [name for name, host in place.site.hosts.items() if key_id in host.secrets] == [source.name]


def test_a_clone_gets_a_tpm_of_its_own(place: Place) -> None:
    place.do(lambda: vms.stop(place.vm(), "alice", 0, True))
    place.do(lambda: vms.clone(place.vm(), "web-2", "alice", place.site.keys))
    assert place.opens("web-2") != place.opens("web")
    place.do(lambda: vms.start(place.vm("web-2"), "alice"))
    with session():
        place.site.check_whole()


def test_the_vm_of_a_backup_that_has_no_state_gets_a_new_tpm(place: Place) -> None:
    place.site.add_backup_store()
    place.do(lambda: place.site.new_vm("db", tpm=True))
    place.do(lambda: vm_backups.create(vm_backups.NewBackup(place.vm("db"), "monday"), "alice", place.site.keys))
    with transaction():
        forget(Backup.get().id)
        wanted = vm_backups.NewVmRestore(Backup.get(), "db-2")
    place.do(lambda: vm_backups.restore_vm(wanted, "alice", place.site.keys))
    assert place.opens("db-2") != place.opens("db")


def test_its_key_goes_with_it(place: Place) -> None:
    place.do(lambda: vms.delete(place.vm(), "alice", True))
    with session():
        assert (VmTpm.select().count(), Passphrase.select().count()) == (0, 0)
    assert all(not host.tpms for host in place.site.hosts.values())


def test_hosts_without_swtpm_are_refused(place: Place) -> None:
    with session():
        HostFunction.delete().where(HostFunction.function == Function.TPM).execute()
    with pytest.raises(OstlerError) as caught:
        place.site.record(lambda: place.site.new_vm("db", offering=place.site.plain, tpm=True))
    assert caught.value.reason == "NO_FEASIBLE_HOST"
    assert "3 lack a TPM" in caught.value.message
    assert place.reason(lambda: vms.migrate(place.vm(), "alice")) == "NO_FEASIBLE_HOST"
    place.do(lambda: place.site.new_vm("plain", offering=place.site.plain))
    with session():
        assert VmTpm.select().count() == 1, "a refused VM leaves no key"


def test_it_is_not_handed_back_to_libvirt(place: Place) -> None:
    assert place.reason(lambda: vms.unmanage(place.vm(), "alice")) == "TPM_ENCRYPTED"


def test_verify_names_the_tpm_whose_key_does_not_open(place: Place) -> None:
    with session():
        Passphrase.update(sealed=b"x" * 60).where(Passphrase.id == VmTpm.get().passphrase_id).execute()
    _, broken = versions.verify(place.site.keys.provider)
    assert [(one.type, one.name) for one in broken] == [("TPM of VM", "web")]


def test_a_vm_gets_a_tpm_where_its_template_says_so(place: Place) -> None:
    with transaction():
        tpms.add(Template.get())
    place.do(lambda: place.site.new_vm("given", offering=place.site.plain))
    host = place.site.at(place.vm("given").host_id)
    assert host.tpms[place.vm("given").id].passphrase == place.opens("given")
    assert place.opens("given") != place.opens("web"), "each has a key of its own"
    with transaction():
        HostFunction.delete().where(HostFunction.function == Function.TPM).execute()
    assert place.reason(lambda: place.site.new_vm("late", offering=place.site.plain)) in (
        "NO_FEASIBLE_HOST",
        "FUNCTION_NOT_SUPPORTED",
    )
