"""Snapshots and clones of a running guest with two encrypted data disks: of one moment, and reverted as a whole."""

from __future__ import annotations

import datetime
import re

import pytest
from google.longrunning import operations_pb2 as lro
from ostler.control.v1 import snapshot_pb2, vm_pb2, vm_snapshot_pb2
from ostler.types.v1 import volume_pb2 as volume_types

from tests.lab.console import Console
from tests.lab.fleet import Fleet, fresh, refused
from tests.lab.host import SHARED, wait_for
from tests.lab.opened import content

pytestmark = pytest.mark.lab
NEEDLE = "plain-text-in-the-memory-of-a-guest"
READY = vm_snapshot_pb2.VmSnapshot.READY
DISK_MIB = 24
# Counts up on one disk and then on the other, so that at any one moment the first is equal or one ahead.
COUNTING = (
    "rm -f /tmp/stop; n=0; while [ ! -e /tmp/stop ]; do n=$((n + 1)); "
    'for disk in vdb vdc; do echo "count $n" | dd of=/dev/$disk conv=notrunc,fsync 2>/dev/null; done; done & '
    "echo COUNT''ING"
)


def counts(console: Console) -> tuple[int, int]:
    found = console.run(
        "head -n 1 /dev/vdb /dev/vdc | cat; echo EN''D", r"(?s)vdb <==\s+count (\d+).*vdc <==\s+count (\d+).*END"
    )
    return int(found[1]), int(found[2])


def snapshot(fleet: Fleet) -> vm_snapshot_pb2.VmSnapshot:
    return fleet.api.vm_snapshots.GetVmSnapshot(vm_snapshot_pb2.GetVmSnapshotRequest(vm_snapshot="whole"))


def revert(fleet: Fleet) -> lro.Operation:
    request = vm_snapshot_pb2.RevertVmRequest(request_id=fresh(), vm_snapshot="whole")
    return fleet.api.vm_snapshots.RevertVm(request)


def begin_schedule(fleet: Fleet, vm: str) -> vm_snapshot_pb2.VmSnapshotSchedule:
    """Due at the next full minute but for one that is about to begin."""
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=65)
    request = vm_snapshot_pb2.CreateVmSnapshotScheduleRequest(
        request_id=fresh(), vm=vm, interval=vm_snapshot_pb2.VmSnapshotSchedule.HOURLY, minute=soon.minute, keep=3
    )
    return fleet.api.vm_snapshots.CreateVmSnapshotSchedule(request)


def scheduled(fleet: Fleet, vm: str) -> list[vm_snapshot_pb2.VmSnapshot]:
    found = fleet.api.vm_snapshots.ListVmSnapshots(vm_snapshot_pb2.ListVmSnapshotsRequest(vm=vm)).vm_snapshots
    return [row for row in found if row.name != "whole"]


@pytest.mark.timeout(600)
def test_a_running_guest_with_two_disks_goes_back_as_a_whole(fleet: Fleet, guest: str) -> None:
    for name in ("ledger", "journal"):
        fleet.do(fleet.create_volume(name, "secret-data", DISK_MIB))
        fleet.do(fleet.attach(name, guest))
    create = vm_snapshot_pb2.CreateVmSnapshotRequest(request_id=fresh(), vm=guest, name="whole")
    with fleet.console(guest) as console:
        console.run("guest-agent", "AGENT-STARTED")
        for disk in ("vdb", "vdc"):
            console.run(f"dd if=/dev/urandom of=/dev/{disk} bs=1M count=8; echo FILL''ED", "FILLED")
        console.run("mark kept-by-the-snapshot", "MARKED")
        console.run(COUNTING, "COUNTING")
        console.wait("tick")
        fleet.do(fleet.api.vm_snapshots.CreateVmSnapshot(create))
        console.run("touch /tmp/stop; mark written-since", "MARKED")
        ended = counts(console)
    taken = snapshot(fleet)
    assert (taken.online, taken.consistency) == (True, volume_types.CONSISTENCY_APPLICATION)
    assert {disk.encrypt_format for disk in taken.disks} == {volume_types.ENCRYPT_FORMAT_LUKS}
    assert [disk.volume_name for disk in taken.disks][1:] == ["ledger", "journal"]
    keys = {fleet.watch.key_of(disk.snapshot_id) for disk in taken.disks}
    assert len(keys) == 3
    files = [fleet.lab.hosts[0].outside(SHARED) / disk.snapshot_id for disk in taken.disks]
    assert not any(re.search(rb"count \d", file.read_bytes()) for file in files)
    part = snapshot_pb2.DeleteSnapshotRequest(request_id=fresh(), snapshot=taken.disks[1].snapshot_name)
    assert refused(fleet.api.snapshots.DeleteSnapshot, part).reason == "PART_OF_VM_SNAPSHOT"

    assert refused(revert, fleet).reason == "VM_RUNNING"
    fleet.do(fleet.stop(guest, force=True))
    fleet.do(fleet.detach("journal"))
    assert refused(revert, fleet).reason == "DISKS_CHANGED"
    fleet.do(fleet.attach("journal", guest))
    fleet.do(revert(fleet))
    schedule = begin_schedule(fleet, guest)
    fleet.do(fleet.start(guest))
    with fleet.console(guest) as console:
        console.wait("tick 1", 90)
        first, second = counts(console)
        assert second <= first <= second + 1, "the disks are of two moments"
        assert 0 < first < ended[0]
        found = console.run("cat /marker; echo EN''D", r"(?s)(kept-by-the-snapshot.*)END")[1]
        assert "written-since" not in found
    wait_for(
        lambda: [row.state for row in scheduled(fleet, guest)] == [vm_snapshot_pb2.VmSnapshot.READY], "its time", 130
    )
    [by_clock] = scheduled(fleet, guest)
    assert (by_clock.online, len(by_clock.disks)) == (True, 3)
    stop = vm_snapshot_pb2.DeleteVmSnapshotScheduleRequest(schedule=schedule.id)
    fleet.api.vm_snapshots.DeleteVmSnapshotSchedule(stop)
    for name in ("whole", by_clock.name):
        gone = vm_snapshot_pb2.DeleteVmSnapshotRequest(request_id=fresh(), vm_snapshot=name)
        fleet.do(fleet.api.vm_snapshots.DeleteVmSnapshot(gone))
    assert not any(file.exists() for file in files)
    for name in ("ledger", "journal"):
        fleet.do(fleet.detach(name))
        fleet.do(fleet.delete_volume(name))


@pytest.mark.timeout(600)
def test_a_guest_continues_from_the_memory_of_its_snapshot(fleet: Fleet, guest: str) -> None:
    shared = fleet.lab.hosts[0].outside(SHARED)
    before = set(shared.iterdir())
    create = vm_snapshot_pb2.CreateVmSnapshotRequest(request_id=fresh(), vm=guest, name="lively", memory=True)
    with fleet.console(guest) as console:
        console.run(f"kept=$(yes {NEEDLE[:8]}''{NEEDLE[8:]} | head -n 50000); echo FILL''ED", "FILLED")
        counted = console.tick()
        fleet.do(fleet.api.vm_snapshots.CreateVmSnapshot(create))
        assert counted < console.tick() < 10_000, "the guest goes on"
        console.run("kept=nothing; mark written-since", "MARKED")
    taken = fleet.api.vm_snapshots.GetVmSnapshot(vm_snapshot_pb2.GetVmSnapshotRequest(vm_snapshot="lively"))
    assert 0 < taken.memory.used_bytes < taken.memory.size_bytes
    [memory] = set(shared.iterdir()) - before - {shared / disk.snapshot_id for disk in taken.disks}
    plain = (NEEDLE.encode(), b"LibvirtQemudSave")
    assert all(word in content(fleet, memory) for word in plain)
    assert not any(word in memory.read_bytes() for word in plain)

    request = vm_snapshot_pb2.RevertVmRequest(request_id=fresh(), vm_snapshot="lively")
    assert refused(fleet.api.vm_snapshots.RevertVm, request).reason == "VM_RUNNING"
    fleet.do(fleet.stop(guest, force=True))
    request.request_id = fresh()
    fleet.do(fleet.api.vm_snapshots.RevertVm(request))
    assert len(fleet.hosts_running(fleet.vm(guest).id)) == 1
    with fleet.console(guest) as console:
        assert console.tick() >= counted, "the guest has booted"
        assert console.run('echo "lines $(echo "$kept" | grep -c plain)"', r"lines (\d+)\r?\n")[1] == "50000"
        assert "written-since" not in console.run("cat /marker; echo EN''D", r"(?s)(.*)END")[1]
        console.run("mark written-after", "MARKED")
    gone = vm_snapshot_pb2.DeleteVmSnapshotRequest(request_id=fresh(), vm_snapshot="lively")
    fleet.do(fleet.api.vm_snapshots.DeleteVmSnapshot(gone))
    assert not memory.exists()


@pytest.mark.timeout(600)
def test_a_clone_of_a_running_guest_has_both_disks_of_one_moment(fleet: Fleet, guest: str) -> None:
    for name in ("ledger", "journal"):
        fleet.do(fleet.create_volume(name, "secret-data", DISK_MIB))
        fleet.do(fleet.attach(name, guest))
    with fleet.console(guest) as console:
        for disk in ("vdb", "vdc"):
            console.run(f"dd if=/dev/urandom of=/dev/{disk} bs=1M count=8; echo FILL''ED", "FILLED")
        console.run(COUNTING, "COUNTING")
        console.wait("tick")
        fleet.do(fleet.api.vms.CloneVm(vm_pb2.CloneVmRequest(request_id=fresh(), vm=guest, name="twin")))
        console.run("touch /tmp/stop; mark written-since", "MARKED")
        ended = counts(console)
    files = [fleet.file(name) for name in ("ledger", "journal", "twin-data-1", "twin-data-2")]
    keys = {fleet.watch.key_of(path.name) for path in files}
    assert len(keys) == 4
    fleet.do(fleet.start("twin"))
    with fleet.console("twin") as console:
        console.wait("tick 1", 90)
        first, second = counts(console)
        assert second <= first <= second + 1, "the disks are of two moments"
        assert 0 < first < ended[0]
    fleet.delete_vm("twin")
    for name in ("ledger", "journal"):
        fleet.do(fleet.detach(name))
    for name in ("ledger", "journal", "twin-data-1", "twin-data-2"):
        fleet.do(fleet.delete_volume(name))
