"""Disks of running VMs copied and mirrored, by a real libvirtd and QEMU on one lab host.

Nothing boots in the VMs: what a guest would write, QEMU's monitor writes through the guest's disk.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf.message import Message
from ostler.agent.v1 import volume_pb2
from ostler.types.v1 import job_pb2
from ostler_agent.hypervisors.base import Addresses, Destination, MigrationLimits
from ostler_agent.hypervisors.libvirt.driver import LibvirtDriver
from ostler_agent.jobs import JobContext
from ostler_agent.journal import Journal, Record, digest
from ostler_agent.spec import DiskFormat, Key, PowerState, VmSpec, VolumeRef
from ostler_agent.volumes.disk_copies import Pair
from ostler_common.errors import AbortedError, CancelledError, from_status
from ostler_common.redaction import redacted

from tests.host.conftest import contents, need, wire
from tests.host.live_copy_station import Kind, Station
from tests.host.volumes import reason
from tests.lab.host import Host, wait_for
from tests.lab.lab import Lab
from tests.lab.machines import MIB, PASSPHRASE, RecordedProgress, new_id, secrets_on, spec

QCOW2, RAW = DiskFormat.QCOW2, DiskFormat.RAW
SIZE = 16 * MIB
BIG = 384 * MIB  # copying it, encrypted, takes long enough to do something meanwhile
BLOCK = 64 << 10
State = job_pb2.JobUpdate.State


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Path]]:
    """A host, and a directory that it sees under the same name as this process does."""
    root = tmp_path_factory.mktemp("station")
    (root / "small").mkdir()
    need("mount")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", root / "small"], check=True)
    try:
        with Lab.start(hosts=1) as started:
            started.trust_each_other()
            yield started.hosts[0], root
    finally:
        subprocess.run(["umount", root / "small"], check=True)


@pytest.fixture(scope="module")
def station(lab: tuple[Host, Path]) -> Iterator[Station]:
    host, root = lab
    made = Station(host.libvirt_uri, root)
    yield made
    made.close()


@contextmanager
def running(station: Station, kind: Kind, size_bytes: int = SIZE) -> Iterator[tuple[VmSpec, VolumeRef]]:
    """A running VM with a volume full of 0x11. In the end nothing else is left of what was done with it."""
    source = station.ref(kind, key=Key(new_id(), PASSPHRASE))
    made = station.root / f"{kind[0]}-{kind[1]}-{size_bytes}"  # those of one passphrase are copies of one
    if not made.exists():
        station.volumes.create(JobContext("source"), source, size_bytes)
        station.path(source).rename(made)
    subprocess.run(["cp", made, station.path(source)], check=True)
    vm = spec(source)
    before = station.files() - {source.volume_id}
    station.driver.start(vm, station.pools.volume_path)
    try:
        station.io(vm, f"write -P 0x11 0 {size_bytes}")
        yield vm, source
    finally:
        station.driver.power_off(vm.vm_id)
        station.driver.delete(vm.vm_id)
    for name in station.files() - before:
        station.volumes.delete(JobContext("clean"), replace(source, volume_id=name, key=None))
    assert station.files() == before


def keys(*refs: VolumeRef) -> set[str]:
    return {ref.key.key_id for ref in refs if ref.key}


def content(station: Station, ref: VolumeRef, tmp_path: Path) -> bytes:
    return contents(station.path(ref), ref, tmp_path / "content")


def job() -> JobContext:
    return JobContext("test")


# -- copies


@pytest.mark.parametrize(
    ("source_kind", "target_kind"),
    [((QCOW2, True), (QCOW2, True)), ((RAW, False), (RAW, True))],
)
def test_a_copy_is_the_disk_at_one_moment(
    lab: tuple[Host, Path], station: Station, source_kind: Kind, target_kind: Kind, tmp_path: Path
) -> None:
    with running(station, source_kind) as (vm, source):
        target = station.ref(target_kind)
        written, stop = [0], threading.Event()

        def write() -> None:
            """Block after block, as a guest would that goes on."""
            while not stop.is_set() and written[0] < SIZE // BLOCK:
                station.io(vm, f"write -P 0x22 {written[0] * BLOCK} {BLOCK}")
                written[0] += 1

        writer = threading.Thread(target=write)
        writer.start()
        try:
            made = station.volumes.copies.copy(job(), source, target, SIZE + MIB, vm_id=vm.vm_id)
        finally:
            stop.set()
            writer.join()
        assert (made.virtual_size_bytes, made.encrypted) == (SIZE + MIB, target_kind[1])
        found = content(station, target, tmp_path)
        new = len(found[:SIZE].rstrip(b"\x11"))
        assert new % BLOCK == 0
        assert new <= written[0] * BLOCK
        assert found[:SIZE] == b"\x22" * new + b"\x11" * (SIZE - new)
        if target_kind != (RAW, True):  # what was never written to reads as zeros, once decrypted as anything
            assert found[SIZE:] == bytes(MIB)
        assert secrets_on(lab[0]) == keys(source)
        assert station.driver.vm(vm.vm_id).power_state is PowerState.RUNNING


def test_copies_of_several_disks_are_of_one_moment(lab: tuple[Host, Path], station: Station, tmp_path: Path) -> None:
    """The guest writes each number to the first disk, then to the second: at no moment is the second one ahead, or the
    first one by more than one."""
    sources = [station.ref((QCOW2, True)), station.ref((RAW, False))]
    before = station.files()
    for source in sources:
        station.volumes.create(job(), source, SIZE)
    vm = spec(*sources)
    station.driver.start(vm, station.pools.volume_path)
    targets = [station.ref((QCOW2, True)) for _ in sources]
    pairs = [Pair(source, target) for source, target in zip(sources, targets, strict=True)]
    written, stop, begun = [0], threading.Event(), threading.Event()

    def write() -> None:
        while not stop.is_set() and written[0] < SIZE // BLOCK:
            for disk in (0, 1):
                station.io(vm, f"write -P 0x22 {written[0] * BLOCK} {BLOCK}", disk)
            written[0] += 1
            if written[0] == 3:
                begun.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert begun.wait(60)
        other = Pair(sources[0], station.ref((QCOW2, True)))
        assert reason(lambda: station.volumes.disk_copies.copy(job(), new_id(), [other])) == "VOLUME_IN_USE"
        made = station.volumes.disk_copies.copy(job(), vm.vm_id, pairs)
    finally:
        stop.set()
        writer.join()
    try:
        assert [(info.virtual_size_bytes, info.encrypted) for info in made] == [(SIZE, True)] * 2
        first, second = (len(content(station, target, tmp_path).rstrip(b"\0")) // BLOCK for target in targets)
        assert 3 <= second <= first <= second + 1
        assert secrets_on(lab[0]) == keys(*sources)
        found = [station.volumes.digest(job(), target) for target in targets]
        assert [one.file_size_bytes for one in found] == [station.path(target).stat().st_size for target in targets]
    finally:
        station.driver.power_off(vm.vm_id)
        station.driver.delete(vm.vm_id)
    for ref in (*sources, *targets):
        station.volumes.delete(job(), ref)
    assert station.files() == before


def test_what_cannot_be_while_a_disk_is_copied(lab: tuple[Host, Path], station: Station) -> None:
    with running(station, (QCOW2, False), BIG) as (vm, source):
        target = station.ref((QCOW2, True))
        tried: list[str] = []

        class Trying(JobContext):
            def report(self, phase: str, done: int = 0, total: int = 0, percent: int | None = None) -> None:
                if phase == "copying disk" and not tried:
                    other = station.ref((RAW, False))
                    tried.append(reason(lambda: station.volumes.copies.copy(job(), source, other, vm_id=vm.vm_id)))
                    tried.append(reason(lambda: station.volumes.mirrors.begin(job(), vm.vm_id, source, other)))
                    tried.append(reason(lambda: station.driver.grow_disk(vm.vm_id, source.volume_id, BIG + MIB)))
                    self.cancel()

        with pytest.raises(CancelledError):
            station.volumes.copies.copy(Trying("trying"), source, target, vm_id=vm.vm_id)
        assert tried == ["DISK_BUSY", "VOLUME_BUSY", "DISK_BUSY"]
        assert not station.path(target).exists()
        assert secrets_on(lab[0]) == keys(source)
        # And then it can be.
        station.volumes.copies.copy(job(), source, target, vm_id=vm.vm_id)


def test_a_disk_of_another_vm_is_not_copied(station: Station) -> None:
    with running(station, (RAW, False)) as (_, source):
        copy = station.volumes.copies.copy
        assert reason(lambda: copy(job(), source, station.ref((RAW, False)))) == "VOLUME_IN_USE"
        assert reason(lambda: copy(job(), source, station.ref((RAW, False)), vm_id=new_id())) == "VOLUME_IN_USE"


@pytest.mark.parametrize("mirror", [False, True])
def test_a_full_pool_stops_neither_vm_nor_leaves_anything(
    lab: tuple[Host, Path], station: Station, mirror: bool
) -> None:
    with running(station, (RAW, False)) as (vm, source):
        target = station.ref((QCOW2, False), small=True)
        filler = station.root / "small" / "filler"

        class Filling(JobContext):
            """Takes the space after it was found to be enough."""

            def remember(self, **facts: str) -> None:
                super().remember(**facts)
                if not filler.exists():
                    filler.write_bytes(bytes(12 * MIB))

        begin, copy = station.volumes.mirrors.begin, station.volumes.copies.copy
        if mirror:
            assert reason(lambda: begin(Filling("fill"), vm.vm_id, source, target)) == "POOL_FULL"
        else:
            assert reason(lambda: copy(job(), source, target, vm_id=vm.vm_id)) == "POOL_FULL"
            station.io(vm, f"discard 0 {SIZE}")
            station.io(vm, f"write -P 0x11 0 {8 * MIB}")
            assert reason(lambda: copy(Filling("fill"), source, target, vm_id=vm.vm_id)) == "POOL_FULL"
        filler.unlink()
        assert station.driver.vm(vm.vm_id).power_state is PowerState.RUNNING
        assert station.files() >= {source.volume_id}
        assert not any(target.volume_id in name for name in station.files())
        station.io(vm, "write -P 0x33 0 1M")


@pytest.mark.parametrize("mirror", [False, True])
def test_a_vm_that_stops_ends_its_copy_and_its_mirror(station: Station, mirror: bool) -> None:
    with running(station, (QCOW2, False), BIG) as (vm, source):

        class Stopping(JobContext):
            def report(self, phase: str, done: int = 0, total: int = 0, percent: int | None = None) -> None:
                if phase in ("copying disk", "mirroring disk"):
                    station.driver.power_off(vm.vm_id)

        target, work = station.ref((RAW, True)), Stopping("stop")
        if mirror:
            assert reason(lambda: station.volumes.mirrors.begin(work, vm.vm_id, source, target)) == "VM_STOPPED"
        else:
            assert reason(lambda: station.volumes.copies.copy(work, source, target, vm_id=vm.vm_id)) == "VM_STOPPED"
        assert station.files() & {target.volume_id, f".{target.volume_id}.part"} == set()


# -- mirrors


@pytest.mark.parametrize(("source_kind", "target_kind"), [((QCOW2, True), (QCOW2, True)), ((RAW, False), (RAW, True))])
def test_a_vm_goes_over_to_a_mirror(
    lab: tuple[Host, Path], station: Station, source_kind: Kind, target_kind: Kind, tmp_path: Path
) -> None:
    host, mirrors = lab[0], station.volumes.mirrors
    with running(station, source_kind) as (vm, source):
        target = station.ref(target_kind)
        before = host.virsh("domid", vm.vm_id)
        work = job()
        made = mirrors.begin(work, vm.vm_id, source, target)
        assert (made.virtual_size_bytes, made.encrypted) == (SIZE, target_kind[1])
        assert mirrors.begin(JobContext("again", facts=work.facts), vm.vm_id, source, target) == made
        assert secrets_on(host) == keys(source, target)

        # Both are in use, and nothing else may be done with the disk.
        volumes, driver = station.volumes, station.driver
        assert driver.using(target.volume_id) == driver.using(source.volume_id) == vm.vm_id
        assert reason(lambda: volumes.delete(job(), target)) == "VOLUME_IN_USE"
        assert reason(lambda: volumes.grow(job(), source, SIZE + MIB)) == "DISK_BUSY"
        assert reason(lambda: driver.detach(vm.vm_id, source.volume_id, None, 1, RecordedProgress())) == "DISK_BUSY"
        assert (
            reason(lambda: driver.migrate(vm.vm_id, _elsewhere(), MigrationLimits(), RecordedProgress())) == "DISK_BUSY"
        )
        again = station.ref((RAW, False))
        assert reason(lambda: mirrors.begin(job(), vm.vm_id, source, again)) == "DISK_BUSY"
        assert reason(lambda: volumes.copies.copy(job(), source, again, vm_id=vm.vm_id)) == "DISK_BUSY"
        # The agent restarts: the mirror keeps its key.
        successor = LibvirtDriver(host.libvirt_uri, "qemu")
        successor.open()
        successor.vms()
        successor.close()
        assert secrets_on(host) == keys(source, target)

        station.io(vm, f"write -P 0x22 0 {MIB}")
        for _ in range(2):
            assert mirrors.pivot(job(), vm.vm_id, source, target).virtual_size_bytes == SIZE
        station.io(vm, f"write -P 0x33 {MIB} {MIB}")
        assert secrets_on(host) == keys(target)
        assert driver.vm(vm.vm_id).volume_ids == (target.volume_id,)
        assert target.volume_id in (definition := host.virsh("dumpxml", "--inactive", vm.vm_id))
        assert source.volume_id not in definition
        assert reason(lambda: mirrors.cancel(job(), vm.vm_id, source, target)) == "PIVOTED"
        assert host.virsh("domid", vm.vm_id) == before

        assert content(station, source, tmp_path) == b"\x22" * MIB + b"\x11" * (SIZE - MIB)
        driver.power_off(vm.vm_id)
        assert content(station, target, tmp_path) == b"\x22" * MIB + b"\x33" * MIB + b"\x11" * (SIZE - 2 * MIB)
        assert reason(lambda: mirrors.cancel(job(), vm.vm_id, source, target)) == "PIVOTED"
        assert mirrors.pivot(job(), vm.vm_id, source, target).virtual_size_bytes == SIZE
        assert not secrets_on(host)


def _elsewhere() -> Destination:
    return Destination(Addresses("qemu+tls://h9/system", "tcp://h9", ""), "h9", {}, {}, {})


def test_a_mirror_that_is_cancelled_in_the_middle_leaves_nothing(lab: tuple[Host, Path], station: Station) -> None:
    with running(station, (QCOW2, False), BIG) as (vm, source):
        target = station.ref((QCOW2, True))

        class Cancelling(JobContext):
            def report(self, phase: str, done: int = 0, total: int = 0, percent: int | None = None) -> None:
                if phase == "mirroring disk":
                    self.cancel()

        with pytest.raises(CancelledError):
            station.volumes.mirrors.begin(Cancelling("cancel"), vm.vm_id, source, target)
        assert station.files() & {target.volume_id, f".{target.volume_id}.part"} == set()
        assert not secrets_on(lab[0])
        assert station.driver.using(target.volume_id) is None


def test_a_mirror_that_is_ended_leaves_nothing(lab: tuple[Host, Path], station: Station, tmp_path: Path) -> None:
    mirrors = station.volumes.mirrors
    with running(station, (QCOW2, True)) as (vm, source):
        target = station.ref((RAW, False))
        mirrors.begin(job(), vm.vm_id, source, target)
        for _ in range(2):
            mirrors.cancel(job(), vm.vm_id, source, target)
        assert station.files() & {target.volume_id, f".{target.volume_id}.part"} == set()
        assert secrets_on(lab[0]) == keys(source)
        assert reason(lambda: mirrors.pivot(job(), vm.vm_id, source, target)) == "MIRROR_MISSING"
        station.io(vm, f"write -P 0x22 0 {MIB}")
        # One that the VM's end took with it.
        mirrors.begin(job(), vm.vm_id, source, target)
        station.driver.power_off(vm.vm_id)
        assert reason(lambda: mirrors.pivot(job(), vm.vm_id, source, target)) == "MIRROR_MISSING"
        mirrors.cancel(job(), vm.vm_id, source, target)
        assert station.files() & {target.volume_id, f".{target.volume_id}.part"} == set()
        assert content(station, source, tmp_path) == b"\x22" * MIB + b"\x11" * (SIZE - MIB)
        assert reason(lambda: mirrors.begin(job(), vm.vm_id, source, target)) == "VM_NOT_RUNNING"


@pytest.mark.parametrize("mirror", [False, True])
def test_libvirtd_may_restart_in_the_middle(lab: tuple[Host, Path], station: Station, mirror: bool) -> None:
    host = lab[0]
    with running(station, (QCOW2, False), BIG) as (vm, source):
        target = station.ref((QCOW2, False))
        restarted: list[bool] = []

        class Restarting(JobContext):
            def report(self, phase: str, done: int = 0, total: int = 0, percent: int | None = None) -> None:
                if phase in ("copying disk", "mirroring disk") and not restarted:
                    restarted.append(True)
                    host.stop_libvirt()
                    host.start_libvirt()

        if mirror:
            station.volumes.mirrors.begin(Restarting("restart"), vm.vm_id, source, target)
            station.volumes.mirrors.pivot(job(), vm.vm_id, source, target)
        else:
            try:
                station.volumes.copies.copy(Restarting("restart"), source, target, vm_id=vm.vm_id)
            except AbortedError:
                # It ended while libvirtd was not there to hear how: then nothing is left of it.
                station.volumes.copies.copy(job(), source, target, vm_id=vm.vm_id)
        assert restarted
        station.driver.power_off(vm.vm_id)
        compare = ["qemu-img", "compare", "-f", "qcow2", "-F", "qcow2"]
        subprocess.run([*compare, str(station.path(source)), str(station.path(target))], check=True)


# -- the agent killed

AGENT = """
import sys
from pathlib import Path
from ostler.agent.v1 import volume_pb2
from tests.host.live_copy_station import Station

uri, root, name, request = sys.argv[1:]
station = Station(uri, Path(root))
call = getattr(station.service, name)
list(call(getattr(volume_pb2, f"{name}Request").FromString(bytes.fromhex(request)), None))
"""


def killed_in(lab: tuple[Host, Path], name: str, request: Message, until: Callable[[], object]) -> None:
    """Has an agent of its own do it, and kills that as soon as something is so."""
    argv = [sys.executable, "-c", AGENT, lab[0].libvirt_uri, str(lab[1]), name, request.SerializeToString().hex()]
    with subprocess.Popen(argv, env={"PYTHONPATH": ":".join(sys.path)}) as agent:
        try:
            wait_for(until, f"the middle of {name}", every_s=0.01)
        finally:
            agent.kill()


@pytest.mark.parametrize("name", ["CopyVolume", "MirrorVolume"])
def test_an_agent_killed_in_the_middle(lab: tuple[Host, Path], station: Station, name: str) -> None:
    host = lab[0]
    # Large enough that it is slowed down before all is copied.
    with running(station, (QCOW2, False), BIG) as (vm, source):
        target = station.ref((QCOW2, True))
        request = getattr(volume_pb2, f"{name}Request")(
            operation=job_pb2.OperationRef(id=new_id(), attempt=1),
            source=wire(source),
            target=wire(target),
            vm_id=vm.vm_id,
        )

        def at_it() -> bool:
            return bool(station.driver.vm(vm.vm_id).mirror_ids) or "Backup" in host.virsh("domjobinfo", vm.vm_id)

        killed_in(lab, name, request, lambda: station.slow_down(vm) and at_it())
        assert at_it(), "it goes on without its agent"
        after = Station(host.libvirt_uri, lab[1])
        try:
            *_, update = after.jobs.watch(request.operation.id)
            assert (update.state, from_status(update.error).reason) == (State.FAILED, "INTERRUPTED")
            assert not at_it()
            assert station.files() & {target.volume_id, f".{target.volume_id}.part"} == set()
            assert not secrets_on(host)
            station.io(vm, f"write -P 0x22 0 {MIB}")
            request.operation.attempt = 2
            *_, update = getattr(after.service, name)(request, None)
            assert update.state == State.SUCCEEDED
        finally:
            after.close()


def test_an_agent_killed_when_the_mirror_was_whole(lab: tuple[Host, Path], station: Station) -> None:
    """Before it wrote that down; and again in the middle of going over to it, and of cancelling what is no mirror."""
    host, journal = lab[0], Journal(lab[1] / "jobs")
    with running(station, (QCOW2, True)) as (vm, source):
        target = station.ref((QCOW2, False))
        begin = volume_pb2.MirrorVolumeRequest(
            operation=job_pb2.OperationRef(id=new_id(), attempt=1),
            source=wire(source),
            target=wire(target),
            vm_id=vm.vm_id,
        )
        *_, done = station.service.MirrorVolume(begin, None)  # type: ignore[arg-type]
        assert done.state == State.SUCCEEDED
        record = journal.load(begin.operation.id)
        assert record
        record.state, record.final = "RUNNING", {}
        journal.save(record)
        assert next_life(lab, begin.operation.id) == done

        pivot = volume_pb2.PivotVolumeRequest(
            operation=job_pb2.OperationRef(id=new_id(), attempt=1),
            source=begin.source,
            target=begin.target,
            vm_id=vm.vm_id,
        )
        journal.save(Record.begin(pivot.operation.id, 1, "volume.pivot", digest(pivot), redacted(pivot)))
        assert next_life(lab, pivot.operation.id).state == State.SUCCEEDED
        assert station.driver.vm(vm.vm_id).volume_ids == (target.volume_id,)
        assert not secrets_on(host)

        cancel = volume_pb2.CancelMirrorRequest(
            operation=job_pb2.OperationRef(id=new_id(), attempt=1),
            source=begin.source,
            target=begin.target,
            vm_id=vm.vm_id,
        )
        journal.save(Record.begin(cancel.operation.id, 1, "volume.cancel-mirror", digest(cancel), redacted(cancel)))
        assert from_status(next_life(lab, cancel.operation.id).error).reason == "PIVOTED"


def next_life(lab: tuple[Host, Path], operation_id: str) -> job_pb2.JobUpdate:
    """How a job ends in the agent's next life."""
    after = Station(lab[0].libvirt_uri, lab[1])
    try:
        *_, update = after.jobs.watch(operation_id)
    finally:
        after.close()
    return update
