"""The memory of running VMs, kept in encrypted images and continued from, by a real libvirtd and QEMU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from ostler.agent.v1 import volume_pb2
from ostler.types.v1 import job_pb2
from ostler_agent.hypervisors.libvirt import backup
from ostler_agent.jobs import JobContext
from ostler_agent.memory_files import MemoryFiles, size_for
from ostler_agent.seeds import Seeds
from ostler_agent.spec import DiskFormat, DiskSpec, Key, KeyUse, PowerState, VmSpec, VolumeRef
from ostler_agent.vms import continuing
from ostler_agent.volumes.disk_copies import DiskCopies, Pair
from ostler_common.errors import AbortedError, CancelledError, from_status

from tests.host.conftest import contents, need, wire
from tests.host.live_copy_station import Station
from tests.host.volumes import reason
from tests.lab.host import Host
from tests.lab.lab import Lab
from tests.lab.machines import MIB, new_id, new_key, secrets_on, spec

pytestmark = pytest.mark.host
QCOW2 = DiskFormat.QCOW2
SIZE = 16 * MIB
State = job_pb2.JobUpdate.State

# The lab host has mounts of its own, which this process does not share: what shows the memory must run there.
DAEMON = """#!/bin/bash
words=()
for word in "$@"; do
  if [[ $word =~ ^(secret,id=[^,]+),file=/proc/self/fd/([0-9]+)$ ]]; then
    echo "$word" >&2; word="${{BASH_REMATCH[1]}},data=$(cat /proc/self/fd/${{BASH_REMATCH[2]}})"
  fi
  words+=("$word")
done
exec nsenter --target {pid} --mount -- {program} "${{words[@]}}"
"""


@dataclass
class Place:
    """A lab host, and a directory that it sees under the same name as this process does."""

    host: Host
    root: Path

    def station(self) -> Station:
        made = Station(self.host.libvirt_uri, self.root)
        made.volumes.disk_copies = DiskCopies(made.pools, made.driver, made.volumes.locks, self.files)
        return made

    @property
    def files(self) -> MemoryFiles:
        return MemoryFiles(self.root / "memory")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    need("qemu-storage-daemon", "nsenter")
    root = tmp_path_factory.mktemp("station")
    (root / "small").mkdir()
    with Lab.start(hosts=1) as started, pytest.MonkeyPatch.context() as patch:
        started.trust_each_other()
        host = started.hosts[0]
        program = root / "bin" / "qemu-storage-daemon"
        program.parent.mkdir()
        program.write_text(DAEMON.format(pid=host.pid, program="/usr/bin/qemu-storage-daemon"))
        program.chmod(0o755)
        patch.setenv("PATH", str(program.parent), prepend=":")
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", root / "small"], check=True)
        try:
            yield Place(host, root)
        finally:
            subprocess.run(["umount", root / "small"], check=True)


@pytest.fixture(scope="module")
def station(place: Place) -> Iterator[Station]:
    made = place.station()
    yield made
    made.close()


@contextmanager
def running(station: Station, tpm_key: Key | None = None) -> Iterator[tuple[VmSpec, VolumeRef]]:
    """A VM that runs, with a volume full of 0x11. In the end nothing else is left of what was done with it."""
    source = station.ref((QCOW2, True))
    station.volumes.create(JobContext("source"), source, SIZE)
    vm = replace(spec(source), tpm_key=tpm_key)
    station.driver.start(vm, station.pools.volume_path)
    try:
        station.io(vm, f"write -P 0x11 0 {SIZE}")
        yield vm, source
    finally:
        station.driver.power_off(vm.vm_id)
        station.driver.delete(vm.vm_id)
        for name in station.files():
            for pool in (station.pool, station.small):
                ref = VolumeRef(pool.spec.pool_id, name, QCOW2)
                station.volumes.delete(JobContext("clean"), ref)


def save(
    station: Station, vm: VmSpec, source: VolumeRef, *, small: bool = False, job: JobContext | None = None
) -> tuple[VolumeRef, VolumeRef]:
    """The copy of the disk, and the image of the memory."""
    target, memory = station.ref((QCOW2, True)), station.ref((QCOW2, True), small=small)
    station.volumes.disk_copies.copy_with_memory(job or JobContext("save"), vm.vm_id, [Pair(source, target)], memory)
    return target, memory


def reverted(vm: VmSpec, target: VolumeRef) -> VmSpec:
    """The VM with the copy in place of its disk, which the guest must not notice."""
    [disk] = vm.disks
    return replace(vm, disks=(DiskSpec(target, disk.slot, boot=True, serial=disk.volume.volume_id),))


def go_on(station: Station, place: Place, vm: VmSpec, memory: VolumeRef, job: JobContext | None = None) -> None:
    continuing.start(
        station.driver,
        station.pools.volume_path,
        vm,
        memory,
        job or JobContext("restore"),
        Seeds(place.root / "seeds"),
        place.files,
    )


def is_running(station: Station, vm: VmSpec) -> bool:
    return station.driver.vm(vm.vm_id).power_state is PowerState.RUNNING


def test_a_vm_continues_from_its_memory_on_the_disk_of_that_moment(
    place: Place, station: Station, tmp_path: Path
) -> None:
    with running(station) as (vm, source):
        target, memory = save(station, vm, source)
        assert is_running(station, vm)
        station.io(vm, f"write -P 0x22 0 {SIZE}")
        assert contents(station.path(target), target, tmp_path / "content") == b"\x11" * SIZE
        image = station.volumes.info(memory)
        assert (image.encrypted, image.virtual_size_bytes) == (True, size_for(vm.memory_bytes))
        # libvirt's own words, and QEMU's, in a file that is not encrypted.
        text = station.path(memory).read_bytes()
        assert not any(word in text for word in (b"LibvirtQemudSave", b"<domain", b"QEVM", vm.vm_id.encode()))

        station.driver.power_off(vm.vm_id)
        go_on(station, place, reverted(vm, target), memory)
        assert is_running(station, vm)
        assert station.driver.vm(vm.vm_id).volume_ids == (target.volume_id,)
        station.io(vm, f"read -P 0x11 0 {SIZE}")
        go_on(station, place, reverted(vm, target), memory)  # no effect on a running VM
        key = target.key
        assert key is not None
        assert secrets_on(place.host) == {key.key_id}
        station.driver.power_off(vm.vm_id)
        assert station.driver.vm(vm.vm_id).volume_ids == (target.volume_id,), "the definition has it too"
        assert not list((place.root / "memory").iterdir())


def test_a_vm_with_a_tpm_continues(place: Place, station: Station) -> None:
    key = replace(new_key(), use=KeyUse.TPM)
    with running(station, key) as (vm, source):
        target, memory = save(station, vm, source)
        station.driver.power_off(vm.vm_id)
        go_on(station, place, reverted(vm, target), memory)
        assert is_running(station, vm)
        assert key.key_id in secrets_on(place.host)


def test_the_records_of_incremental_backups_survive(station: Station) -> None:
    with running(station) as (vm, source):
        first, backup_id = station.ref((QCOW2, True)), new_id()
        copies = station.volumes.disk_copies
        copies.copy(JobContext("first"), vm.vm_id, [Pair(source, first)], backup_id)
        save(station, vm, source)
        station.io(vm, f"write -P 0x33 {MIB} {MIB}")
        second = station.ref((QCOW2, True))
        [made] = copies.copy(JobContext("second"), vm.vm_id, [Pair(source, second, backup_id)], new_id())
        assert made.full_reason == ""


def test_a_full_pool_lets_the_guest_go_on(place: Place, station: Station) -> None:
    with running(station) as (vm, source):
        before = station.files()
        assert reason(lambda: save(station, vm, source, small=True)) == "POOL_FULL"
        assert is_running(station, vm)
        assert station.files() == before


def test_a_cancelled_save_lets_the_guest_go_on(place: Place, station: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    job = JobContext("cancelled")
    original = backup.begin

    def begin(*arguments: object) -> object:
        job.cancel()
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(backup, "begin", begin)
    with running(station) as (vm, source):
        before = station.files()
        with pytest.raises(CancelledError):
            save(station, vm, source, job=job)
        assert is_running(station, vm)
        assert (station.files(), len(secrets_on(place.host))) == (before, 1)


def test_a_save_that_fails_lets_the_guest_go_on(
    place: Place, station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ostler_agent.volumes.disk_copies.size_for", lambda memory_bytes: MIB // 4)
    with running(station) as (vm, source):
        before = station.files()
        with pytest.raises(AbortedError, match="saving the memory"):
            save(station, vm, source)
        assert is_running(station, vm)
        assert station.files() == before
        station.io(vm, f"write -P 0x22 0 {MIB}")


def test_memory_that_does_not_fit_is_refused(place: Place, station: Station) -> None:
    with running(station) as (vm, source):
        target, memory = save(station, vm, source)
        station.driver.power_off(vm.vm_id)
        again = reverted(vm, target)
        other = replace(again, disks=(replace(again.disks[0], serial=new_id()),))
        assert reason(lambda: go_on(station, place, other, replace(memory, key=new_key()))) == "WRONG_KEY"
        boots = spec(target)
        assert reason(lambda: go_on(station, place, boots, memory)) == "MEMORY_NOT_RESTORED"
        assert not station.driver.running(boots.vm_id)
        station.driver.delete(boots.vm_id)
        assert not secrets_on(place.host)


def test_memory_is_continued_from_once(place: Place, station: Station) -> None:
    with running(station) as (vm, source):
        target, memory = save(station, vm, source)
        station.driver.power_off(vm.vm_id)
        job = JobContext("restore")
        go_on(station, place, reverted(vm, target), memory, job)
        station.io(vm, f"write -P 0x22 0 {MIB}")
        station.driver.power_off(vm.vm_id)
        again = lambda: go_on(station, place, reverted(vm, target), memory, job)  # noqa: E731
        assert reason(again) == "RESTORE_INTERRUPTED"
        assert not station.driver.running(vm.vm_id)


AGENT = """
import os, signal, sys
from pathlib import Path
from ostler.agent.v1 import volume_pb2
from ostler_agent.hypervisors.libvirt import backup, saved_memory
from ostler_agent.memory_files import MemoryFiles
from ostler_agent.volumes.disk_copies import DiskCopies
from tests.host.live_copy_station import Station

uri, root, where, request = sys.argv[1:]
station = Station(uri, Path(root))
copies = DiskCopies(station.pools, station.driver, station.volumes.locks, MemoryFiles(Path(root, "memory")))
station.volumes.disk_copies = copies
die = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
wait = saved_memory.Call.wait
points = {
    # A fast host may have saved all of the memory in this time: the agent dies nevertheless, before it has seen that.
    "saving": (saved_memory.Call, "wait", lambda call, timeout_s: (wait(call, 0.02), die())),
    "saved": (backup, "begin", die),
    "copying": (backup, "finish", die),
}
setattr(*points[where])
list(station.service.CopyDisks(volume_pb2.CopyDisksRequest.FromString(bytes.fromhex(request)), None))
"""


@pytest.mark.parametrize("where", ["saving", "saved", "copying"])
def test_an_agent_killed_in_the_middle(place: Place, station: Station, where: str) -> None:
    with running(station) as (vm, source):
        before = station.files()
        target, memory = station.ref((QCOW2, True)), station.ref((QCOW2, True))
        request = volume_pb2.CopyDisksRequest(
            operation=job_pb2.OperationRef(id=new_id(), attempt=1),
            vm_id=vm.vm_id,
            disks=[volume_pb2.DiskCopy(source=wire(source), target=wire(target))],
            memory=wire(memory),
        )
        text = request.SerializeToString().hex()
        argv = [sys.executable, "-c", AGENT, place.host.libvirt_uri, str(place.root), where, text]
        died = subprocess.run(argv, env={"PYTHONPATH": ":".join(sys.path), "PATH": os.environ["PATH"]}, check=False)
        assert died.returncode == -9
        place.files.clear()
        after = place.station()
        try:
            *_, update = after.jobs.watch(request.operation.id)
            assert (update.state, from_status(update.error).reason) == (State.FAILED, "INTERRUPTED")
            assert is_running(station, vm)
            assert (station.files(), len(secrets_on(place.host))) == (before, 1)
            assert not list((place.root / "memory").iterdir())
            request.operation.attempt = 2
            *_, update = after.service.CopyDisks(request, None)  # type: ignore[arg-type]
            assert (update.state, update.copied_disks.memory.volume_id) == (State.SUCCEEDED, memory.volume_id)
            assert is_running(station, vm)
        finally:
            after.close()
