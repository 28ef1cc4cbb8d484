"""Volumes that get another key, another file or another pool, against agents that work in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from ostler_common.errors import FailedPreconditionError, InternalError, OstlerError
from ostler_control import vms, volumes
from ostler_control.database import transaction
from ostler_control.models import Event, Operation, Passphrase, Pool, Template, Vm, Volume, VolumeFile
from ostler_control.operations import Engine
from ostler_control.volumes import sweep as sweeping

from tests.fakes.working_agent import Fault, File, wait_until
from tests.sites import MIB, Site, outcome

OK = ("succeeded", "")


@pytest.fixture
def site(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """After every test what is left is swept at once."""
    monkeypatch.setattr(sweeping, "_RETRY_PAUSE", sweeping._RETRY_PAUSE * 0)
    yield site
    for fake in site.hosts.values():
        fake.faults.clear()
    swept(site)


def swept(site: Site) -> None:
    """Waits until the chore has removed what is left."""

    def clean() -> bool:
        sweeping.sweep(site.keys)
        return not VolumeFile.select().exists()

    wait_until(clean)
    ended: Callable[[], bool] = lambda: (  # noqa: E731
        not Operation.select().where(Operation.state.in_(["pending", "running"])).exists()
    )
    wait_until(ended)


def new_volume(site: Site, engine: Engine, kind: str, name: str = "data", pool: str = "shared") -> Any:
    new = volumes.NewVolume(name, site.account, site.disks[kind], 4 * MIB, pool=site.pools[pool])
    operation = site.record(lambda: volumes.create(new, "alice", site.keys))
    assert outcome(engine, operation) == OK
    return Volume.get_by_id(operation.resource_id)


def running_vm(site: Site, engine: Engine, name: str = "web", **wanted: Any) -> Any:
    operation = site.record(lambda: site.new_vm(name, **wanted))
    assert outcome(engine, operation) == OK
    return Vm.get_by_id(operation.resource_id)


def root_of(vm: Any) -> Any:
    return Volume.get((Volume.vm_id == vm.id) & Volume.root)


def fresh(row: Any) -> Any:
    return type(row).get_by_id(row.id)


def file_of(site: Site, volume: Any) -> File:
    volume = fresh(volume)
    return site.fleet.pools[volume.pool_id][volume.file_id]


def refusal(site: Site, make: Callable[[], Any]) -> OstlerError:
    before = (Operation.select().count(), Passphrase.select().count(), VolumeFile.select().count())
    with pytest.raises(OstlerError) as caught:
        site.record(make)
    assert before == (Operation.select().count(), Passphrase.select().count(), VolumeFile.select().count())
    return caught.value


def destroyed_keys() -> set[str]:
    events = list(Event.select().where(Event.type == "volume.key.destroy"))
    assert all(event.operation_id for event in events), "an operation destroyed it, and the event must say which"
    return {event.message.split("(key ")[1].rstrip(")") for event in events}


def rekey(site: Site, volume: Any, deep: bool = False) -> Any:
    return site.record(lambda: volumes.rekey(volume, "alice", site.keys, deep))


def test_a_deleted_volumes_key_is_destroyed_with_an_event(site: Site, engine: Engine) -> None:
    volume = new_volume(site, engine, "encrypted")
    operation = site.record(partial(volumes.delete, volume, "alice"))
    assert outcome(engine, operation) == OK
    event: Any = Event.get((Event.type == "volume.key.destroy") & (Event.resource_id == volume.id))
    assert (event.actor, event.outcome, event.account_id) == ("alice", "succeeded", site.account.id)
    assert volume.passphrase_id in event.message
    assert event.operation_id == operation.id


def test_a_shallow_rekey_leaves_the_file_and_changes_what_opens_it(site: Site, engine: Engine) -> None:
    volume = new_volume(site, engine, "encrypted")
    content = file_of(site, volume).content
    assert outcome(engine, rekey(site, volume)) == OK
    after = fresh(volume)
    assert (after.file_id, after.passphrase_id != volume.passphrase_id) == (volume.file_id, True)
    assert file_of(site, volume).content == content
    assert volume.passphrase_id in destroyed_keys()
    site.check_whole()


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("method", ["AddVolumeKey", "RemoveVolumeKey"])
def test_a_shallow_rekey_that_fails_leaves_one_key(site: Site, engine: Engine, method: str, before: bool) -> None:
    volume = new_volume(site, engine, "encrypted")
    for fake in site.hosts.values():
        fake.fail(method, Fault(FailedPreconditionError("no", "NO_WAY"), before=before))
    state, reason = outcome(engine, rekey(site, volume))
    assert (state, reason) == ("failed", "NO_WAY" if method == "AddVolumeKey" else "OLD_KEY_NOT_REMOVED")
    for fake in site.hosts.values():
        fake.faults.clear()
    swept(site)
    assert (fresh(volume).passphrase_id == volume.passphrase_id) == (method == "AddVolumeKey")
    site.check_whole()


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("what", ["rekey", "encrypt", "migrate", "migrate-plain", "keep-key"])
def test_a_volume_gets_a_new_file(site: Site, engine: Engine, what: str, running: bool) -> None:
    encrypted = what in ("rekey", "migrate", "keep-key")
    volume = new_volume(site, engine, "encrypted" if encrypted else "plain")
    vm = running_vm(site, engine, host=site.host("h1"))
    if running:
        assert outcome(engine, site.record(lambda: volumes.attach(volume, vm, "alice"))) == OK
        volume = fresh(volume)
    content = file_of(site, volume).content
    secret = site.keys.open(volume).reveal() if encrypted else b""
    target = site.pools["local1"]
    operation = {
        "rekey": lambda: volumes.rekey(volume, "alice", site.keys, deep=True),
        "encrypt": lambda: volumes.encrypt(volume, "alice", site.keys),
        "migrate": lambda: volumes.migrate(volume, target, "alice", site.keys),
        "migrate-plain": lambda: volumes.migrate(volume, target, "alice", site.keys),
        "keep-key": lambda: volumes.migrate(volume, target, "alice", site.keys, keep_key=True),
    }[what]
    assert outcome(engine, site.record(operation)) == OK
    after, file = fresh(volume), file_of(site, volume)
    assert after.file_id != volume.file_id
    assert file.content == content
    assert after.encrypt_format == ("none" if what == "migrate-plain" else "luks")
    assert (file.passphrase == secret) == (what in ("keep-key", "migrate-plain"))
    assert (after.pool.name, after.size_bytes) == (
        "local1" if "rypt" not in what and what != "rekey" else "shared",
        4 * MIB,
    )
    assert (volume.passphrase_id in destroyed_keys()) == (what in ("rekey", "migrate"))
    if running:
        disks = site.at(vm.host_id).vms[vm.id].spec.disks
        assert after.file_id in [disk.volume.volume_id for disk in disks]
    site.check_whole()


def test_the_root_disk_of_a_running_vm_too(site: Site, engine: Engine) -> None:
    vm = running_vm(site, engine)
    root = root_of(vm)
    assert outcome(engine, rekey(site, root, deep=True)) == OK
    assert fresh(root).file_id != root.id
    site.check_whole()
    assert outcome(engine, site.record(lambda: vms.migrate(vm, "alice"))) == OK
    assert outcome(engine, site.record(lambda: vms.stop(vm, "alice"))) == OK
    assert outcome(engine, site.record(lambda: vms.start(vm, "alice"))) == OK
    site.check_whole()


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("method", ["MirrorVolume", "CopyVolume", "PivotVolume", "DeleteVolume"])
def test_a_failure_leaves_one_file(site: Site, engine: Engine, method: str, before: bool) -> None:
    running = method in ("MirrorVolume", "PivotVolume")
    vm = running_vm(site, engine)
    if not running:
        assert outcome(engine, site.record(lambda: vms.stop(vm, "alice"))) == OK
    root = root_of(vm)
    for fake in site.hosts.values():
        fake.fail(method, Fault(InternalError("no", "NO_WAY"), before=before))
    ended = outcome(engine, rekey(site, root, deep=True))
    assert ended == ("failed", "OLD_FILE_NOT_REMOVED" if method == "DeleteVolume" else "NO_WAY")
    over = method == "DeleteVolume" or (method == "PivotVolume" and not before)
    assert (fresh(root).file_id != root.file_id) == over  # at once, before anybody may use the wrong one
    for fake in site.hosts.values():
        fake.faults.clear()
    swept(site)
    assert (fresh(root).file_id != root.file_id) == over
    site.check_whole()


@pytest.mark.parametrize("method", ["MirrorVolume", "CopyVolume"])
def test_a_cancelled_change_leaves_nothing(site: Site, engine: Engine, method: str) -> None:
    vm = running_vm(site, engine)
    if method == "CopyVolume":
        assert outcome(engine, site.record(lambda: vms.stop(vm, "alice"))) == OK
    root, hold = root_of(vm), threading.Event()
    faults = [fake.fail(method, Fault(hold=hold)) for fake in site.hosts.values()]
    operation = rekey(site, root, deep=True)
    wait_until(lambda: any(fault.reached.is_set() for fault in faults))
    assert refusal(site, lambda: vms.delete(vm, "alice", force=True)).reason == "RESOURCE_BUSY"
    engine.cancel(operation.id)
    assert outcome(engine, operation) == ("cancelled", "CANCELLED")
    assert fresh(root).file_id == root.file_id
    assert VolumeFile.select().count() == 0
    site.check_whole()


def test_a_host_that_is_lost_before_the_mirror_is_complete(site: Site, engine: Engine) -> None:
    vm = running_vm(site, engine, host=site.host("h1"))
    root, hold = root_of(vm), threading.Event()
    fault = site.hosts["h1"].fail("MirrorVolume", Fault(hold=hold))
    operation = rekey(site, root, deep=True)
    assert fault.reached.wait(10)
    site.silence("h1")
    assert outcome(engine, operation) == ("failed", "HOST_UNREACHABLE")
    sweeping.sweep(site.keys)
    assert VolumeFile.select().count() == 1  # nobody may delete what that host may be writing to
    hold.set()
    site.revive("h1")
    swept(site)
    assert fresh(root).file_id == root.file_id
    site.check_whole()


def test_a_disk_is_not_used_until_its_current_file_is_known(site: Site, engine: Engine) -> None:
    """The VM goes over although its host says no; the host falls silent, and the VM is found stopped."""
    vm = running_vm(site, engine, host=site.host("h1"))
    root = root_of(vm)
    h1 = site.hosts["h1"]
    h1.fail("PivotVolume", Fault(InternalError("no", "NO_WAY"), before=False))
    hold = threading.Event()
    fault = h1.fail("CancelMirror", Fault(hold=hold))
    operation = rekey(site, root, deep=True)
    assert fault.reached.wait(10)
    site.silence("h1")
    assert outcome(engine, operation) == ("failed", "NO_WAY")
    assert fresh(root).file_id == root.file_id
    Vm.update(state="stopped").where(Vm.id == vm.id).execute()
    assert refusal(site, lambda: vms.start(vm, "alice")).reason == "MIRROR_UNRESOLVED"
    Vm.update(state="running").where(Vm.id == vm.id).execute()
    hold.set()
    site.revive("h1")
    swept(site)
    assert fresh(root).file_id != root.file_id
    site.check_whole()


@pytest.mark.parametrize("pivoted", [True, False])
def test_a_host_that_is_lost_during_the_pivot(site: Site, engine: Engine, pivoted: bool) -> None:
    vm = running_vm(site, engine, host=site.host("h1"))
    root, hold = root_of(vm), threading.Event()
    fault = site.hosts["h1"].fail("PivotVolume", Fault(hold=hold, error=None if pivoted else InternalError("x", "X")))
    operation = rekey(site, root, deep=True)
    assert fault.reached.wait(10)
    site.silence("h1")
    assert outcome(engine, operation) == ("failed", "PIVOT_UNRESOLVED")
    after = fresh(root)
    assert after.file_id != root.file_id
    sweeping.sweep(site.keys)
    assert [row.id for row in VolumeFile.select()] == [root.file_id]
    hold.set()
    site.revive("h1")
    swept(site)
    assert (fresh(root).file_id, root.passphrase_id in destroyed_keys()) == (after.file_id, True)
    site.check_whole()


def test_a_mirror_that_failed_unnoticed_is_detected(site: Site, engine: Engine) -> None:
    """The VM has gone on with the old file alone while its host was silent: then that one is the right one."""
    vm = running_vm(site, engine, host=site.host("h1"))
    root, hold = root_of(vm), threading.Event()
    fault = site.hosts["h1"].fail("PivotVolume", Fault(hold=hold, error=InternalError("x", "X")))
    operation = rekey(site, root, deep=True)
    assert fault.reached.wait(10)
    site.silence("h1")
    assert outcome(engine, operation) == ("failed", "PIVOT_UNRESOLVED")
    site.hosts["h1"].mirrors.clear()
    hold.set()
    site.revive("h1")
    swept(site)
    assert (fresh(root).file_id, fresh(root).passphrase_id) == (root.file_id, root.passphrase_id)
    site.check_whole()


def test_requests_are_refused_before_anything_changes(site: Site, engine: Engine) -> None:
    plain, secret = new_volume(site, engine, "plain", "plain"), new_volume(site, engine, "encrypted", "secret")
    assert refusal(site, lambda: volumes.rekey(plain, "alice", site.keys)).reason == "NOT_ENCRYPTED"
    assert refusal(site, lambda: volumes.rekey(plain, "alice", site.keys, True)).reason == "NOT_ENCRYPTED"
    assert refusal(site, lambda: volumes.encrypt(secret, "alice", site.keys)).reason == "ALREADY_ENCRYPTED"
    same = site.pools["shared"]
    assert refusal(site, lambda: volumes.migrate(plain, same, "alice", site.keys)).reason == "SAME_POOL"
    vm = running_vm(site, engine)
    assert refusal(site, lambda: volumes.rekey(root_of(vm), "alice", site.keys)).reason == "VOLUME_IN_USE"


def test_one_host_must_reach_both_pools(site: Site, engine: Engine) -> None:
    volume = new_volume(site, engine, "encrypted", pool="local1")
    error = refusal(site, lambda: volumes.migrate(volume, site.pools["local2"], "alice", site.keys))
    assert error.reason == "NO_COMMON_HOST"
    assert "pool local1 (h1) and pool local2 (h2)" in error.message


def test_a_stopped_vm_must_be_able_to_start_afterwards(site: Site, engine: Engine) -> None:
    vm = running_vm(site, engine, host=site.host("h1"), pool=site.pools["local1"], stopped=True)
    volume = new_volume(site, engine, "encrypted")
    assert outcome(engine, site.record(lambda: volumes.attach(volume, vm, "alice"))) == OK
    error = refusal(site, lambda: volumes.migrate(volume, site.pools["local2"], "alice", site.keys))
    assert (error.reason, "could not start anywhere" in error.message) == ("NO_COMMON_HOST", True)


def test_the_host_of_a_running_vm_must_reach_the_pool_and_prove_encryption(site: Site, engine: Engine) -> None:
    vm = running_vm(site, engine, offering=site.plain, host=site.host("h3"))
    root = root_of(vm)
    error = refusal(site, lambda: volumes.migrate(root, site.pools["local1"], "alice", site.keys))
    assert (error.reason, "h3" in error.message, "local1" in error.message) == ("LACKS_POOL", True, True)
    error = refusal(site, lambda: volumes.encrypt(root, "alice", site.keys))
    assert (error.reason, "h3" in error.message) == ("LACKS_VOLUME_ENCRYPTION", True)
    assert "volume-encryption.qemu-img: no luks driver" in error.message


def test_a_pool_without_room_or_encryption(site: Site, engine: Engine) -> None:
    plain = new_volume(site, engine, "plain")
    pool = site.pools["local1"]
    Pool.update(encryption=False).where(Pool.id == pool.id).execute()
    try:
        secret = new_volume(site, engine, "encrypted", "secret")
        assert refusal(site, lambda: volumes.migrate(secret, pool, "alice", site.keys)).reason == "NO_FEASIBLE_POOL"
        assert outcome(engine, site.record(lambda: volumes.migrate(plain, pool, "alice", site.keys))) == OK
    finally:
        Pool.update(encryption=True).where(Pool.id == pool.id).execute()


def test_an_offering_must_match_the_volume(site: Site, engine: Engine) -> None:
    volume = new_volume(site, engine, "encrypted")

    def change(kind: str) -> Any:
        with transaction():
            return volumes.change_offering(fresh(volume), site.disks[kind], "alice")

    for kind, reason in (("plain", "ENCRYPTION_MISMATCH"), ("thick", "ENCRYPTION_MISMATCH")):
        with pytest.raises(FailedPreconditionError) as caught:
            change(kind)
        assert caught.value.reason == reason
    assert change("encrypted").disk_offering_id == site.disks["encrypted"].id


def test_a_stopped_vm_is_reinstalled(site: Site, engine: Engine) -> None:
    vm = running_vm(site, engine)
    root = root_of(vm)
    assert refusal(site, lambda: vms.reinstall(vm, "alice", site.keys)).reason == "VM_RUNNING"
    assert outcome(engine, site.record(lambda: vms.stop(vm, "alice"))) == OK
    content = file_of(site, root).content
    assert outcome(engine, site.record(lambda: vms.reinstall(vm, "alice", site.keys))) == OK
    after = fresh(root)
    assert (after.name, after.size_bytes, after.encrypt_format) == (root.name, root.size_bytes, "luks")
    assert file_of(site, root).content != content
    assert root.passphrase_id in destroyed_keys()
    assert outcome(engine, site.record(lambda: vms.start(vm, "alice"))) == OK
    site.check_whole()


def test_a_reinstall_from_a_larger_template_grows_the_disk(site: Site, engine: Engine) -> None:
    vm = running_vm(site, engine, stopped=True)
    larger = Template.create(
        name="larger", format="qcow2", firmware="uefi", virtual_size_bytes=20 * MIB, file_size_bytes=1, sha256="1"
    )
    assert outcome(engine, site.record(lambda: vms.reinstall(vm, "alice", site.keys, larger))) == OK
    assert (root_of(vm).size_bytes, fresh(vm).template_name, fresh(vm).firmware) == (20 * MIB, "larger", "uefi")
    larger.delete_instance()
    assert refusal(site, lambda: vms.reinstall(vm, "alice", site.keys)).reason == "NO_TEMPLATE"


@pytest.mark.parametrize("before", [True, False])
def test_a_reinstall_that_fails_leaves_the_old_disk(site: Site, engine: Engine, before: bool) -> None:
    vm = running_vm(site, engine, stopped=True)
    root = root_of(vm)
    for fake in site.hosts.values():
        fake.fail("CreateVolume", Fault(InternalError("no", "NO_WAY"), before=before))
    assert outcome(engine, site.record(lambda: vms.reinstall(vm, "alice", site.keys))) == ("failed", "NO_WAY")
    assert fresh(root).file_id == root.file_id
    site.check_whole()


def test_refusals_name_the_host_and_its_failed_probe(site: Site, engine: Engine) -> None:
    said = "h3 (volume-encryption.qemu-img: no luks driver)"
    h3 = site.host("h3")
    assert said in refusal(site, lambda: site.new_vm("there", host=h3)).message
    vm = running_vm(site, engine)
    error = refusal(site, lambda: vms.migrate(vm, "alice", host=h3))
    assert (error.reason, said in error.message) == ("NO_FEASIBLE_HOST", True)
    assert outcome(engine, site.record(lambda: vms.stop(vm, "alice"))) == OK
    assert said in refusal(site, lambda: vms.start(vm, "alice", host=h3)).message


def test_a_key_that_could_not_be_removed_waits_for_the_vm_to_stop(site: Site, engine: Engine) -> None:
    """Of a running VM's volume no key can be removed: it is, as soon as that works."""
    vm = running_vm(site, engine)
    root = root_of(vm)
    assert outcome(engine, site.record(lambda: vms.stop(vm, "alice"))) == OK
    for fake in site.hosts.values():
        fake.fail("RemoveVolumeKey", Fault(InternalError("no", "NO_WAY"), times=2))
    assert outcome(engine, rekey(site, root)) == ("failed", "OLD_KEY_NOT_REMOVED")
    assert outcome(engine, site.record(lambda: vms.start(vm, "alice"))) == OK
    for fake in site.hosts.values():
        fake.faults.clear()
    sweeping.sweep(site.keys)
    assert VolumeFile.select().count() == 1
    assert root.passphrase_id not in destroyed_keys()
    assert outcome(engine, site.record(lambda: vms.stop(vm, "alice"))) == OK
    swept(site)
    assert root.passphrase_id in destroyed_keys()
    site.check_whole()
