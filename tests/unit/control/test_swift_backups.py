"""Backups in a bucket of OpenStack Swift, from request to end. Agents work in memory, and really send."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from ostler_control import vm_backups
from ostler_control.models import Backup, BackupDisk, Volume
from ostler_control.objects import bucket as buckets
from ostler_control.operations import Engine
from ostler_control.vm_backups import uploads

from tests import swift
from tests.fakes.working_agent import bytes_of
from tests.sites import Site, outcome
from tests.swift import Swift
from tests.unit.control.copies import OK, file_of, reload, running_vm, working

__all__ = ["working"]  # a fixture
pytestmark = pytest.mark.slow
PREFIX = "fleet/one"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swift]:
    with swift.serving(tmp_path_factory.mktemp("swift")) as server:
        yield server


@pytest.fixture(autouse=True)
def store(site: Site, server: Swift, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(uploads, "MIN_PART_BYTES", 500)  # a file of an agent in memory has 1536
    monkeypatch.setattr(uploads, "PARTS_PER_JOB", 2)
    monkeypatch.setattr(buckets, "_PAUSE_S", 0.0)
    return site.add_bucket_store(server.bucket(PREFIX))


def back_up(site: Site, vm: Any) -> Any:
    return site.record(lambda: vm_backups.create(vm_backups.NewBackup(vm), "alice", site.keys))


def test_increments_are_sent_verified_restored_and_deleted(site: Site, engine: Engine, server: Swift) -> None:
    vm = running_vm(site, engine, "web")
    content = file_of(site, Volume.get(Volume.vm_id == vm.id)).content
    made = []
    for _ in range(2):
        operation = back_up(site, vm)
        assert outcome(engine, operation) == OK
        made.append(Backup.get_by_id(operation.resource_id))
    disks = [BackupDisk.get(BackupDisk.backup == backup) for backup in made]
    assert [bool(site.fleet.sent[disk.id].since) for disk in disks] == [False, True]
    assert server.objects == {f"{PREFIX}/{disk.id}.qcow2" for disk in disks}
    assert server.uploads == set()
    for disk in disks:
        assert server.bucket(PREFIX).size_of(f"{disk.id}.qcow2") == len(bytes_of(site.fleet.sent[disk.id]))
        assert outcome(engine, site.record(partial(vm_backups.verify, disk.backup, "alice"))) == OK
    one = vm_backups.NewDiskRestore(made[1], 0, "found")
    assert outcome(engine, site.record(lambda: vm_backups.restore_disk(one, "alice", site.keys))) == OK
    assert file_of(site, Volume.get(Volume.name == "found")).content == content
    server.bucket(PREFIX).delete(f"{disks[1].id}.qcow2")
    verified = outcome(engine, site.record(lambda: vm_backups.verify(made[1], "alice")))
    assert verified == ("failed", "BACKUP_DAMAGED"), "its object is gone"
    for backup in reversed(made):
        assert outcome(engine, site.record(partial(vm_backups.delete, reload(backup), "alice"))) == OK
    assert (server.objects, server.uploads) == (set(), set())


@pytest.mark.parametrize(
    ("changed", "reason"),
    [({"secret_key": "another"}, "STORE_CREDENTIALS"), ({"name": "no-bucket"}, "BUCKET_NOT_FOUND")],
)
def test_a_store_that_refuses_fails_the_backup(
    site: Site, engine: Engine, server: Swift, changed: dict[str, str], reason: str
) -> None:
    vm = running_vm(site, engine, "web")
    site.add_bucket_store(server.bucket(PREFIX, **changed))
    assert outcome(engine, back_up(site, vm)) == ("failed", reason)
    site.add_bucket_store(server.bucket(PREFIX))
    for left in Backup.select():
        assert outcome(engine, site.record(partial(vm_backups.delete, left, "alice"))) == OK
    assert (server.objects, server.uploads) == (set(), set())
