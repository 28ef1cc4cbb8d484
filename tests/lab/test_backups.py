"""A backup of a running, encrypted guest, compared with what the guest itself read, and booted as another VM."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from ostler.control.v1 import backup_pb2, vm_pb2
from ostler.types.v1 import volume_pb2 as volume_types
from ostler_control.state_dir import StateDir

from tests.lab.fleet import CLUSTER, Fleet, fresh
from tests.lab.host import SHARED, wait_for
from tests.lab.opened import digest

pytestmark = pytest.mark.lab
DISK_MIB = 24


@pytest.fixture
def store(fleet: Fleet) -> Iterator[Path]:
    """The directory of a store on the shared file system."""
    inside = f"{SHARED}/backups"
    outside = fleet.lab.hosts[0].outside(inside)
    outside.mkdir()
    request = backup_pb2.CreateBackupStoreRequest(request_id=fresh(), name="vault", path=inside, cluster=CLUSTER)
    fleet.api.backups.CreateBackupStore(request)
    yield outside
    fleet.api.backups.DeleteBackupStore(backup_pb2.DeleteBackupStoreRequest(store="vault"))
    (outside / ".ostler-pool").unlink()
    outside.rmdir()  # nothing else is left


def backup(fleet: Fleet) -> backup_pb2.Backup:
    return fleet.api.backups.GetBackup(backup_pb2.GetBackupRequest(backup="nightly"))


def test_a_running_guest_is_backed_up_and_comes_up_again_as_another_vm(fleet: Fleet, guest: str, store: Path) -> None:
    api = fleet.api.backups
    fleet.do(fleet.create_volume("ledger", "secret-data", DISK_MIB))
    fleet.do(fleet.attach("ledger", guest))
    with fleet.console(guest) as console:
        console.run("dd if=/dev/urandom of=/dev/vdb bs=1M count=8; mark first-entry /dev/vdb", "MARKED")
        then = console.run("sha256sum /dev/vdb", r"([0-9a-f]{64})  /dev")[1]
        console.run("mark kept-by-the-backup", "MARKED")
        fleet.do(api.CreateBackup(backup_pb2.CreateBackupRequest(request_id=fresh(), vm=guest, name="nightly")))
        console.run("mark second-entry /dev/vdb", "MARKED")
    made = backup(fleet)
    assert (made.online, [disk.encrypted for disk in made.disks]) == (True, [True, True])
    files = {disk.volume_name: path for disk in made.disks for path in store.iterdir() if _is_of(path, disk)}
    assert b"first-entry" not in files["ledger"].read_bytes()
    assert digest(fleet, files["ledger"]) == then
    verify = backup_pb2.VerifyBackupRequest(request_id=fresh(), backup="nightly")
    fleet.do(api.VerifyBackup(verify))

    request = backup_pb2.RestoreVmRequest(request_id=fresh(), backup="nightly", name="again", without_nics=True)
    fleet.do(api.RestoreVm(request))
    restored = fleet.vm("again")
    assert restored.state == vm_pb2.Vm.STOPPED
    for volume in restored.volumes:
        found = fleet.volume(volume.volume_id, read_file=True)
        assert found.file.encrypt_format == volume_types.ENCRYPT_FORMAT_LUKS
    assert digest(fleet, fleet.file("again-data-1")) == then
    fleet.do(fleet.start("again"))
    with fleet.console("again") as console:
        console.wait("tick 1", 90)
        assert console.run("sha256sum /dev/vdb", r"([0-9a-f]{64})  /dev")[1] == then
        console.run("cat /marker", "kept-by-the-backup")
    fleet.delete_vm("again")
    fleet.do(fleet.delete_volume("again-data-1"))

    with files["ledger"].open("r+b") as file:  # a bit rots
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    damaged = fleet.error(api.VerifyBackup(backup_pb2.VerifyBackupRequest(request_id=fresh(), backup="nightly")))
    assert damaged.reason == "BACKUP_DAMAGED"
    fleet.do(api.DeleteBackup(backup_pb2.DeleteBackupRequest(request_id=fresh(), backup="nightly")))
    fleet.do(fleet.detach("ledger"))
    fleet.do(fleet.delete_volume("ledger"))


def test_a_schedule_backs_up_a_running_guest_and_deletes_old_backups(fleet: Fleet, guest: str, store: Path) -> None:
    api = fleet.api.backups
    request = backup_pb2.CreateBackupScheduleRequest(
        request_id=fresh(), vm=guest, interval=backup_pb2.BackupSchedule.MONTHLY, hour=3, day=28,
        keep=backup_pb2.BackupRetention(last=1),
    )  # fmt: skip
    schedule = api.CreateBackupSchedule(request)
    due(fleet)
    wait_for(lambda: [row.state for row in backups(fleet)] == [backup_pb2.Backup.READY], "the first", 150)
    [first] = backups(fleet)
    assert (first.vm_name, first.online, [disk.encrypted for disk in first.disks]) == (guest, True, [True])
    due(fleet)
    wait_for(lambda: first.id not in [row.id for row in backups(fleet)], "the first one's deletion", 150)
    [second] = backups(fleet)
    assert second.state == backup_pb2.Backup.READY
    assert {path.name for path in store.iterdir()} == {".ostler-pool", *_file_names(store, second)}
    api.DeleteBackupSchedule(backup_pb2.DeleteBackupScheduleRequest(schedule=schedule.id))
    fleet.do(api.DeleteBackup(backup_pb2.DeleteBackupRequest(request_id=fresh(), backup=second.id)))


def backups(fleet: Fleet) -> list[backup_pb2.Backup]:
    return list(fleet.api.backups.ListBackups(backup_pb2.ListBackupsRequest()).backups)


def due(fleet: Fleet) -> None:
    """As if the time of every schedule had come."""
    database = StateDir(fleet.lab.control.state_dir).database
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        connection.execute("UPDATE backup_schedule SET next_time = '2026-01-01 00:00:00'")


def _file_names(store: Path, made: backup_pb2.Backup) -> set[str]:
    return {path.name for disk in made.disks for path in store.iterdir() if _is_of(path, disk)}


def _is_of(path: Path, disk: backup_pb2.BackupDisk) -> bool:
    """A file is known by its digest."""
    return path.stat().st_size == disk.file_size_bytes and hashlib.sha256(path.read_bytes()).hexdigest() == disk.sha256
