"""VMs and volumes from request to end, against agents that work in memory."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from ostler.control.v1 import operation_pb2, vm_pb2
from ostler_common.errors import FailedPreconditionError, OstlerError
from ostler_control import vms, volumes
from ostler_control.api.convert import vms as convert_vms
from ostler_control.api.start_operation import start_operation
from ostler_control.caller import Caller, Role
from ostler_control.database import session, transaction
from ostler_control.models import (
    Event,
    Host,
    HostFunction,
    Network,
    Operation,
    Passphrase,
    Vm,
    VmSighting,
    Volume,
    Zone,
    now,
)
from ostler_control.operations import Engine
from ostler_control.vms import wanted
from ostler_control.vms.create_facts import find_facts

from tests.fakes.working_agent import Fault, wait_until
from tests.sites import GIB, MIB, Site, outcome

OK = ("succeeded", "")


def refusal(site: Site, make: Callable[[], Operation]) -> str:
    """The reason for which a request is refused; nothing has changed then."""
    before = (Operation.select().count(), Vm.select().count(), Volume.select().count(), Passphrase.select().count())
    with pytest.raises(OstlerError) as caught:
        site.record(make)
    after = (Operation.select().count(), Vm.select().count(), Volume.select().count(), Passphrase.select().count())
    assert before == after
    return caught.value.reason


def running(site: Site, engine: Engine, name: str, **wanted: Any) -> Any:
    operation = site.record(lambda: site.new_vm(name, **wanted))
    assert outcome(engine, operation) == OK
    return Vm.get_by_id(operation.resource_id)


def data_volume(site: Site, engine: Engine, name: str, kind: str = "encrypted", **wanted: Any) -> Any:
    new = volumes.NewVolume(name, site.account, site.disks[kind], **{"size_bytes": 4 * MIB, **wanted})
    operation = site.record(lambda: volumes.create(new, "alice", site.keys))
    assert outcome(engine, operation) == OK
    return Volume.get_by_id(operation.resource_id)


def fresh(row: Any) -> Any:
    return type(row).get_by_id(row.id)


def test_what_a_vm_shows_of_its_disks_is_the_same_on_every_database(site: Site, engine: Engine) -> None:
    vm = running(site, engine, "web")
    other = running(site, engine, "other", offering=site.plain)
    for asked in ([vm.id], [other.id], [vm.id, other.id]):
        shown = {vm_id: disks[0].encrypted for vm_id, disks in convert_vms._disks(asked).items()}
        assert all(type(encrypted) is bool for encrypted in shown.values())
        assert shown == {vm_id: vm_id == vm.id for vm_id in asked}


@pytest.mark.parametrize("since", ["before", "meanwhile"])
def test_the_root_disk_takes_no_name_that_is_taken(
    site: Site, engine: Engine, monkeypatch: pytest.MonkeyPatch, since: str
) -> None:
    taken = data_volume(site, engine, "web-root")
    if since == "meanwhile":
        monkeypatch.setattr(wanted, "find_facts", lambda *of: find_facts(*of)._replace(root_name_taken=False))
    vm = running(site, engine, "web")
    [root] = Volume.select().where(Volume.vm_id == vm.id)
    assert re.fullmatch("web-root-[0-9a-f]{6}", root.name)
    assert fresh(taken).vm_id == ""


def test_a_vm_is_placed_encrypted_and_started(site: Site, engine: Engine) -> None:
    vm = running(site, engine, "web", nics=[vms.NewNic(site.network)])
    assert (vm.state, vm.power_state, vm.host.name in ("h1", "h2")) == ("running", "running", True)
    root: Any = Volume.get(Volume.vm_id == vm.id)
    assert (root.name, root.root, root.slot, root.state, root.encrypt_format) == ("web-root", True, 0, "ready", "luks")
    assert root.pool.name == "shared"
    file = site.fleet.pools[root.pool_id][root.id]
    assert (file.passphrase, file.key_id) == (site.keys.open(root).reveal(), root.passphrase_id)
    spec = site.at(vm.host_id).vms[vm.id].spec
    assert (spec.disks[0].boot, spec.nics[0].bridge, spec.nics[0].mac[:9]) == (True, "br0", "52:54:00:")
    outcomes = [event.outcome for event in Event.select().where(Event.resource_id == vm.id).order_by(Event.create_time)]
    assert outcomes == ["started", "succeeded"]
    site.check_whole()


def test_a_vm_made_stopped_has_no_place_and_starts_later(site: Site, engine: Engine) -> None:
    vm = running(site, engine, "later", stopped=True)
    assert (vm.state, vm.host_id, vm.last_host_id is not None) == ("stopped", None, True)
    site.check_whole()
    assert outcome(engine, site.record(lambda: vms.start(vm, "alice"))) == OK
    assert (fresh(vm).state, fresh(vm).host_id) == ("running", vm.last_host_id)
    site.check_whole()


def test_a_vm_that_fits_nowhere_changes_nothing(site: Site) -> None:
    assert refusal(site, lambda: site.new_vm("there", host=site.host("h3"))) == "NO_FEASIBLE_HOST"
    assert refusal(site, lambda: site.new_vm("huge", root_size_bytes=1)) == "INVALID_SIZE"
    assert refusal(site, lambda: site.new_vm("bad name!")) == "INVALID_NAME"
    nowhere = Network.create(name="nowhere", zone=site.network.zone, bridge="br7", all_accounts=True)
    assert refusal(site, lambda: site.new_vm("nic", nics=[vms.NewNic(nowhere)])) == "NO_FEASIBLE_HOST"
    theirs = Network.create(name="theirs", zone=site.network.zone, bridge="br0")
    assert refusal(site, lambda: site.new_vm("nic", nics=[vms.NewNic(theirs)])) == "NETWORK_NOT_ALLOWED"
    abroad = Network.create(name="abroad", zone=Zone.create(name="far"), bridge="br0", all_accounts=True)
    assert refusal(site, lambda: site.new_vm("nic", nics=[vms.NewNic(abroad)])) == "NO_FEASIBLE_HOST"
    HostFunction.delete().execute()
    assert refusal(site, lambda: site.new_vm("nic", nics=[vms.NewNic(site.network)])) == "NO_FEASIBLE_HOST"
    site.check_whole()


def test_a_plain_vm_may_go_where_encryption_is_not_proved(site: Site, engine: Engine) -> None:
    vm = running(site, engine, "plain", offering=site.plain, host=site.host("h3"))
    assert vm.host.name == "h3"
    assert Passphrase.select().count() == 0
    volume = data_volume(site, engine, "secret")
    with pytest.raises(FailedPreconditionError) as caught:
        site.record(lambda: volumes.attach(volume, vm, "alice"))
    assert caught.value.reason == "LACKS_VOLUME_ENCRYPTION"
    assert "h3" in caught.value.message
    assert "no luks driver" in caught.value.message


@pytest.mark.parametrize("method", ["CreateVolume", "StartVm"])
@pytest.mark.parametrize("before", [True, False])
def test_a_vm_that_cannot_be_made_leaves_nothing_but_its_row(
    site: Site, engine: Engine, method: str, before: bool
) -> None:
    for fake in site.hosts.values():
        fake.fail(method, Fault(FailedPreconditionError("no", "NO_WAY"), before=before))
    operation = site.record(lambda: site.new_vm("doomed"))
    assert outcome(engine, operation) == ("failed", "NO_WAY")
    vm: Any = Vm.get_by_id(operation.resource_id)
    assert (vm.state, vm.host_id) == ("failed", None)
    assert site.fleet.files() == {}
    assert Passphrase.select().count() == 0
    site.check_whole()


def test_cancelling_a_creation_leaves_nothing_at_all(site: Site, engine: Engine) -> None:
    hold = threading.Event()
    faults = [fake.fail("CreateVolume", Fault(hold=hold)) for fake in site.hosts.values()]
    operation = site.record(lambda: site.new_vm("cancelled"))
    wait_until(lambda: any(fault.reached.is_set() for fault in faults))
    engine.cancel(operation.id)
    assert outcome(engine, operation) == ("cancelled", "CANCELLED")
    assert Vm.select().count() == 0
    assert Volume.select().count() == 0
    site.check_whole()


def test_a_stream_that_breaks_is_taken_up_again(site: Site, engine: Engine) -> None:
    for fake in site.hosts.values():
        fake.calls.clear()
        fake.fail("CreateVolume", Fault(cut=True))
        fake.fail("StartVm", Fault(cut=True))
    vm = running(site, engine, "broken-stream")
    assert site.at(vm.host_id).calls.count("StartVm") == 1
    assert sum(fake.calls.count("CreateVolume") for fake in site.hosts.values()) == 1
    site.check_whole()


def test_a_host_that_dies_in_the_middle_is_said_to_be_unreachable(site: Site, engine: Engine) -> None:
    hold = threading.Event()
    fake = site.hosts["h1"]
    fault = fake.fail("StartVm", Fault(hold=hold))
    operation = site.record(lambda: site.new_vm("orphan", host=site.host("h1")))
    assert fault.reached.wait(20)
    fake.stop()
    hold.set()
    assert outcome(engine, operation) == ("failed", "HOST_UNREACHABLE")
    vm: Any = Vm.get_by_id(operation.resource_id)
    assert (vm.state, vm.host.name) == ("failed", "h1"), "it may run there, so it keeps its place"
    assert Passphrase.select().count() == 1, "its key stays as long as its file may"
    Host.update(state="disconnected").where(Host.name == "h1").execute()
    assert refusal(site, lambda: vms.delete(vm, "alice", force=True)) == "HOST_SILENT"
    site.revive("h1")


def test_stop_start_reboot(site: Site, engine: Engine) -> None:
    vm = running(site, engine, "cycle")
    home = vm.host_id
    assert outcome(engine, site.record(lambda: vms.reboot(vm, "alice"))) == OK
    assert outcome(engine, site.record(lambda: vms.stop(vm, "alice"))) == OK
    vm = fresh(vm)
    assert (vm.state, vm.host_id, vm.last_host_id) == ("stopped", None, home)
    assert refusal(site, lambda: vms.stop(vm, "alice")) == "VM_STATE"
    assert refusal(site, lambda: vms.reboot(vm, "alice")) == "VM_STATE"
    site.check_whole()
    other = next(host for host in Host.select() if host.id != home and host.volume_encryption)
    assert outcome(engine, site.record(lambda: vms.start(vm, "alice", other))) == OK
    assert fresh(vm).host_id == other.id
    assert vm.id not in site.at(home).vms, "its old definition is gone"
    site.check_whole()


def test_a_vm_whose_guest_went_off_starts_where_it_is(site: Site, engine: Engine) -> None:
    vm = running(site, engine, "poweroff")
    site.at(vm.host_id).vms[vm.id].running = False
    Vm.update(power_state="stopped", attention="stopped outside Ostler").where(Vm.id == vm.id).execute()
    assert outcome(engine, site.record(lambda: vms.start(vm, "alice"))) == OK
    assert (fresh(vm).host_id, fresh(vm).attention) == (vm.host_id, "")
    site.check_whole()


def test_a_vm_that_somebody_else_started_is_taken_over_or_stopped(site: Site, engine: Engine) -> None:
    vm = running(site, engine, "foreign")
    assert outcome(engine, site.record(lambda: vms.stop(vm, "alice"))) == OK
    home = fresh(vm).last_host_id
    for verb, state in ((vms.stop, "stopped"), (vms.start, "running")):
        site.at(home).vms[vm.id].running = True
        Vm.update(power_state="running", attention="started outside Ostler").where(Vm.id == vm.id).execute()
        assert refusal(site, lambda: vms.start(vm, "alice", site.host("h3"))) == "VM_STATE"
        assert outcome(engine, site.record(partial(verb, vm, "alice"))) == OK
        assert (fresh(vm).state, fresh(vm).attention) == (state, "")
        site.check_whole()
    assert fresh(vm).host_id == home


def test_a_vm_that_somebody_else_started_and_paused_is_not_asked_for_the_state_that_it_has(
    site: Site, engine: Engine
) -> None:
    vm = running(site, engine, "foreign", host=site.host("h1"))
    assert outcome(engine, site.record(lambda: vms.stop(vm, "alice"))) == OK
    site.at(fresh(vm).last_host_id).vms[vm.id].running = True
    Vm.update(power_state="paused", attention="started outside Ostler").where(Vm.id == vm.id).execute()
    for host in (None, site.host("h1"), site.host("h2")):
        with pytest.raises(FailedPreconditionError) as caught:
            site.record(partial(vms.start, vm, "alice", host))
        assert caught.value.reason == "VM_PAUSED"
        assert "paused" in caught.value.message
        assert "on host h1" in caught.value.message
        assert "(ostler vm stop foreign --force)" in caught.value.message
    assert outcome(engine, site.record(lambda: vms.stop(vm, "alice", force=True))) == OK
    assert outcome(engine, site.record(lambda: vms.start(vm, "alice"))) == OK
    site.check_whole()


def test_a_vm_last_seen_on_another_host_never_runs_twice(site: Site, engine: Engine) -> None:
    vm = running(site, engine, "web")
    home = vm.host_id
    other = next(host for name, host in site.hosts.items() if host.host_id != home and name != "h3")
    # Somebody moved it outside Ostler, and the watcher saw it there.
    other.vms[vm.id] = site.at(home).vms.pop(vm.id)
    other.secrets, site.at(home).secrets = site.at(home).secrets, set()
    VmSighting.create(vm=vm, host=other.host_id)
    Vm.update(attention=f"RUNS ON HOST {other.name}").where(Vm.id == vm.id).execute()
    assert refusal(site, lambda: vms.migrate(fresh(vm), "alice")) == "RUNS_ELSEWHERE"
    assert outcome(engine, site.record(lambda: vms.stop(fresh(vm), "alice", force=True))) == OK
    elsewhere = f"was last seen running on host {other.name}, where Ostler did not place it"
    assert (fresh(vm).state, fresh(vm).attention) == ("stopped", elsewhere)
    assert refusal(site, lambda: vms.start(fresh(vm), "alice")) == "RUNS_ELSEWHERE"
    assert refusal(site, lambda: vms.delete(fresh(vm), "alice")) == "VM_RUNNING"
    assert site.fleet.running_on(vm.id) == [other.name]
    assert outcome(engine, site.record(lambda: vms.delete(fresh(vm), "alice", force=True))) == OK
    assert site.fleet.running_on(vm.id) == []


def test_a_stop_that_fails_leaves_it_running(site: Site, engine: Engine) -> None:
    vm = running(site, engine, "wont-stop")
    site.at(vm.host_id).fail("StopVm", Fault(FailedPreconditionError("no", "NO_WAY")))
    assert outcome(engine, site.record(lambda: vms.stop(vm, "alice"))) == ("failed", "NO_WAY")
    assert (fresh(vm).state, fresh(vm).power_state) == ("running", "running")
    site.at(vm.host_id).fail("StopVm", Fault(FailedPreconditionError("no", "NO_WAY"), before=False))
    assert outcome(engine, site.record(lambda: vms.stop(vm, "alice"))) == ("failed", "NO_WAY")
    assert (fresh(vm).state, fresh(vm).host_id) == ("stopped", None)
    site.check_whole()


def test_no_vm_starts_that_may_run_on_a_silent_host(site: Site, engine: Engine) -> None:
    vm = running(site, engine, "lost", host=site.host("h1"))
    site.silence("h1")
    Vm.update(power_state="").where(Vm.id == vm.id).execute()
    for make in (
        lambda: vms.start(vm, "alice"),
        lambda: vms.start(vm, "alice", site.host("h2")),
        lambda: vms.stop(vm, "alice"),
        lambda: vms.migrate(vm, "alice"),
        lambda: vms.delete(vm, "alice", force=True),
    ):
        assert refusal(site, make) == "HOST_SILENT"
    site.revive("h1")


def test_a_start_that_fails_gives_the_place_back(site: Site, engine: Engine) -> None:
    vm = running(site, engine, "wont-start", stopped=True)
    for fake in site.hosts.values():
        fake.fail("StartVm", Fault(FailedPreconditionError("no", "NO_WAY")))
    assert outcome(engine, site.record(lambda: vms.start(vm, "alice"))) == ("failed", "NO_WAY")
    assert (fresh(vm).state, fresh(vm).host_id) == ("stopped", None)
    site.check_whole()


def test_volumes_of_a_running_vm(site: Site, engine: Engine) -> None:
    vm = running(site, engine, "disks")
    volume = data_volume(site, engine, "data")
    assert outcome(engine, site.record(lambda: volumes.attach(volume, vm, "alice"))) == OK
    assert (fresh(volume).vm_id, fresh(volume).slot) == (vm.id, 1)
    assert volume.passphrase_id in site.at(vm.host_id).secrets
    assert refusal(site, lambda: volumes.attach(volume, vm, "alice")) == "ALREADY_ATTACHED"
    assert refusal(site, lambda: volumes.delete(volume, "alice")) == "ATTACHED"
    assert outcome(engine, site.record(lambda: volumes.grow(volume, 8 * MIB, "alice"))) == OK
    assert fresh(volume).size_bytes == 8 * MIB
    assert refusal(site, lambda: volumes.grow(volume, 4 * MIB, "alice")) == "CANNOT_SHRINK"
    root: Any = Volume.get((Volume.vm_id == vm.id) & Volume.root)
    assert refusal(site, lambda: volumes.detach(root, "alice")) == "ROOT_VOLUME"
    assert refusal(site, lambda: volumes.delete(root, "alice")) == "ROOT_VOLUME"
    assert outcome(engine, site.record(lambda: volumes.detach(volume, "alice"))) == OK
    assert (fresh(volume).vm_id, fresh(volume).slot) == ("", -1)
    site.check_whole()


def test_an_attachment_that_fails_is_taken_back(site: Site, engine: Engine) -> None:
    vm = running(site, engine, "attach-fails")
    volume = data_volume(site, engine, "loose")
    for before in (True, False):
        site.at(vm.host_id).fail("AttachVolume", Fault(FailedPreconditionError("no", "NO_WAY"), before=before))
        assert outcome(engine, site.record(lambda: volumes.attach(volume, vm, "alice"))) == ("failed", "NO_WAY")
        assert fresh(volume).vm_id == ""
        assert len(site.at(vm.host_id).vms[vm.id].spec.disks) == 1
    site.check_whole()


def test_data_volumes_outlive_their_vm(site: Site, engine: Engine) -> None:
    vm = running(site, engine, "short-lived")
    volume = data_volume(site, engine, "long-lived")
    assert outcome(engine, site.record(lambda: volumes.attach(volume, vm, "alice"))) == OK
    assert refusal(site, lambda: vms.delete(vm, "alice")) == "VM_RUNNING"
    assert outcome(engine, site.record(lambda: vms.delete(vm, "alice", force=True))) == OK
    assert Vm.select().count() == 0
    assert [(row.name, row.vm_id, row.state) for row in Volume.select()] == [("long-lived", "", "ready")]
    site.check_whole()


def test_a_deletion_that_fails_can_be_repeated(site: Site, engine: Engine) -> None:
    vm = running(site, engine, "sticky")
    for fake in site.hosts.values():
        fake.fail("DeleteVolume", Fault(FailedPreconditionError("no", "NO_WAY")))
    operation = site.record(lambda: vms.delete(vm, "alice", force=True))
    assert outcome(engine, operation) == ("failed", "NO_WAY")
    assert (fresh(vm).state, fresh(vm).host_id) == ("failed", None)
    assert Passphrase.select().count() == 1, "the file is there, so its key is"
    for fake in site.hosts.values():
        fake.faults.clear()
    assert outcome(engine, site.record(lambda: vms.delete(vm, "alice"))) == OK


def test_encrypted_work_goes_to_capable_hosts_only(site: Site, engine: Engine) -> None:
    for fake in site.hosts.values():
        fake.calls.clear()
    for number in range(4):
        data_volume(site, engine, f"e{number}")
    assert site.hosts["h3"].calls == []
    Host.update(volume_encryption=False).execute()
    new = volumes.NewVolume("nowhere", site.account, site.disks["encrypted"], 4 * MIB)
    assert refusal(site, lambda: volumes.create(new, "alice", site.keys)) == "NO_CAPABLE_HOST"
    Host.update(volume_encryption=True).where(Host.name != "h3").execute()


def test_a_fat_volume_needs_its_space(site: Site) -> None:
    new = volumes.NewVolume("thick", site.account, site.disks["thick"])
    for pool in site.pools.values():
        type(pool).update(available_bytes=GIB - 1).where(type(pool).id == pool.id).execute()
    assert refusal(site, lambda: volumes.create(new, "alice", site.keys)) == "NO_FEASIBLE_POOL"
    for pool in site.pools.values():
        type(pool).update(available_bytes=1 << 40).where(type(pool).id == pool.id).execute()


def test_a_volume_whose_header_says_plain_is_never_used(site: Site, engine: Engine) -> None:
    for fake in site.hosts.values():
        fake.fail("CreateVolume", Fault(forget_key=True))
    new = volumes.NewVolume("liar", site.account, site.disks["encrypted"], 4 * MIB)
    operation = site.record(lambda: volumes.create(new, "alice", site.keys))
    assert outcome(engine, operation) == ("failed", "ENCRYPTION_MISSING")
    assert site.fleet.files() == {}
    assert Volume.get_by_id(operation.resource_id).state == "failed"


def test_live_migration(site: Site, engine: Engine) -> None:
    vm = running(site, engine, "mover", host=site.host("h1"))
    assert refusal(site, lambda: vms.migrate(vm, "alice", site.host("h3"))) == "NO_FEASIBLE_HOST"
    assert refusal(site, lambda: vms.migrate(vm, "alice", site.host("h1"))) == "NO_FEASIBLE_HOST"
    assert outcome(engine, site.record(lambda: vms.migrate(vm, "alice"))) == OK
    vm = fresh(vm)
    assert (vm.host.name, vm.destination_id, vm.state) == ("h2", None, "running")
    site.check_whole()


def test_a_migration_with_its_disks(site: Site, engine: Engine) -> None:
    vm = running(site, engine, "nomad", pool=site.pools["local1"])
    volume = data_volume(site, engine, "luggage", pool=site.pools["shared"])
    assert outcome(engine, site.record(lambda: volumes.attach(volume, vm, "alice"))) == OK
    assert refusal(site, lambda: vms.migrate(vm, "alice")) == "LOCAL_STORAGE"
    move = site.record(lambda: vms.migrate(vm, "alice", with_storage=True, pool=site.pools["local2"]))
    assert outcome(engine, move) == OK
    pools = {row.name: row.pool.name for row in Volume.select().where(Volume.vm_id == vm.id)}
    assert pools == {"nomad-root": "local2", "luggage": "shared"}
    assert fresh(vm).host.name == "h2"
    site.check_whole()


@pytest.mark.parametrize("method", ["PrepareMigration", "MigrateVm"])
def test_a_migration_that_fails_leaves_the_vm_where_it_was(site: Site, engine: Engine, method: str) -> None:
    vm = running(site, engine, "stayer", pool=site.pools["local1"])
    for fake in site.hosts.values():
        fake.fail(method, Fault(FailedPreconditionError("no", "NO_WAY")))
    assert outcome(engine, site.record(lambda: vms.migrate(vm, "alice", with_storage=True))) == ("failed", "NO_WAY")
    vm = fresh(vm)
    assert (vm.host.name, vm.destination_id, vm.state, vm.power_state) == ("h1", None, "running", "running")
    site.check_whole()


def test_a_migration_that_worked_after_all_is_a_success(site: Site, engine: Engine) -> None:
    vm = running(site, engine, "lucky", host=site.host("h1"))
    site.hosts["h1"].fail("MigrateVm", Fault(FailedPreconditionError("lost its mind", "NO_WAY"), before=False))
    assert outcome(engine, site.record(lambda: vms.migrate(vm, "alice"))) == OK
    assert fresh(vm).host.name == "h2"
    site.check_whole()


def test_cancelling_a_migration(site: Site, engine: Engine) -> None:
    vm = running(site, engine, "undecided", host=site.host("h1"))
    fault = site.hosts["h1"].fail("MigrateVm", Fault(hold=threading.Event()))
    operation = site.record(lambda: vms.migrate(vm, "alice"))
    assert fault.reached.wait(20)
    engine.cancel(operation.id)
    assert outcome(engine, operation) == ("cancelled", "CANCELLED")
    assert fresh(vm).host.name == "h1"
    site.check_whole()


@pytest.mark.parametrize("arrived", [True, False])
def test_a_vm_lost_on_its_way_is_found_again(site: Site, engine: Engine, arrived: bool) -> None:
    vm = running(site, engine, "odyssey", host=site.host("h1"))
    hold = threading.Event()
    error = None if arrived else FailedPreconditionError("no", "NO_WAY")
    fault = site.hosts["h1"].fail("MigrateVm", Fault(error, hold=hold))
    operation = site.record(lambda: vms.migrate(vm, "alice"))
    assert fault.reached.wait(20)
    for name in ("h1", "h2"):
        site.silence(name)
    hold.set()
    assert outcome(engine, operation) == ("failed", "MIGRATION_UNRESOLVED")
    lost = fresh(vm)
    assert (lost.state, lost.host.name, lost.destination.name) == ("migrating", "h1", "h2")
    assert "h1" in lost.attention
    assert refusal(site, lambda: vms.start(vm, "alice")) == "VM_STATE"
    assert refusal(site, lambda: vms.delete(vm, "alice", force=True)) == "HOST_SILENT"
    vms.resolve_stranded(site.keys)
    assert Operation.select().where(Operation.verb == "vm.resolve", Operation.create_time > now()).count() == 0
    for name in ("h1", "h2"):
        site.revive(name)
    vms.resolve_stranded(site.keys)
    resolve: Any = Operation.get((Operation.verb == "vm.resolve") & (Operation.resource_id == vm.id))
    assert outcome(engine, resolve) == OK
    found = fresh(vm)
    assert (found.state, found.host.name, found.destination_id) == ("running", "h2" if arrived else "h1", None)
    assert found.attention == ""
    site.check_whole()


def test_one_operation_on_a_vm_at_a_time(site: Site, engine: Engine) -> None:
    vm = running(site, engine, "busy")
    hold = threading.Event()
    fault = site.at(vm.host_id).fail("StopVm", Fault(hold=hold))
    operation = site.record(lambda: vms.stop(vm, "alice"))
    assert fault.reached.wait(20)
    for make in (
        lambda: vms.stop(vm, "bob"),
        lambda: vms.delete(vm, "bob", force=True),
        lambda: vms.migrate(vm, "bob"),
    ):
        assert refusal(site, make) == "RESOURCE_BUSY"
    hold.set()
    assert outcome(engine, operation) == OK


def test_fifty_at_once_never_overfill_a_host(site: Site, engine: Engine) -> None:
    Host.update(cpus=1).execute()
    made: list[Any] = []
    refused: list[str] = []

    def deploy(number: int) -> None:
        try:
            made.append(site.record(lambda: site.new_vm(f"crowd{number}", stopped=False)))
        except OstlerError as error:
            refused.append(error.reason)

    threads = [threading.Thread(target=deploy, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for operation in made:
        assert outcome(engine, operation) == OK
    assert len(made) == 2 * 4, "two capable hosts of one CPU, overcommitted four times"
    assert set(refused) == {"NO_FEASIBLE_HOST"}
    assert all(host.allocated_cpus <= host.cpus * 4 for host in Host.select())
    site.check_whole()
    Host.update(cpus=64).execute()


def test_placement_is_shown(site: Site, engine: Engine) -> None:
    vm = running(site, engine, "where", host=site.host("h1"))
    found = {candidate.host_name: candidate.refusal for candidate in vms.find_hosts(vm)}
    codes = {name: refusal.code if refusal else "" for name, refusal in found.items()}
    assert codes == {"h1": "ALREADY_THERE", "h2": "", "h3": "LACKS_VOLUME_ENCRYPTION"}
    with transaction():
        assert fresh(vm).operation_id == ""


@pytest.mark.parametrize("role", [Role.ADMIN, Role.MEMBER])
def test_a_dry_run_changes_nothing_and_tells_admins_the_host(site: Site, role: Role) -> None:
    request = vm_pb2.CreateVmRequest(name="dry", validate_only=True)
    caller = Caller(role, "1", "alice", site.account.id)
    with session():
        answer = start_operation(caller, request, lambda: site.new_vm("dry"))
    metadata = operation_pb2.OperationMetadata()
    assert answer.metadata.Unpack(metadata)
    assert answer.done
    assert metadata.progress.phase.startswith("on host ") == (role is Role.ADMIN)
    assert not Vm.select().where(Vm.name == "dry").exists()
    assert not Operation.select().where(Operation.resource_name == "dry").exists()
