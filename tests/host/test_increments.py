"""Backups that build on each other, by a real libvirtd and QEMU: each is the disk of its moment, whatever was between.

Nothing boots in the VMs: what a guest would write, QEMU's monitor writes through the guest's disk.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import grpc
import pytest
from ostler.agent.v1 import volume_pb2
from ostler.types.v1 import job_pb2
from ostler_agent.jobs import JobContext
from ostler_agent.spec import DiskFormat, VmSpec, VolumeRef
from ostler_agent.tools import qemu_img
from ostler_agent.volumes.disk_copies import Pair

from tests.host.conftest import contents, wire
from tests.host.live_copy_station import Station
from tests.lab.host import Host, wait_for
from tests.lab.lab import Lab
from tests.lab.machines import MIB, new_id, spec

pytestmark = pytest.mark.host
SIZE = 16 * MIB
BIG = 256 * MIB
CLUSTER = 64 << 10
URIS: dict[Path, str] = {}
NO_RECORD = "no record of what was written"


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    root = tmp_path_factory.mktemp("station")
    with Lab.start(hosts=1) as started:
        started.trust_each_other()
        host: Host = started.hosts[0]
        made = Station(host.libvirt_uri, root)
        URIS[root] = host.libvirt_uri
        yield made
        made.close()


@dataclass
class Taken:
    """A backup: its id, its file, what it builds on, and what the disk was at its moment."""

    backup_id: str
    ref: VolumeRef
    parent: Taken | None
    content: bytes


@dataclass
class Disk:
    """A VM with one disk, what a guest has written to it, and its backups."""

    station: Station
    source: VolumeRef
    vm: VmSpec
    tmp_path: Path
    content: bytearray = field(default_factory=lambda: bytearray(SIZE))
    taken: list[Taken] = field(default_factory=list)

    def start(self) -> None:
        self.station.driver.start(self.vm, self.station.pools.volume_path)

    def stop(self) -> None:
        self.station.driver.power_off(self.vm.vm_id)
        self.station.driver.delete(self.vm.vm_id)

    def write(self, value: int, offset: int, count: int) -> None:
        how = f"-P {value}" if value else "-z"
        self.station.io(self.vm, f"write {how} {offset} {count}")
        self.content[offset : offset + count] = bytes([value]) * count

    def back_up(self, parent: Taken | None = None) -> str:
        """Why it is a full one; "" for an increment."""
        ref, backup_id = self.station.ref((DiskFormat.QCOW2, True)), new_id()
        pair = Pair(self.source, ref, parent.backup_id if parent else "")
        [info] = self.station.volumes.disk_copies.copy(JobContext(new_id()), self.vm.vm_id, [pair], backup_id)
        assert info.full_reason is not None
        found = None if info.full_reason else parent
        self.taken.append(Taken(backup_id, ref, found, bytes(self.content)))
        return info.full_reason

    def check(self) -> None:
        """Every backup is what the disk was."""
        for number, one in enumerate(self.taken):
            assert restored(self.station, one, self.tmp_path / f"{number}") == one.content, f"backup {number}"

    def bitmaps(self) -> set[str]:
        """Those in its file, which is closed."""
        command = ["qemu-img", "info", "--output=json", str(self.station.path(self.source))]
        data = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        return {bitmap["name"] for bitmap in data["format-specific"]["data"].get("bitmaps", [])}


def restored(station: Station, one: Taken, out: Path) -> bytes:
    parents: list[VolumeRef] = []
    above = one.parent
    while above is not None:
        parents.append(above.ref)
        above = above.parent
    target = station.ref((DiskFormat.QCOW2, True))
    station.volumes.copies.copy(JobContext(new_id()), one.ref, target, parents=parents)
    found = contents(station.path(target), target, out)
    station.volumes.delete(JobContext(new_id()), target)
    return found


@pytest.fixture
def disk(station: Station, tmp_path: Path) -> Iterator[Disk]:
    yield from started(station, tmp_path, SIZE)


@pytest.fixture
def big_disk(station: Station, tmp_path: Path) -> Iterator[Disk]:
    """Copying it, encrypted, takes long enough to kill an agent meanwhile."""
    yield from started(station, tmp_path, BIG)


def started(station: Station, tmp_path: Path, size_bytes: int) -> Iterator[Disk]:
    source = station.ref((DiskFormat.QCOW2, True))
    station.volumes.create(JobContext(new_id()), source, size_bytes)
    made = Disk(station, source, spec(source), tmp_path, bytearray(size_bytes))
    made.start()
    yield made
    made.stop()


def test_a_running_and_a_stopped_vm_in_turn(disk: Disk) -> None:
    disk.write(1, 0, 2 * MIB)
    disk.write(2, 8 * MIB, MIB)
    assert NO_RECORD in disk.back_up()
    disk.write(3, MIB, CLUSTER)
    disk.write(0, 8 * MIB, 2 * CLUSTER)
    assert disk.back_up(disk.taken[-1]) == ""
    disk.write(4, 9 * MIB - 512, 1024)  # two clusters in part
    disk.stop()
    assert disk.back_up(disk.taken[-1]) == ""
    assert disk.back_up(disk.taken[-1]) == "", "nothing has changed"
    assert len(disk.bitmaps()) == 2, "one for the next backup, one should this one be lost"
    disk.start()
    disk.write(5, 12 * MIB, MIB)
    assert disk.back_up(disk.taken[-1]) == ""
    files = [disk.station.path(one.ref).stat().st_blocks * 512 for one in disk.taken]
    assert max(files[1:4]) < files[0] - 2 * MIB, "only what was written"
    disk.check()


def test_a_backup_that_is_lost_is_left_out(disk: Disk) -> None:
    disk.write(1, 0, MIB)
    disk.back_up()
    disk.write(2, MIB, MIB)
    disk.back_up(disk.taken[0])
    disk.write(3, 2 * MIB, MIB)
    assert disk.back_up(disk.taken[0]) == "", "the one before is still recorded"
    assert NO_RECORD in disk.back_up(disk.taken[1])
    disk.check()


@pytest.mark.parametrize(
    ("in_file", "runs", "grows", "expected"),
    [
        (True, True, False, "crashed"),
        (True, False, False, "crashed"),
        (False, True, False, NO_RECORD),
        # QEMU does not grow a disk with such a record, so that it goes.
        (True, True, True, NO_RECORD),
        (True, False, True, NO_RECORD),
    ],
)
def test_a_record_that_was_not_saved_is_never_used(
    disk: Disk, in_file: bool, runs: bool, grows: bool, expected: str
) -> None:
    disk.write(1, 0, MIB)
    disk.back_up()
    if in_file:  # QEMU writes it there when it ends
        disk.stop()
        disk.start()
    disk.write(2, MIB, MIB)
    disk.station.io(disk.vm, "flush")  # what a guest did not flush may be lost with QEMU
    [pid] = qemu_of(disk.vm.vm_id)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not disk.station.driver.running(disk.vm.vm_id), "the VM's end")
    disk.station.driver.delete(disk.vm.vm_id)
    if runs:
        disk.start()
        disk.write(3, 2 * MIB, MIB)
    if grows:
        disk.station.volumes.grow(JobContext(new_id()), disk.source, SIZE + MIB)
        disk.content.extend(bytes(MIB))
    assert expected in disk.back_up(disk.taken[0])
    disk.check()
    assert disk.back_up(disk.taken[-1]) == ""
    disk.check()
    if not runs:
        disk.start()


def qemu_of(vm_id: str) -> Iterator[int]:
    for place in Path("/proc").glob("[0-9]*"):
        try:
            command = (place / "cmdline").read_bytes()
        except OSError:
            continue
        if vm_id.encode() in command and b"qemu-system" in command.split(b"\0")[0]:
            yield int(place.name)


def test_a_raw_disk_is_copied_whole(station: Station, tmp_path: Path) -> None:
    source = station.ref((DiskFormat.RAW, True))
    station.volumes.create(JobContext(new_id()), source, SIZE)
    made = Disk(station, source, spec(source), tmp_path)
    made.start()
    made.write(1, 0, SIZE)
    assert "not in the format qcow2" in made.back_up()
    made.write(2, 0, MIB)
    assert "not in the format qcow2" in made.back_up(made.taken[0])
    made.stop()
    assert "not in the format qcow2" in made.back_up(made.taken[0])
    made.check()


@pytest.mark.parametrize("disk_format", [DiskFormat.QCOW2, DiskFormat.RAW])
def test_a_disk_that_moves_to_another_file_while_its_vm_runs(disk: Disk, disk_format: DiskFormat) -> None:
    disk.write(1, 0, MIB)
    disk.back_up()
    disk.write(2, 4 * MIB, MIB)
    mirrors, target = disk.station.volumes.mirrors, disk.station.ref((disk_format, True))
    mirrors.begin(JobContext(new_id()), disk.vm.vm_id, disk.source, target)
    disk.write(3, 8 * MIB, MIB)
    mirrors.pivot(JobContext(new_id()), disk.vm.vm_id, disk.source, target)
    disk.source = target
    disk.write(4, 12 * MIB, MIB)
    reason = disk.back_up(disk.taken[0])
    if disk_format is DiskFormat.RAW:
        assert "not in the format qcow2" in reason
    disk.write(5, 13 * MIB, MIB)
    assert (disk.back_up(disk.taken[-1]) == "") == (disk_format is DiskFormat.QCOW2)
    disk.check()


AGENT = """
import sys
from pathlib import Path
from ostler.agent.v1 import volume_pb2
from tests.host.live_copy_station import Station

uri, root, request = sys.argv[1:]
station = Station(uri, Path(root))
list(station.service.CopyDisks(volume_pb2.CopyDisksRequest.FromString(bytes.fromhex(request)), None))
"""


@pytest.mark.parametrize("runs", [True, False])
def test_an_agent_killed_in_the_middle_leaves_the_chain_as_it_was(big_disk: Disk, runs: bool) -> None:
    disk, station = big_disk, big_disk.station
    disk.back_up()
    disk.write(2, 0, BIG)  # all of it is to be copied
    if not runs:
        disk.stop()
    target = station.ref((DiskFormat.QCOW2, True))
    copied = volume_pb2.DiskCopy(source=wire(disk.source), target=wire(target), since=disk.taken[0].backup_id)
    request = volume_pb2.CopyDisksRequest(
        operation=job_pb2.OperationRef(id=new_id(), attempt=1),
        vm_id=disk.vm.vm_id,
        disks=[copied],
        record_id=new_id(),
    )
    argv = [sys.executable, "-c", AGENT, URIS[station.root], str(station.root), request.SerializeToString().hex()]
    draft = station.path(target).with_name(f".{target.volume_id}.part")
    with subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": ":".join(sys.path)}) as agent:
        try:
            wait_for(lambda: draft.exists() and draft.stat().st_size > MIB, "the middle of the copy", 60, every_s=0.01)
        finally:
            agent.kill()
    after = Station(URIS[station.root], station.root)
    try:
        *_, update = after.jobs.watch(request.operation.id)
        assert update.state == job_pb2.JobUpdate.State.FAILED
        request.operation.attempt = 2
        *_, update = after.service.CopyDisks(request, cast("grpc.ServicerContext", None))
        assert update.state == job_pb2.JobUpdate.State.SUCCEEDED
    finally:
        after.close()
    [part] = update.copied_disks.parts
    disk.taken.append(Taken(request.record_id, target, disk.taken[0] if part.increment else None, bytes(disk.content)))
    assert part.increment or not runs, "of a stopped VM, what was killed had the disk open"
    disk.back_up(disk.taken[-1])
    disk.check()
    if not runs:
        disk.start()


def test_random_histories(disk: Disk) -> None:
    draw, running = random.Random(16), True
    for _ in range(24):
        match draw.choice(["write", "write", "backup", "power", "grow"]):
            case "write" if running:
                count = draw.choice([512, CLUSTER, 5 * CLUSTER + 512])
                disk.write(draw.randrange(4), draw.randrange((len(disk.content) - count) // 512) * 512, count)
            case "power":
                disk.stop() if running else disk.start()
                running = not running
            case "grow" if not running:
                qemu_img.resize(
                    disk.station.path(disk.source), DiskFormat.QCOW2, len(disk.content) + MIB, key=disk.source.key
                )
                disk.content.extend(bytes(MIB))
            case "backup":
                disk.back_up(draw.choice(disk.taken[-2:]) if disk.taken else None)
    if not running:
        disk.start()
    assert sum(one.parent is not None for one in disk.taken) >= 3
    disk.check()
