"""Snapshots of encrypted disks, taken while a real guest writes to them, compared with what the guest itself reads."""

from __future__ import annotations

import datetime
import hashlib
from pathlib import Path

import pytest
from google.longrunning import operations_pb2 as lro
from ostler.control.v1 import snapshot_pb2, volume_pb2
from ostler.types.v1 import volume_pb2 as volume_types

from tests.lab.console import Console
from tests.lab.fleet import MIB, SHARED_POOL, Fleet, fresh, refused
from tests.lab.host import SHARED, wait_for
from tests.lab.opened import digest

pytestmark = pytest.mark.lab
LUKS = volume_types.ENCRYPT_FORMAT_LUKS
DISK_MIB = 24


def digest_in_guest(console: Console, device: str) -> str:
    return console.run(f"sha256sum {device}", r"([0-9a-f]{64})  /dev")[1]


def file(fleet: Fleet, snapshot: snapshot_pb2.Snapshot) -> Path:
    return fleet.lab.hosts[0].outside(SHARED) / snapshot.id


def snapshot(fleet: Fleet, name: str) -> snapshot_pb2.Snapshot:
    return fleet.api.snapshots.GetSnapshot(snapshot_pb2.GetSnapshotRequest(snapshot=name))


def take(fleet: Fleet, volume: str, name: str) -> snapshot_pb2.Snapshot:
    request = snapshot_pb2.CreateSnapshotRequest(request_id=fresh(), volume=volume, name=name)
    fleet.do(fleet.api.snapshots.CreateSnapshot(request))
    return snapshot(fleet, name)


def revert(fleet: Fleet, name: str) -> lro.Operation:
    return fleet.api.snapshots.RevertVolume(snapshot_pb2.RevertVolumeRequest(request_id=fresh(), snapshot=name))


def delete(fleet: Fleet, name: str) -> None:
    request = snapshot_pb2.DeleteSnapshotRequest(request_id=fresh(), snapshot=name)
    fleet.do(fleet.api.snapshots.DeleteSnapshot(request))


def begin_schedule(fleet: Fleet, volume: str) -> snapshot_pb2.SnapshotSchedule:
    """Due at the next full minute but for one that is about to begin."""
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=65)
    request = snapshot_pb2.CreateSnapshotScheduleRequest(
        request_id=fresh(), volume=volume, interval=snapshot_pb2.SnapshotSchedule.HOURLY, minute=soon.minute, keep=3
    )
    return fleet.api.snapshots.CreateSnapshotSchedule(request)


def of_volume(fleet: Fleet, volume: str) -> list[snapshot_pb2.Snapshot]:
    return list(fleet.api.snapshots.ListSnapshots(snapshot_pb2.ListSnapshotsRequest(volume=volume)).snapshots)


def test_snapshots_of_a_running_encrypted_guest(fleet: Fleet, guest: str) -> None:
    for name in ("diary", "clocked"):
        fleet.do(fleet.create_volume(name, "secret-data", DISK_MIB))
    schedule = begin_schedule(fleet, "clocked")
    fleet.do(fleet.attach("diary", guest))
    with fleet.console(guest) as console:
        console.run("dd if=/dev/urandom of=/dev/vdb bs=1M count=8; mark first-entry /dev/vdb", "MARKED")
        then = digest_in_guest(console, "/dev/vdb")
        first = take(fleet, "diary", "first")
        before = console.tick()
        console.run("mark second-entry /dev/vdb", "MARKED")
        assert console.tick() > before
        since = digest_in_guest(console, "/dev/vdb")
        assert (first.state, first.online, first.encrypt_format) == (snapshot_pb2.Snapshot.READY, True, LUKS)
        assert first.size_bytes == DISK_MIB * MIB
        assert b"first-entry" not in file(fleet, first).read_bytes()
        assert digest(fleet, file(fleet, first)) == then != since
        assert refused(revert, fleet, "first").reason == "VM_RUNNING"
        fleet.do(fleet.detach("diary"))
        old = fleet.file("diary")
        assert digest(fleet, old) == since
        fleet.do(revert(fleet, "first"))
        assert not old.exists()
        assert digest(fleet, fleet.file("diary")) == then
        fleet.do(fleet.attach("diary", guest))
        console.run("head -n 1 /dev/vdb", "first-entry")
        request = volume_pb2.CreateVolumeRequest(request_id=fresh(), name="again", snapshot="first", pool=SHARED_POOL)
        fleet.do(fleet.api.volumes.CreateVolume(request))
        copy = volume_pb2.CopyVolumeRequest(request_id=fresh(), volume="diary", name="copied")
        fleet.do(fleet.api.volumes.CopyVolume(copy))  # online
        keys = {fleet.watch.key_of(path.name) for path in map(fleet.file, ("again", "copied", "diary"))}
        assert len(keys | {fleet.watch.key_of(first.id)}) == 4
        for name in ("again", "copied"):
            assert fleet.volume(name, read_file=True).file.encrypt_format == LUKS
            assert digest(fleet, fleet.file(name)) == then
    fleet.do(fleet.detach("diary"))
    delete(fleet, "first")
    assert not file(fleet, first).exists()
    wait_for(
        lambda: [row.state for row in of_volume(fleet, "clocked")] == [snapshot_pb2.Snapshot.READY], "its time", 100
    )
    (scheduled,) = of_volume(fleet, "clocked")
    assert (scheduled.schedule_id, scheduled.online) == (schedule.id, False)
    assert digest(fleet, file(fleet, scheduled)) == hashlib.sha256(bytes(DISK_MIB * MIB)).hexdigest()
    for name in ("diary", "clocked", "again", "copied"):
        fleet.do(fleet.delete_volume(name))
    assert not fleet.api.snapshots.ListSnapshotSchedules(snapshot_pb2.ListSnapshotSchedulesRequest()).schedules
    delete(fleet, scheduled.name)


def test_a_root_disk_goes_back_to_what_it_was_while_the_guest_ran(fleet: Fleet, guest: str) -> None:
    """Its file system was mounted when the snapshot was taken: it comes up as after a power cut."""
    root = fleet.root_volume(guest)
    with fleet.console(guest) as console:
        console.run("mark kept-by-the-root-snapshot", "MARKED")
        taken = take(fleet, root, "root-then")
        assert taken.online
        console.run("mark written-since-the-root-snapshot", "MARKED")
    fleet.do(fleet.stop(guest, force=True))
    fleet.do(revert(fleet, "root-then"))
    fleet.do(fleet.start(guest))
    with fleet.console(guest) as console:
        console.wait("tick 1", 90)
        found = console.run("cat /marker; echo EN''D", r"(?s)(kept-by-the-root-snapshot.*)END")[1]
        assert "written-since-the-root-snapshot" not in found
    delete(fleet, "root-then")
