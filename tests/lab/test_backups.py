"""A backup of a running, encrypted guest, compared with what the guest itself read, and booted as another VM."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from google.longrunning import operations_pb2 as lro
from ostler.control.v1 import backup_pb2, vm_pb2
from ostler.types.v1 import volume_pb2 as volume_types
from ostler_control.state_dir import StateDir

from tests.lab.console import Console
from tests.lab.fleet import MIB, SECRET, SHARED_POOL, Fleet, fresh, refused
from tests.lab.host import wait_for
from tests.lab.opened import digest

pytestmark = pytest.mark.lab
DISK_MIB = 24


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
    boot = backup_pb2.VerifyBackupRequest(request_id=fresh(), backup="nightly", boot=True, console_text="tick 1")
    fleet.do(api.VerifyBackup(boot), 240)
    booted = backup(fleet)
    assert (booted.HasField("boot_time"), booted.boot_sign, booted.boot_error) == (True, "console", "")
    assert [vm.name for vm in fleet.vms()] == [guest], "the VM that tested it is gone"

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


@pytest.mark.timeout(900)
def test_a_file_of_a_running_guest_is_read_from_its_backup(fleet: Fleet, guest: str, store: Path) -> None:
    """From an increment, encrypted like all it builds on, without a restore."""
    with fleet.console(guest) as console:
        console.run("mark before-the-first", "MARKED")
        take(fleet, guest, "first")
        console.run("mark before-the-second", "MARKED")
        take(fleet, guest, "second")
        console.run("mark after-both", "MARKED")
    read = fleet.api.backups.ReadBackupFiles
    systems = [one for part in read(backup_pb2.ReadBackupFilesRequest(backup="second")) for one in part.file_systems]
    assert [(one.name, one.type) for one in systems] == [("/dev/sda1", "ext4")]
    parts = list(read(backup_pb2.ReadBackupFilesRequest(backup="second", path=b"/marker", content=True)))
    content = b"".join(part.data for part in parts)
    assert parts[-1].sha256 == hashlib.sha256(content).hexdigest()
    assert content.splitlines()[-2:] == [b"before-the-first", b"before-the-second"]
    for name in ("second", "first"):
        fleet.do(delete(fleet, name))


def test_increments_of_a_guest_that_runs_moves_and_stops_are_its_disk_bit_for_bit(
    fleet: Fleet, guest: str, store: Path
) -> None:
    api = fleet.api.backups
    fleet.do(fleet.create_volume("journal", "secret-data", DISK_MIB))
    fleet.do(fleet.attach("journal", guest))
    moments: list[str] = []

    def write_and_back_up(console: Console, at_mib: int) -> backup_pb2.BackupDisk:
        console.run(f"dd if=/dev/urandom of=/dev/vdb bs=1M count=3 seek={at_mib} conv=notrunc; sync; mark x", "MARKED")
        moments.append(console.run("sha256sum /dev/vdb", r"([0-9a-f]{64})  /dev")[1])
        return take(fleet, guest, f"daily-{len(moments)}").disks[1]

    with fleet.console(guest) as console:
        first, second = write_and_back_up(console, 1), write_and_back_up(console, 12)
    assert (first.parent_backup_name, first.full_reason != "") == ("", True)
    assert (second.parent_backup_name, second.full_reason) == ("daily-1", "")
    assert second.file_size_bytes < first.file_size_bytes + 2 * MIB
    fleet.do(fleet.migrate(guest))
    with fleet.console(guest) as console:
        third = write_and_back_up(console, 2)
    assert third.parent_backup_name == "daily-2", third.full_reason
    fleet.do(fleet.stop(guest, force=True))
    fourth = take(fleet, guest, "daily-4").disks[1]
    moments.append(digest(fleet, fleet.file("journal")))
    assert fourth.parent_backup_name == "daily-3", fourth.full_reason
    fleet.do(fleet.start(guest))

    assert refused(delete, fleet, "daily-1").reason == "BACKUP_NEEDED"
    fleet.do(api.VerifyBackup(backup_pb2.VerifyBackupRequest(request_id=fresh(), backup="daily-4")))
    for number, then in enumerate(moments, 1):
        name = f"journal-{number}"
        request = backup_pb2.RestoreVolumeRequest(request_id=fresh(), backup=f"daily-{number}", slot=1, name=name)
        fleet.do(api.RestoreVolume(request))
        assert fleet.volume(name, read_file=True).file.encrypt_format == volume_types.ENCRYPT_FORMAT_LUKS
        assert digest(fleet, fleet.file(name)) == then
        fleet.do(fleet.delete_volume(name))
    again = backup_pb2.RestoreVmRequest(request_id=fresh(), backup="daily-3", name="again", without_nics=True)
    fleet.do(api.RestoreVm(again))
    fleet.do(fleet.start("again"))
    with fleet.console("again") as console:
        console.wait("tick 1", 90)
        assert console.run("sha256sum /dev/vdb", r"([0-9a-f]{64})  /dev")[1] == moments[2]
    fleet.delete_vm("again")
    fleet.do(fleet.delete_volume("again-data-1"))
    for number in range(4, 0, -1):
        fleet.do(delete(fleet, f"daily-{number}"))
    fleet.do(fleet.detach("journal"))
    fleet.do(fleet.delete_volume("journal"))


def test_a_disk_that_moves_live_to_another_host_is_never_backed_up_wrong(fleet: Fleet, store: Path) -> None:
    fleet.create_vm("rover", SECRET, host="h1", pool="local-h1")
    fleet.do(fleet.create_volume("luggage", "secret-data", DISK_MIB, pool="local-h1"))
    fleet.do(fleet.attach("luggage", "rover"))
    moments: list[str] = []
    with fleet.console("rover") as console:
        console.wait("tick 1", 90)

    def write_and_back_up(at_mib: int) -> str:
        """What its disk builds on."""
        with fleet.console("rover") as console:
            console.run(f"dd if=/dev/urandom of=/dev/vdb bs=1M count=2 seek={at_mib}; sync; mark x", "MARKED")
            moments.append(console.run("sha256sum /dev/vdb", r"([0-9a-f]{64})  /dev")[1])
        return take(fleet, "rover", f"stop-{len(moments)}").disks[1].parent_backup_name

    assert write_and_back_up(0) == ""
    fleet.do(fleet.migrate("rover", "h2", with_storage=True, pool="local-h2"))
    # libvirt may bring the record along.
    assert write_and_back_up(8) in ("", "stop-1")
    assert write_and_back_up(16) == "stop-2"
    fleet.do(fleet.stop("rover", force=True))
    for number, then in enumerate(moments, 1):
        request = backup_pb2.RestoreVolumeRequest(
            request_id=fresh(), backup=f"stop-{number}", slot=1, name="found", pool=SHARED_POOL
        )
        fleet.do(fleet.api.backups.RestoreVolume(request))
        assert digest(fleet, fleet.file("found")) == then, f"stop-{number}"
        fleet.do(fleet.delete_volume("found"))
    for number in (3, 2, 1):
        fleet.do(delete(fleet, f"stop-{number}"))
    fleet.delete_vm("rover")
    fleet.do(fleet.delete_volume("luggage"))


def take(fleet: Fleet, vm: str, name: str) -> backup_pb2.Backup:
    fleet.do(fleet.api.backups.CreateBackup(backup_pb2.CreateBackupRequest(request_id=fresh(), vm=vm, name=name)))
    return fleet.api.backups.GetBackup(backup_pb2.GetBackupRequest(backup=name))


def delete(fleet: Fleet, name: str) -> lro.Operation:
    return fleet.api.backups.DeleteBackup(backup_pb2.DeleteBackupRequest(request_id=fresh(), backup=name))


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
    # The next one of the schedule is to build on this one, and so not on the first, which would have to stay for it.
    whole = backup_pb2.CreateBackupRequest(request_id=fresh(), vm=guest, name="by-hand", full=True)
    fleet.do(api.CreateBackup(whole))
    due(fleet)
    wait_for(lambda: first.id not in [row.id for row in backups(fleet)], "the first one's deletion", 150)
    [second, by_hand] = backups(fleet)
    assert (second.state, by_hand.name) == (backup_pb2.Backup.READY, "by-hand")
    of_rows = {*_file_names(store, second), *_file_names(store, by_hand)}
    assert {path.name for path in store.iterdir()} == {".ostler-pool", *of_rows}
    api.DeleteBackupSchedule(backup_pb2.DeleteBackupScheduleRequest(schedule=schedule.id))
    for left in (second, by_hand):
        fleet.do(api.DeleteBackup(backup_pb2.DeleteBackupRequest(request_id=fresh(), backup=left.id)))


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
