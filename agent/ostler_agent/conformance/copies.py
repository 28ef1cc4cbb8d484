"""Copies and mirrors of a running VM's disk."""

from __future__ import annotations

from ostler_agent.conformance.assertions import CheckFailedError, refused, require
from ostler_agent.conformance.bench import MIB, Bench, NeverCancelled, new_id
from ostler_agent.hypervisors.base import Backup, DiskCopy, IncrementalBackup, LiveCopy, MirrorState
from ostler_agent.spec import DiskFormat, VmSpec, VolumeRef

# Not bootable, and neither at the beginning nor at the end.
MARK, PLACE = b"written-before-the-start", 5 * MIB


# What is written between two backups, elsewhere.
BYTE, LATER_PLACE, LENGTH = 0x6B, 11 * MIB, 64 << 10


def marked(bench: Bench, disk_format: DiskFormat | None = None) -> VolumeRef:
    """Creates a volume that contains the mark."""
    ref = bench.volume(disk_format=disk_format)
    data = bytearray(16 * MIB)
    data[PLACE : PLACE + len(MARK)] = MARK
    bench.write(ref, bytes(data))
    return ref


def copy(bench: Bench) -> None:
    """A running VM's disk can be copied repeatedly; the VM does not use the copies."""
    live, spec = _start(bench)
    source = spec.disks[0].volume
    for _ in range(2):
        target = bench.volume()
        live.copy_disk(spec.vm_id, source.volume_id, target, bench.paths(target), NeverCancelled())
        _require_mark(bench, target)
        require(bench.hypervisor.using(target.volume_id) is None, "the VM must not use the copy")
        for _ in range(2):
            live.end_copy(spec.vm_id, None, bench.paths(target))
    require(bench.hypervisor.running(spec.vm_id), "the VM must keep running")
    bench.hypervisor.power_off(spec.vm_id)
    with refused("copying a stopped VM's disk", "VM_NOT_RUNNING", "VM_STOPPED"):
        target = bench.volume()
        live.copy_disk(spec.vm_id, source.volume_id, target, bench.paths(target), NeverCancelled())


def together(bench: Bench) -> None:
    """All disks of a running VM are copied together; the VM does not use the copies."""
    hypervisor = bench.hypervisor
    assert isinstance(hypervisor, Backup)
    sources = [marked(bench), marked(bench)]
    spec = bench.start(bench.spec(*sources))
    targets = [bench.volume(), bench.volume()]
    copies = [
        DiskCopy(source.volume_id, target, bench.paths(target)) for source, target in zip(sources, targets, strict=True)
    ]
    hypervisor.copy_disks(spec.vm_id, copies, NeverCancelled())
    for target in targets:
        _require_mark(bench, target)
        require(hypervisor.using(target.volume_id) is None, "the VM must not use the copy")
    for _ in range(2):
        hypervisor.end_copies(spec.vm_id, copies)
    require(hypervisor.running(spec.vm_id), "the VM must keep running")
    hypervisor.power_off(spec.vm_id)
    with refused("copying a stopped VM's disks", "VM_NOT_RUNNING", "VM_STOPPED"):
        hypervisor.copy_disks(spec.vm_id, copies, NeverCancelled())


def increments(bench: Bench) -> None:
    """A backup that builds on another has what was written since, and nothing else; one that cannot has everything.

    What is written while the VM is stopped counts too: the record is in the disk's file.
    """
    formats = bench.driver.info.template_formats
    disk_format = DiskFormat.QCOW2 if DiskFormat.QCOW2 in formats else bench.disk_format
    written, quiet = sources = marked(bench, disk_format), marked(bench, disk_format)
    spec, first = bench.spec(*sources), new_id()
    bench.start(spec)
    for target in _backup(bench, spec, first, since="", whole=True):
        _require_mark(bench, target)
    bench.hypervisor.power_off(spec.vm_id)
    bench.write_at(written, LATER_PLACE, BYTE, LENGTH)
    bench.start(spec)
    for _ in range(2):  # a backup that fails later is repeated: the record that it builds on stays
        for source, target in zip(sources, _backup(bench, spec, new_id(), since=first, whole=False), strict=True):
            expected = bytearray(16 * MIB)
            if source is written:
                expected[LATER_PLACE : LATER_PLACE + LENGTH] = bytes([BYTE]) * LENGTH
            found = bench.read(target)
            require(_holds(found, LATER_PLACE, expected), "an increment must have what was written since the backup")
            require(found == expected, "an increment must not have what was not written since the backup")
    for target in _backup(bench, spec, new_id(), since=new_id(), whole=True):
        _require_mark(bench, target)
    require(bench.read(quiet)[PLACE : PLACE + len(MARK)] == MARK, "backups must not change the disk")
    require(bench.hypervisor.running(spec.vm_id), "the VM must keep running")
    bench.hypervisor.power_off(spec.vm_id)
    with refused("copying a stopped VM's disks", "VM_NOT_RUNNING", "VM_STOPPED"):
        _backup(bench, spec, new_id(), since=first, whole=False)


def _backup(bench: Bench, spec: VmSpec, backup_id: str, *, since: str, whole: bool) -> list[VolumeRef]:
    """Backs up all disks, and checks what the driver says of each. whole: whether it must copy everything."""
    hypervisor = bench.hypervisor
    assert isinstance(hypervisor, IncrementalBackup)
    sources = [disk.volume for disk in spec.disks]
    targets = [bench.volume(disk_format=source.format) for source in sources]
    copies = [
        DiskCopy(source.volume_id, target, bench.paths(target), since)
        for source, target in zip(sources, targets, strict=True)
    ]
    _, reasons = hypervisor.copy_increments(spec.vm_id, copies, backup_id, NeverCancelled())
    for source in sources:
        require(source.volume_id in reasons, "it must say of each disk why it was copied whole, or that it was not")
        reason = reasons[source.volume_id]
        require(reason or not whole, "a disk without a record must be copied whole, and the reason said")
        require(whole or not reason, f"a disk with a record must be copied as an increment, not whole ({reason})")
    return targets


def _holds(found: bytes, place: int, expected: bytes | bytearray) -> bool:
    return found[place : place + LENGTH] == expected[place : place + LENGTH]


def cancelled_mirror(bench: Bench) -> None:
    """After a mirror is canceled, the VM keeps its disk."""
    live, spec = _start(bench)
    source, target = spec.disks[0].volume, bench.volume()
    for _ in range(2):
        require(live.mirror_state(spec.vm_id, source, target) is MirrorState.NONE, "there must be no mirror")
        with refused("pivoting without a mirror", "MIRROR_MISSING"):
            live.pivot_disk(spec.vm_id, source, target)
        live.mirror_disk(spec.vm_id, source.volume_id, target, bench.paths(target), NeverCancelled())
        require(live.mirror_state(spec.vm_id, source, target) is MirrorState.READY, "the mirror must be READY")
        with refused("a copy during a mirror", "DISK_BUSY"):
            other = bench.volume()
            live.copy_disk(spec.vm_id, source.volume_id, other, bench.paths(other), NeverCancelled())
        for _ in range(2):
            live.cancel_mirror(spec.vm_id, source, target)
    _require_disk(bench, spec, source, target)


def pivot(bench: Bench) -> None:
    """A VM pivots to the mirror, and its definition too."""
    live, spec = _start(bench)
    source, target = spec.disks[0].volume, bench.volume()
    live.mirror_disk(spec.vm_id, source.volume_id, target, bench.paths(target), NeverCancelled())
    for _ in range(2):
        live.pivot_disk(spec.vm_id, source, target)
        require(live.mirror_state(spec.vm_id, source, target) is MirrorState.PIVOTED, "the mirror must be PIVOTED")
    with refused("canceling a mirror that is the disk", "PIVOTED"):
        live.cancel_mirror(spec.vm_id, source, target)
    _require_disk(bench, spec, target, source)
    bench.hypervisor.power_off(spec.vm_id)
    require(
        bench.hypervisor.vm(spec.vm_id).volume_ids == (target.volume_id,),
        "the stopped VM must have the mirror as its disk",
    )
    _require_mark(bench, target)


def _start(bench: Bench) -> tuple[LiveCopy, VmSpec]:
    assert isinstance(bench.hypervisor, LiveCopy)
    return bench.hypervisor, bench.start(bench.spec(marked(bench)))


def _require_disk(bench: Bench, spec: VmSpec, volume: VolumeRef, other: VolumeRef) -> None:
    hypervisor = bench.hypervisor
    require(hypervisor.running(spec.vm_id), "the VM must keep running")
    require(hypervisor.vm(spec.vm_id).volume_ids == (volume.volume_id,), "the VM must have exactly one disk")
    require(hypervisor.using(volume.volume_id) == spec.vm_id, "`using` must return the VM for its disk")
    require(hypervisor.using(other.volume_id) is None, "`using` must return no VM for the other volume")


def _require_mark(bench: Bench, ref: VolumeRef) -> None:
    found = bench.read(ref)
    if found[PLACE : PLACE + len(MARK)] != MARK or len(found) != 16 * MIB:
        raise CheckFailedError("the copy must have the content of the disk")
