"""What VMs' firmware keeps follows them: to other hosts, after the loss of one, and back to the time of a snapshot."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest
from ostler_common.errors import AbortedError, UnavailableError
from ostler_common.hypervisors import Function
from ostler_control import vm_snapshots, vms
from ostler_control.database import session, transaction
from ostler_control.models import Event, Host, Operation, Vm, VmFirmwareState, VmSnapshot, VmSnapshotFirmwareState, now
from ostler_control.scheduling import capacity
from ostler_control.states import PowerState, VmState
from ostler_control.vm_snapshots import NewVmSnapshot
from ostler_control.vms.rows import set_state

from tests import databases
from tests.fakes.working_agent import FakeHost, Fault
from tests.sites import outcome, site_at_work
from tests.unit.control.test_vm_tpm import OK, Place


class Moved(Place):
    """A VM with a TPM, of which it is told what its guest stores there."""

    def store(self, content: bytes) -> None:
        self.host().tpms[self.vm().id].content = content

    def host(self) -> FakeHost:
        vm = self.vm()
        return self.site.at(vm.host_id or vm.last_host_id)

    def stored(self) -> bytes:
        return self.host().tpms[self.vm().id].content

    def stop(self) -> None:
        self.do(lambda: vms.stop(self.vm(), "alice", 0, True))

    def start(self, host: str = "") -> None:
        self.do(lambda: vms.start(self.vm(), "alice", self.site.host(host) if host else None))

    def other(self) -> str:
        """The name of a host that it is not on."""
        return "h2" if self.host().name == "h1" else "h1"

    @staticmethod
    def other_than(host: FakeHost) -> str:
        return "h2" if host.name == "h1" else "h1"

    def shut_down(self, name: str = "web") -> None:
        """Its guest does, and the fleet has seen it."""
        vm = self.vm(name)
        self.site.at(vm.host_id).vms[vm.id].running = False
        with transaction():
            Vm.update(power_state=PowerState.STOPPED).where(Vm.id == vm.id).execute()

    def kept(self) -> list[tuple[str, str]]:
        """How the copies of guests that shut down by themselves have ended so far."""
        vms.keep_of_ended(self.site.keys)
        with session():
            found = list(Operation.select().where(Operation.verb == "vm.keep-firmware-state"))
        return [outcome(self.engine, operation) for operation in found]

    def events(self) -> list[str]:
        with session():
            return [row.message for row in Event.select().where(Event.type == "vm.firmware-state")]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Moved]:
    with databases.bound(f"sqlite:///{tmp_path}/ostler.sqlite") as url, site_at_work(url, tmp_path) as (site, engine):
        yield Moved(site, engine)


def test_it_follows_a_stopped_vm_to_another_host(place: Moved) -> None:
    first, second = place.host(), place.other()
    place.store(b"one")
    place.stop()
    place.start(second)
    assert place.stored() == b"one"
    assert place.vm().id not in first.tpms, "nothing of it stays there"
    place.store(b"two")
    place.stop()
    place.start(first.name)
    assert place.stored() == b"two"
    assert place.events() == []
    with session():
        place.site.check_whole()


@pytest.mark.parametrize("runs", [True, False])
def test_a_clone_gets_copies_when_it_is_asked_for_them(place: Moved, runs: bool) -> None:
    place.store(b"one")
    if not runs:
        place.stop()
    key = place.opens()
    place.do(lambda: vms.clone(place.vm(), "twin", "alice", place.site.keys, copy_firmware_state=True))
    place.do(lambda: vms.clone(place.vm(), "cousin", "alice", place.site.keys))
    assert (place.opens("twin") == key, place.opens("cousin") == key) == (True, False)
    place.do(lambda: vms.start(place.vm("twin"), "alice"))
    place.do(lambda: vms.start(place.vm("cousin"), "alice"))
    for name, stored in (("twin", b"one"), ("cousin", b"")):
        vm = place.vm(name)
        assert place.site.at(vm.host_id).tpms[vm.id].content == stored
    place.do(lambda: vms.delete(place.vm("twin"), "alice", True))
    assert place.opens() == key, "the key of the copy is a copy, too"


def test_a_clone_does_not_get_an_old_copy(place: Moved) -> None:
    place.stop()
    place.host().fail("ReadFirmwareState", Fault(UnavailableError("no", "HOST_UNREACHABLE")))
    state, why = place.run(lambda: vms.clone(place.vm(), "twin", "alice", place.site.keys, copy_firmware_state=True))
    assert (state, "FIRMWARE_STATE_OLD" in why) == ("failed", True)


def test_a_guest_that_shut_down_by_itself_loses_nothing(place: Moved) -> None:
    """Nobody took a copy at its end: its last host is asked when it leaves."""
    place.stop()
    place.store(b"late")
    place.start(place.other())
    assert place.stored() == b"late"


def test_a_guest_that_shut_down_by_itself_is_copied_once(place: Moved) -> None:
    """So that the loss of its host does not cost it what it stored last."""
    place.store(b"late")
    host = place.host()
    place.shut_down()
    place.site.silence(host.name)
    assert place.kept() == [], "a host that is not heard is not asked"
    place.site.revive(host.name)
    assert place.kept() == [OK]
    assert place.kept() == [OK], "once for each run"
    place.site.silence(host.name)
    with transaction():
        _stopped(place)
    place.start(place.other_than(host))
    assert place.stored() == b"late"


def test_a_guest_that_shut_down_again_is_copied_again(place: Moved) -> None:
    place.shut_down()
    assert place.kept() == [OK]
    place.start()
    assert place.kept() == [OK], "it runs"
    place.store(b"second run")
    place.shut_down()
    place.host().fail("ReadFirmwareState", Fault(UnavailableError("no", "HOST_UNREACHABLE")))
    assert place.kept() == [OK, OK], "a copy that fails leaves the last one"


def test_a_clock_that_was_set_back_copies_no_guest_again(place: Moved) -> None:
    with transaction():
        Vm.update(state_time=now() + datetime.timedelta(days=1)).execute()
    place.shut_down()
    assert place.kept() == [OK]
    assert place.kept() == [OK], "once for each run"


def test_vms_without_such_state_are_left_alone(place: Moved) -> None:
    place.do(lambda: place.site.new_vm("plain", offering=place.site.plain))
    place.shut_down("plain")
    assert place.kept() == []


def test_a_start_that_failed_elsewhere_does_not_cost_it(place: Moved) -> None:
    home, other = place.host(), place.other()
    place.store(b"one")
    place.stop()
    place.site.hosts[other].fail("StartVm", Fault(AbortedError("no", "START_FAILED")))
    assert place.run(lambda: vms.start(place.vm(), "alice", place.site.host(other)))[0] == "failed"
    assert place.vm().id not in home.tpms, "its definition had gone from there"
    place.start(home.name)
    assert place.stored() == b"one"


def test_it_stays_where_the_host_has_it(place: Moved) -> None:
    """A copy in the database never replaces what the last host has."""
    place.stop()
    place.store(b"newer than the copy")
    place.start(place.host().name)
    assert place.stored() == b"newer than the copy"


def test_a_host_that_lost_it_gets_the_copy(place: Moved) -> None:
    place.store(b"one")
    place.stop()
    place.host().tpms.clear()
    place.start(place.host().name)
    assert place.stored() == b"one"


def test_after_the_loss_of_its_host_it_has_the_last_copy_and_an_event_says_so(place: Moved) -> None:
    place.store(b"kept")
    place.stop()
    place.start(place.host().name)
    place.store(b"lost")
    lost, other = place.host().name, place.other()
    place.site.silence(lost)
    with transaction():
        _stopped(place)
    place.start(other)
    assert place.stored() == b"kept"
    (event,) = place.events()
    assert "starts with a copy of" in event


def _stopped(place: Moved) -> None:
    """As HA leaves the VM of a host that is proved off."""
    vm = place.vm()
    capacity.release(vm)
    set_state(vm.id, VmState.STOPPED, power_state=PowerState.ABSENT, last_host=None)


def test_a_new_tpm_is_never_silent(place: Moved) -> None:
    with transaction():
        VmFirmwareState.delete().execute()
        _stopped(place)
    for host in place.site.hosts.values():
        host.vms.clear()
        host.tpms.clear()
    place.start()
    (event,) = place.events()
    assert "new, empty one" in event


def test_a_live_migration_is_followed_by_a_copy(place: Moved) -> None:
    place.store(b"moved")
    place.do(lambda: vms.migrate(place.vm(), "alice"))
    assert place.stored() == b"moved"
    for host in place.site.hosts.values():
        host.tpms.clear()
    place.do(lambda: vms.stop(place.vm(), "alice", 0, True))
    place.start(place.other())
    assert place.stored() == b"moved"


def test_hosts_whose_agents_cannot_are_left_alone(place: Moved) -> None:
    functions = ",".join(sorted(set(Function) - {Function.FIRMWARE_STATE}))
    with transaction():
        Host.update(functions=functions).execute()
        VmFirmwareState.delete().execute()
    place.stop()
    place.start()
    with session():
        assert VmFirmwareState.select().count() == 0


def test_a_snapshot_keeps_it_and_a_revert_brings_it_back(place: Moved) -> None:
    place.store(b"then")
    place.do(lambda: vm_snapshots.create(NewVmSnapshot(place.vm(), "monday"), "alice", place.site.keys))
    place.store(b"now")
    place.stop()
    with session():
        row = VmSnapshot.get()
    place.do(lambda: vm_snapshots.revert(row, "alice", place.site.keys))
    place.start(place.host().name)
    assert place.stored() == b"then"
    place.store(b"after")
    place.stop()
    place.start(place.host().name)
    assert place.stored() == b"after", "once"
    place.do(lambda: vm_snapshots.delete(VmSnapshot.get(), "alice"))
    with session():
        assert VmSnapshotFirmwareState.select().count() == 0
        place.site.check_whole()


def test_a_reverted_vm_has_it_on_another_host_too(place: Moved) -> None:
    place.store(b"then")
    place.do(lambda: vm_snapshots.create(NewVmSnapshot(place.vm(), "monday"), "alice", place.site.keys))
    place.store(b"now")
    place.stop()
    with session():
        row = VmSnapshot.get()
    place.do(lambda: vm_snapshots.revert(row, "alice", place.site.keys))
    place.do(lambda: vm_snapshots.create(NewVmSnapshot(place.vm(), "tuesday"), "alice", place.site.keys))
    place.start(place.other())
    assert place.stored() == b"then"
    place.stop()
    with session():
        row = VmSnapshot.get(VmSnapshot.name == "tuesday")
    place.do(lambda: vm_snapshots.revert(row, "alice", place.site.keys))
    place.start(place.other())
    assert place.stored() == b"then", "not what the host had, which no start has seen"


@pytest.mark.parametrize("memory", [True, False])
def test_a_revert_whose_copy_is_damaged_leaves_the_vm_stopped_and_no_file(place: Moved, memory: bool) -> None:
    place.stop()
    place.start("h1")  # memory is always encrypted, and h3 cannot do that
    place.do(lambda: vm_snapshots.create(NewVmSnapshot(place.vm(), "monday", memory), "alice", place.site.keys))
    place.stop()
    with transaction():
        VmSnapshotFirmwareState.update(sealed=b"damaged").execute()
        row = VmSnapshot.get()
    assert place.run(lambda: vm_snapshots.revert(row, "alice", place.site.keys)) == ("failed", "SEAL_BROKEN")
    assert (place.vm().state, place.vm().operation_id, place.vm().host_id) == (VmState.STOPPED, "", None)
    with session():
        place.site.check_whole()
    place.start()


def test_deleting_a_vm_deletes_the_copy(place: Moved) -> None:
    place.do(lambda: vms.delete(place.vm(), "alice", True))
    with session():
        assert VmFirmwareState.select().count() == 0
        place.site.check_whole()
