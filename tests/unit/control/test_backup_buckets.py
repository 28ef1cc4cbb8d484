"""Backups in a bucket, against agents that work in memory and an S3 server that checks signatures."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from ostler_common.errors import FailedPreconditionError, UnavailableError
from ostler_control import vm_backups, vms, volumes
from ostler_control.models import (
    Backup,
    BackupDisk,
    BackupSpool,
    BackupStore,
    Host,
    Pool,
    PoolHost,
    StoreBucket,
    Volume,
)
from ostler_control.objects import bucket as buckets
from ostler_control.operations import Engine
from ostler_control.pools import reach
from ostler_control.vm_backups import uploads

from tests.fakes import s3
from tests.fakes.s3 import S3
from tests.fakes.working_agent import Fault, bytes_of
from tests.sites import Site, outcome
from tests.unit.control.copies import OK, data_volume, file_of, reload, running_vm, working

__all__ = ["working"]  # a fixture

PREFIX = "fleet/one"
PART = 500  # bytes: a file of an agent in memory has 1536


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with s3.serving(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(autouse=True)
def store(site: Site, served: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(uploads, "MIN_PART_BYTES", PART)
    monkeypatch.setattr(uploads, "PARTS_PER_JOB", 2)
    monkeypatch.setattr(buckets, "_PAUSE_S", 0.0)
    yield site.add_bucket_store(served.bucket(PREFIX))
    served.fail.clear()


def vm_with_data(site: Site, engine: Engine, name: str = "web") -> Any:
    data = data_volume(site, engine, f"{name}-data", "encrypted")
    vm = running_vm(site, engine, name)
    assert outcome(engine, site.record(lambda: volumes.attach(data, vm, "alice"))) == OK
    return reload(vm)


def new_backup(site: Site, vm: Any, **wanted: Any) -> Any:
    return site.record(lambda: vm_backups.create(vm_backups.NewBackup(vm, **wanted), "alice", site.keys))


def back_up(site: Site, engine: Engine, vm: Any, **wanted: Any) -> Any:
    operation = new_backup(site, vm, **wanted)
    assert outcome(engine, operation) == OK
    return Backup.get_by_id(operation.resource_id)


def disks(backup: Any) -> list[Any]:
    return list(BackupDisk.select().where(BackupDisk.backup == backup).order_by(BackupDisk.slot))


def objects_of(*backups: Any) -> set[str]:
    return {f"{PREFIX}/{disk.id}.qcow2" for backup in backups for disk in disks(backup)}


def spooled(site: Site) -> list[str]:
    """Ids of the files in the spools of all hosts."""
    return [file for name, files in site.fleet.pools.items() if "@" in name for file in files]


def test_a_backup_is_sent_in_parts_and_leaves_the_spool(site: Site, engine: Engine, served: S3) -> None:
    vm = vm_with_data(site, engine)
    served.asked.clear()
    backup = back_up(site, engine, vm)
    assert set(served.objects) == objects_of(backup)
    for disk in disks(backup):
        assert served.objects[f"{PREFIX}/{disk.id}.qcow2"] == bytes_of(site.fleet.sent[disk.id])
        assert disk.file_size_bytes == len(served.objects[f"{PREFIX}/{disk.id}.qcow2"])
    assert served.asked.count("put-part") == 2 * 4
    assert (served.uploads, spooled(site), BackupSpool.select().count()) == ({}, [], 0)
    assert [fake.name for fake in site.hosts.values() if "UploadVolume" in fake.calls] == [vm.host.name]
    site.check_whole()


def test_a_bucket_is_chosen_only_where_no_other_store_is_reached(site: Site, engine: Engine, store: Any) -> None:
    vm = running_vm(site, engine, "web")
    files = site.add_backup_store()
    Pool.update(available_bytes=0).where(Pool.id == files.id).execute()
    assert back_up(site, engine, vm).pool_id == files.id
    assert back_up(site, engine, vm, store=store).pool_id == store.id
    PoolHost.update(reachable=False).where(PoolHost.pool == files).execute()
    assert back_up(site, engine, vm).pool_id == store.id
    PoolHost.update(reachable=True).where(PoolHost.pool == files).execute()
    BackupStore.delete().where(BackupStore.pool == files).execute()  # the module's other tests name no store


def test_increments_are_restored_with_all_that_they_build_on(site: Site, engine: Engine, served: S3) -> None:
    vm = running_vm(site, engine, "web")
    content = file_of(site, Volume.get(Volume.vm_id == vm.id)).content
    made = [back_up(site, engine, vm) for _ in range(3)]
    assert [bool(site.fleet.sent[disks(one)[0].id].since) for one in made] == [False, True, True]
    wanted = vm_backups.NewVmRestore(made[-1], "again")
    operation = site.record(lambda: vm_backups.restore_vm(wanted, "alice", site.keys))
    assert outcome(engine, operation) == OK
    assert file_of(site, Volume.get(Volume.vm_id == operation.resource_id)).content == content
    assert outcome(engine, site.record(lambda: vms.stop(reload(vm), "alice", force=True))) == OK
    assert outcome(engine, site.record(lambda: vm_backups.restore_over(made[0], "alice", site.keys))) == OK
    one = vm_backups.NewDiskRestore(made[1], 0, "found")
    assert outcome(engine, site.record(lambda: vm_backups.restore_disk(one, "alice", site.keys))) == OK
    assert file_of(site, Volume.get(Volume.name == "found")).content == content
    site.check_whole()


def test_a_verification_finds_what_is_damaged_and_what_is_missing(site: Site, engine: Engine, served: S3) -> None:
    vm = running_vm(site, engine, "web")
    backup = back_up(site, engine, vm)

    def verified() -> tuple[str, str]:
        return outcome(engine, site.record(lambda: vm_backups.verify(backup, "alice")))

    assert verified() == OK
    [key] = objects_of(backup)
    good = served.objects[key]
    served.objects[key] = good[:-1] + b"!"
    assert verified() == ("failed", "BACKUP_DAMAGED")
    assert "is not what was sent" in reload(backup).verify_error
    del served.objects[key]
    assert verified() == ("failed", "BACKUP_DAMAGED")
    served.objects[key] = good
    assert (verified(), reload(backup).verify_error) == (OK, "")


def test_a_deletion_removes_objects_and_keys(site: Site, engine: Engine, served: S3) -> None:
    vm = running_vm(site, engine, "web")
    kept, gone = back_up(site, engine, vm), back_up(site, engine, vm, full=True)
    left = objects_of(kept)
    assert outcome(engine, site.record(lambda: vm_backups.delete(gone, "alice"))) == OK
    assert set(served.objects) == left


def test_a_deletion_that_the_store_refuses_is_said_and_can_be_repeated(site: Site, engine: Engine, served: S3) -> None:
    backup = back_up(site, engine, running_vm(site, engine, "web"))
    served.fail["DELETE"] = [(403, "AccessDenied")]
    assert outcome(engine, site.record(lambda: vm_backups.delete(backup, "alice"))) == ("failed", "STORE_CREDENTIALS")
    assert reload(backup).state == "failed"
    assert outcome(engine, site.record(lambda: vm_backups.delete(backup, "alice"))) == OK
    assert served.objects == {}


@pytest.mark.parametrize("kind", ["uploads", "begin", "put-part", "complete", "HEAD"])
def test_nothing_is_left_of_a_backup_that_the_store_refuses(site: Site, engine: Engine, served: S3, kind: str) -> None:
    vm = vm_with_data(site, engine)
    served.fail[kind] = [(403, "AccessDenied")]
    assert outcome(engine, new_backup(site, vm)) == ("failed", "STORE_CREDENTIALS")
    assert (served.objects, served.uploads, spooled(site), Backup.select().count()) == ({}, {}, [], 0)
    site.check_whole()
    back_up(site, engine, vm)


@pytest.mark.parametrize("reason", ["INTERRUPTED", "STORE_NOT_REACHED", "STORE_TOO_SLOW"])
def test_parts_are_sent_again_when_that_may_help(site: Site, engine: Engine, served: S3, reason: str) -> None:
    """The agent was restarted after it had sent them, or the store did not answer for a while."""
    vm = running_vm(site, engine, "web")
    for fake in site.hosts.values():
        fake.fail("UploadVolume", Fault(UnavailableError("no", reason), before=False, times=2))
    backup = back_up(site, engine, vm)
    [disk] = disks(backup)
    assert served.objects[f"{PREFIX}/{disk.id}.qcow2"] == bytes_of(site.fleet.sent[disk.id])
    for fake in site.hosts.values():
        fake.fail("UploadVolume", Fault(UnavailableError("no", reason), times=3))
    assert outcome(engine, new_backup(site, vm)) == ("failed", reason)
    assert (set(served.objects), served.uploads, spooled(site)) == (objects_of(backup), {}, [])


def test_what_a_host_does_not_delete_from_its_spool_goes_with_the_next_backup(
    site: Site, engine: Engine, served: S3
) -> None:
    vm = running_vm(site, engine, "web")
    for fake in site.hosts.values():
        fake.fail("DeleteVolume", Fault(FailedPreconditionError("no", "NO_WAY")))
    first = back_up(site, engine, vm)
    assert spooled(site) == [disk.id for disk in disks(first)]
    for fake in site.hosts.values():
        fake.faults.clear()
    back_up(site, engine, vm)
    assert (spooled(site), BackupSpool.select().count()) == ([], 0)


def test_what_a_host_does_not_delete_from_its_spool_goes_with_the_backup(
    site: Site, engine: Engine, served: S3
) -> None:
    vm = running_vm(site, engine, "web")
    for fake in site.hosts.values():
        fake.fail("DeleteVolume", Fault(FailedPreconditionError("no", "NO_WAY")))
    backup = back_up(site, engine, vm)
    for fake in site.hosts.values():
        fake.faults.clear()
    assert outcome(engine, site.record(lambda: vm_backups.delete(backup, "alice"))) == OK
    assert (spooled(site), served.objects) == ([], {})


def test_a_backup_is_deleted_when_its_host_is_no_more(site: Site, engine: Engine, served: S3) -> None:
    backup = back_up(site, engine, running_vm(site, engine, "web"))
    BackupSpool.create(backup=backup, host_id="gone")
    assert not Host.select().where(Host.id == "gone").exists()
    assert outcome(engine, site.record(lambda: vm_backups.delete(backup, "alice"))) == OK


def test_hosts_never_get_the_keys(site: Site, engine: Engine, served: S3, store: Any) -> None:
    """All that a host is told of a store is a URL for each object."""
    spec = reach.spec_of(store)
    assert (spec.type, dict(spec.options), reach.password_of(store.id, site.keys)) == ("s3", {}, None)
    row = StoreBucket.get()
    assert s3.SECRET_KEY.encode() not in bytes(row.passphrase.sealed)
    assert site.keys.open(row).reveal().decode() == s3.SECRET_KEY


@pytest.mark.parametrize("size_bytes", [1, 64 << 20, (64 << 20) + 1, 5 << 40])
def test_parts_cover_a_file_and_are_not_too_many(monkeypatch: pytest.MonkeyPatch, size_bytes: int) -> None:
    monkeypatch.setattr(uploads, "MIN_PART_BYTES", 64 << 20)
    parts = uploads.plan(size_bytes)
    assert len(parts) <= uploads.MAX_PARTS
    assert all(offset + size == following for (offset, size), (following, _) in pairwise(parts))
    assert sum(size for _, size in parts) == size_bytes
    assert max(size for _, size in parts) <= 5 << 30
