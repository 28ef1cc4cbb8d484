"""Another firmware for VMs that exist, and TPMs that are added and destroyed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ostler.types.v1.vm_pb2 import FirmwareState
from ostler_common.errors import AbortedError, FailedPreconditionError
from ostler_common.hypervisors import Function
from ostler_control import vm_backups, vm_snapshots, vms
from ostler_control.database import session, transaction
from ostler_control.drs_plans import snapshot
from ostler_control.models import Cluster, Host, HostFunction, HypervisorType, Passphrase, Template, VmTpm
from ostler_control.states import VmState
from ostler_control.vm_snapshots import NewVmSnapshot
from ostler_control.vms import firmware_states

from tests import databases
from tests.fakes.working_agent import Fault
from tests.sites import site_at_work
from tests.unit.control.test_backup_firmware_states import BackedUp


class Changed(BackedUp):
    """A VM with a TPM."""

    def change(self, firmware: str = "", tpm: bool | None = None) -> None:
        self.do(lambda: vms.set_firmware(self.vm(), "alice", firmware, tpm))

    def refused(self, firmware: str = "", tpm: bool | None = None) -> str:
        return self.reason(lambda: vms.set_firmware(self.vm(), "alice", firmware, tpm))

    def next(self) -> FirmwareState:
        return firmware_states.next_of(self.vm().id, self.site.keys)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Changed]:
    with databases.bound(f"sqlite:///{tmp_path}/ostler.sqlite") as url, site_at_work(url, tmp_path) as (site, engine):
        found = Changed(site, engine)
        found.stop()
        found.start("h1")  # h3 cannot back up
        yield found
        with session():
            site.check_whole()


def test_a_tpm_is_destroyed_with_its_key_and_state_and_the_next_is_new(place: Changed) -> None:
    place.store(b"secret")
    home = place.host()
    assert place.refused(tpm=False) == "VM_STATE"
    place.stop()
    key = place.opens()
    place.change(tpm=False)
    with session():
        assert VmTpm.select().count() == 0
        assert Passphrase.select().count() == 0, "the VM's disk is plain, and no copy is left"
    assert place.vm().id not in home.tpms
    place.start(home.name)
    place.stop()
    place.change(tpm=True)
    assert place.opens() != key
    place.start(home.name)
    assert place.stored() == b""


def test_another_firmware_keeps_the_tpm_and_forgets_the_variables(place: Changed) -> None:
    place.store(b"secret")
    place.stop()
    with transaction():
        state = FirmwareState(tpm=place.next().tpm, variables=b"old")
        firmware_states.set_next(place.vm().id, state.SerializeToString(), place.site.keys)
    place.change("uefi")
    assert (place.vm().firmware, place.next().variables) == ("uefi", b"")
    place.start(place.other())
    assert place.stored() == b"secret"


def test_what_stays_is_kept_when_only_the_tpm_goes(place: Changed) -> None:
    place.stop()
    place.change("uefi")
    with transaction():
        state = FirmwareState(tpm=place.next().tpm, variables=b"boot entries")
        firmware_states.set_next(place.vm().id, state.SerializeToString(), place.site.keys)
    place.change("uefi", tpm=False)
    assert (place.next().variables, place.next().tpm) == (b"boot entries", b"")


def test_the_same_again_changes_nothing(place: Changed) -> None:
    place.store(b"secret")
    place.stop()
    place.change("bios", tpm=True)
    place.start()
    assert place.stored() == b"secret"


def test_a_vm_with_snapshots_is_refused(place: Changed) -> None:
    place.do(lambda: vm_snapshots.create(NewVmSnapshot(place.vm(), "monday"), "alice", place.site.keys))
    place.stop()
    assert place.refused(tpm=False) == "VM_SNAPSHOTS_EXIST"
    assert place.refused("uefi") == "VM_SNAPSHOTS_EXIST"


def test_a_silent_last_host_is_waited_for(place: Changed) -> None:
    place.stop()
    home = place.host().name
    place.site.silence(home)
    assert place.refused(tpm=False) == "HOST_SILENT"
    place.site.revive(home)
    place.change(tpm=False)


def test_a_host_that_lost_the_state_costs_nothing(place: Changed) -> None:
    place.store(b"secret")
    place.stop()
    place.host().tpms.clear()
    failed = ("failed", "FIRMWARE_STATE_OLD")
    assert place.run(lambda: vms.set_firmware(place.vm(), "alice", "uefi")) == failed
    assert (place.vm().firmware, place.vm().state) == ("bios", VmState.STOPPED)
    place.start()
    assert place.vm().operation_id == ""


def test_a_host_that_does_not_delete_leaves_the_vm_as_it_was(place: Changed) -> None:
    place.store(b"secret")
    place.stop()
    place.host().fail("DeleteVm", Fault(AbortedError("no", "BROKEN")))
    assert place.run(lambda: vms.set_firmware(place.vm(), "alice", "", False)) == ("failed", "BROKEN")
    place.start()
    assert place.stored() == b"secret"


def test_drivers_without_tpms_are_refused(place: Changed) -> None:
    place.stop()
    place.change(tpm=False)
    with transaction():
        HypervisorType.delete().execute()
        HypervisorType.create(type=place.vm().hypervisor_type, functions=",".join(set(Function) - {Function.TPM}))
    assert place.refused(tpm=True) == "FUNCTION_NOT_SUPPORTED"


def test_a_backup_of_the_old_tpm_leaves_the_new_one(place: Changed) -> None:
    with transaction():
        place.site.add_backup_store()
    place.store(b"then")
    backup = place.back_up("monday")
    place.stop()
    place.change(tpm=False)
    place.change(tpm=True)
    place.start("h1")
    place.store(b"new")
    place.stop()
    place.over(backup)
    place.start("h2")
    assert place.stored() == b"new"
    place.do(lambda: vm_backups.delete(backup, "alice"))


def test_a_reinstall_never_boots_with_the_variables_of_another_firmware(place: Changed) -> None:
    """The variables of a firmware without secure boot have no keys, so that nothing would be refused."""
    place.stop()
    place.change("uefi", tpm=False)
    with transaction():
        Template.update(firmware="uefi_secure_boot").execute()
    assert place.reason(lambda: vms.reinstall(place.vm(), "alice", place.site.keys)) == "TEMPLATE_FIRMWARE"
    place.change("uefi_secure_boot")
    place.do(lambda: vms.reinstall(place.vm(), "alice", place.site.keys))


def test_a_vm_with_secure_boot_goes_only_where_a_host_has_proved_it(place: Changed) -> None:
    place.stop()
    place.change("uefi_secure_boot")
    with transaction():
        others = Host.select(Host.id).where(Host.name != "h2")
        lacking = HostFunction.function == Function.SECURE_BOOT
        HostFunction.delete().where(lacking, HostFunction.host.in_(others)).execute()
    assert place.reason(lambda: vms.start(place.vm(), "alice", host=place.site.host("h1"))) == "NO_FEASIBLE_HOST"
    place.do(lambda: vms.start(place.vm(), "alice"))
    assert place.host().name == "h2", "its last host was another"
    with session(), pytest.raises(FailedPreconditionError) as caught:
        place.site.record(lambda: vms.migrate(place.vm(), "alice"))
    assert caught.value.metadata["LACKS_SECURE_BOOT"] == "2"
    assert "2 lack secure boot" in caught.value.message
    with session():
        table = snapshot.take(Cluster.get()).snapshot
    assert [vm.secure_boot for vm in table.vms] == [True]
    assert {host.name: host.secure_boot for host in table.hosts} == {"h1": False, "h2": True, "h3": False}
