"""Copies several disks of one VM as of one moment, also while it runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from ostler_common.errors import FailedPreconditionError, bad_field

from ostler_agent.bitmaps import NOT_QCOW2
from ostler_agent.hypervisors.base import DiskCopy
from ostler_agent.image_header import ImageHeader
from ostler_agent.image_lock import wait_until_unlocked
from ostler_agent.jobs import JobContext, interrupted
from ostler_agent.memory_files import MEMORY_FILES, MemoryFiles, size_for
from ostler_agent.pools import Pools, Staging
from ostler_agent.spec import DiskFormat, Freeze, Provisioning, VolumeInfo, VolumeRef
from ostler_agent.tools import qemu_backup, qemu_img
from ostler_agent.volumes.checks import check_free_space, check_key_matches, check_passphrase_given
from ostler_agent.volumes.images import create_like, created_by, header_of, info_of
from ostler_agent.volumes.locks import VolumeLocks
from ostler_agent.volumes.runtime import VmRuntime, increments_or_none, live_backup, live_memory

MAX_DISKS = 64
NOT_STATED = "the hypervisor's driver copies whole disks only"


@dataclass(frozen=True)
class Pair:
    """A disk and the volume that becomes its copy. since: id of the backup to build on, "" for none."""

    source: VolumeRef
    target: VolumeRef
    since: str = ""


@dataclass(frozen=True)
class _Opened:
    pair: Pair
    path: Path
    header: ImageHeader
    staging: Staging

    @property
    def copy(self) -> DiskCopy:
        return DiskCopy(self.pair.source.volume_id, self.pair.target, self.staging.path, self.pair.since)


class DiskCopies:
    """Copies all disks of a VM together; part of `volumes.Volumes`."""

    def __init__(
        self, pools: Pools, runtime: VmRuntime, busy: VolumeLocks, memory_files: MemoryFiles = MEMORY_FILES
    ) -> None:
        self._pools = pools
        self._runtime = runtime
        self._locks = busy
        self._memory_files = memory_files

    def copy(self, job: JobContext, vm_id: str, pairs: Sequence[Pair], backup_id: str = "") -> list[VolumeInfo]:
        """Creates the targets with their sources' content. If it raises, it leaves none of them behind.

        backup_id: record under it what is written from now on, so that a later copy can build on this one.

        Raises InvalidArgumentError (INVALID_FIELD, KEY_MISSING); AlreadyExistsError (VOLUME_EXISTS) unless this
        operation created the target; NotFoundError (VOLUME_NOT_FOUND); FailedPreconditionError (FUNCTION_NOT_SUPPORTED,
        VM_STOPPED, VOLUME_IN_USE if another VM uses a source, VOLUME_NOT_ATTACHED if the running VM does not, and what
        `Copies.copy` raises); ResourceExhaustedError (POOL_FULL); AbortedError (DISK_BUSY, COPY_FAILED).
        """
        _check(pairs)
        targets = [pair.target for pair in pairs]
        with ExitStack() as stack:
            for pair in pairs:
                stack.enter_context(self._locks.shared(pair.source))
            stack.enter_context(self._locks.exclusive(*targets))
            if all(self._pools.exists(target) for target in targets):
                return [_created(self._pools, pair, job.facts) for pair in pairs]
            self._delete_own(targets, job.facts)
            runs = self._runs(vm_id, pairs)
            opened = [self._open(job, pair, stack) for pair in pairs]
            self._check_room(opened)
            freeze = None
            if runs:
                freeze, reasons = self._copy_running(job, vm_id, opened, backup_id)
            else:
                reasons = _copy_stopped(job, opened, backup_id)
            # Before the first copy is complete: whoever finds it must know what it lacks.
            job.remember(**{_part(one.pair.target): reasons[one.pair.source.volume_id] for one in opened if reasons})
            made = [replace(_made(one), freeze=freeze, full_reason=reasons.get(_source(one))) for one in opened]
            self._commit((one.pair.target, one.staging) for one in opened)
        return made

    def copy_with_memory(
        self, job: JobContext, vm_id: str, pairs: Sequence[Pair], memory: VolumeRef
    ) -> tuple[list[VolumeInfo], VolumeInfo]:
        """Like `copy`, of a running VM, and creates an image with its memory of the same moment, which comes last.

        The guest stands still while its memory is written. Raises what `copy` raises; FailedPreconditionError
        (VM_NOT_RUNNING, VM_PAUSED), DeadlineExceededError (MEMORY_TIMEOUT).
        """
        live = live_memory(self._runtime)
        _check(pairs, memory)
        targets = [*(pair.target for pair in pairs), memory]
        with ExitStack() as stack:
            for pair in pairs:
                stack.enter_context(self._locks.shared(pair.source))
            stack.enter_context(self._locks.exclusive(*targets))
            if all(self._pools.exists(target) for target in targets):
                return self._found(pairs, memory, job.facts)
            self._delete_own(targets, job.facts)
            if not self._runs(vm_id, pairs):
                raise FailedPreconditionError(
                    f"VM {vm_id} does not run on this host, so it has no memory to save",
                    "VM_NOT_RUNNING",
                    {"vm": vm_id},
                )
            memory_bytes = self._runtime.vm(vm_id).memory_bytes
            opened = [self._open(job, pair, stack) for pair in pairs]
            staging = stack.enter_context(self._pools.staging(memory, size_for(memory_bytes), job))
            self._check_room(opened, memory, memory_bytes)
            self._create_empty(job, opened)
            qemu_img.create(staging.path, memory.format, size_for(memory_bytes), key=memory.key, cancel=job)
            with self._memory_files.shown(memory, staging.path, job) as file:
                freeze = live.copy_with_memory(vm_id, file, [one.copy for one in opened], job)
            for path in (*(one.staging.path for one in opened), staging.path):
                wait_until_unlocked(path)
            made = [replace(_made(one), freeze=freeze) for one in opened]
            image = info_of(memory, header_of(memory, staging.path))
            self._commit([*((one.pair.target, one.staging) for one in opened), (memory, staging)])
        return made, image

    def resolve_interrupted_with_memory(
        self, vm_id: str, pairs: Sequence[Pair], memory: VolumeRef, facts: Mapping[str, str]
    ) -> tuple[list[VolumeInfo], VolumeInfo]:
        """Resolves a `copy_with_memory` as `resolve_interrupted` does a `copy`; the guest runs again then."""
        targets = [*(pair.target for pair in pairs), memory]
        with self._locks.exclusive(*targets):
            begun = _begun(pairs, facts)
            if begun:
                live_memory(self._runtime).end_save(vm_id, begun)
            for target in targets:
                self._pools.discard(target)
            if all(self._pools.exists(target) for target in targets):
                return self._found(pairs, memory, facts)
            self._delete_own(targets, facts)
        raise interrupted()

    def _found(
        self, pairs: Sequence[Pair], memory: VolumeRef, facts: Mapping[str, str]
    ) -> tuple[list[VolumeInfo], VolumeInfo]:
        return [_created(self._pools, pair, facts) for pair in pairs], created_by(self._pools, memory, facts)

    def resolve_interrupted(self, vm_id: str, pairs: Sequence[Pair], facts: Mapping[str, str]) -> list[VolumeInfo]:
        """Resolves a `copy` that the agent's end interrupted: returns the copies if they were complete, else undoes it.

        Raises UnavailableError INTERRUPTED.
        """
        targets = [pair.target for pair in pairs]
        with self._locks.exclusive(*targets):
            begun = _begun(pairs, facts)
            if begun:
                live_backup(self._runtime).end_copies(vm_id, begun)  # the hypervisor continues it without the agent
            for target in targets:
                self._pools.discard(target)
            if all(self._pools.exists(target) for target in targets):
                return [_created(self._pools, pair, facts) for pair in pairs]
            self._delete_own(targets, facts)
        raise interrupted()

    def _delete_own(self, targets: Sequence[VolumeRef], facts: Mapping[str, str]) -> None:
        """Deletes the copies that an earlier attempt of the job completed before it died."""
        for target in targets:
            if self._pools.exists(target):
                created_by(self._pools, target, facts)
                self._pools.delete(target)

    def _runs(self, vm_id: str, pairs: Sequence[Pair]) -> bool:
        """Whether the VM runs here with the sources; raises if another VM uses one, or the VM not all of them."""
        users = {pair.source.volume_id: self._runtime.using(pair.source.volume_id) or "" for pair in pairs}
        for volume_id, user in users.items():
            if user not in ("", vm_id):
                raise FailedPreconditionError(
                    f"volume {volume_id} is used by VM {user} (stop it or detach the volume first)",
                    "VOLUME_IN_USE",
                    {"volume": volume_id, "vm": user},
                )
        unused = [volume_id for volume_id, user in users.items() if not user]
        if unused and len(unused) < len(users):
            raise FailedPreconditionError(
                f"VM {vm_id} runs without volume {unused[0]} (attach it first)",
                "VOLUME_NOT_ATTACHED",
                {"volume": unused[0], "vm": vm_id},
            )
        return not unused

    def _open(self, job: JobContext, pair: Pair, stack: ExitStack) -> _Opened:
        path = stack.enter_context(self._pools.hold(pair.source))
        header = header_of(pair.source, path)
        check_key_matches(pair.source, header)
        staging = stack.enter_context(self._pools.staging(pair.target, header.virtual_size_bytes, job))
        return _Opened(pair, path, header, staging)

    def _check_room(self, opened: Sequence[_Opened], memory: VolumeRef | None = None, memory_bytes: int = 0) -> None:
        """A guest's write waits until the old data is copied: the pools must not be full then."""
        needed: dict[str, tuple[VolumeRef, int]] = {memory.pool_id: (memory, memory_bytes)} if memory else {}
        for one in opened:
            target, before = needed.get(one.pair.target.pool_id, (one.pair.target, 0))
            more = min(one.header.allocated_bytes, one.header.virtual_size_bytes)
            needed[target.pool_id] = (target, before + more)
        for target, size_bytes in needed.values():
            check_free_space(self._pools, target, size_bytes)

    def _create_empty(self, job: JobContext, opened: Sequence[_Opened]) -> None:
        """Creates the targets of a running VM's copies; a later run of the agent finds them by what is remembered."""
        for one in opened:
            create_like(job, one.header, one.pair.target, one.staging.path, Provisioning.THIN)
        job.remember(**{_draft(one.pair.target): str(one.staging.path) for one in opened})

    def _commit(self, made: Iterable[tuple[VolumeRef, Staging]]) -> None:
        """Completes all volumes, or none."""
        with ExitStack() as undo:
            for target, staging in made:
                staging.commit()
                undo.callback(self._pools.delete, target)
            undo.pop_all()

    def _copy_running(
        self, job: JobContext, vm_id: str, opened: Sequence[_Opened], backup_id: str
    ) -> tuple[Freeze, Mapping[str, str]]:
        live = live_backup(self._runtime)
        copies = [one.copy for one in opened]
        reasons: Mapping[str, str] = {}
        self._create_empty(job, opened)
        if not backup_id:
            freeze = live.copy_disks(vm_id, copies, job)
        elif incremental := increments_or_none(self._runtime):
            freeze, reasons = incremental.copy_increments(vm_id, copies, backup_id, job)
        else:
            freeze = live.copy_disks(vm_id, copies, job)
            reasons = {one.volume_id: NOT_STATED for one in copies}
        for one in opened:
            wait_until_unlocked(one.staging.path)
        return freeze, reasons


def _copy_stopped(job: JobContext, opened: Sequence[_Opened], backup_id: str) -> Mapping[str, str]:
    """Returns by the source's id why the whole disk was copied; nothing unless increments are asked for."""
    reasons: dict[str, str] = {}
    total = sum(one.header.virtual_size_bytes for one in opened) or 1
    before = 0
    for one in opened:
        check_passphrase_given(one.pair.source.key, "source.key")
        size_bytes = one.header.virtual_size_bytes

        def progress(percent: float, before: int = before, size_bytes: int = size_bytes) -> None:
            done = before + int(size_bytes * percent / 100)
            job.report("copying disks", done, total, percent=min(99, 100 * done // total))

        # QEMU locks the source, which excludes writers on every host.
        source, target = one.pair.source, one.pair.target
        if backup_id and source.format is target.format is DiskFormat.QCOW2:
            create_like(job, one.header, target, one.staging.path, Provisioning.THIN)
            reasons[source.volume_id] = qemu_backup.copy(
                qemu_backup.Image(one.path, source.key),
                qemu_backup.Image(one.staging.path, target.key),
                bitmap=backup_id,
                since=one.pair.since,
                progress=progress,
                cancel=job,
            )
        else:
            qemu_img.convert(
                one.path,
                source.format,
                one.staging.path,
                target.format,
                source_key=source.key,
                key=target.key,
                progress=progress,
                cancel=job,
            )
            if backup_id:
                reasons[source.volume_id] = NOT_QCOW2
        before += size_bytes
    return reasons


def _made(one: _Opened) -> VolumeInfo:
    return info_of(one.pair.target, header_of(one.pair.target, one.staging.path))


def _source(one: _Opened) -> str:
    return one.pair.source.volume_id


def _begun(pairs: Sequence[Pair], facts: Mapping[str, str]) -> list[DiskCopy]:
    """The copies that the hypervisor may continue without the agent."""
    return [
        DiskCopy(pair.source.volume_id, pair.target, Path(facts[_draft(pair.target)]))
        for pair in pairs
        if _draft(pair.target) in facts
    ]


def _check(pairs: Sequence[Pair], memory: VolumeRef | None = None) -> None:
    if not 1 <= len(pairs) <= MAX_DISKS:
        raise bad_field("disks", f"must be 1 to {MAX_DISKS} disks")
    ids = [ref.volume_id for pair in pairs for ref in (pair.source, pair.target)]
    if memory is not None:
        ids.append(memory.volume_id)
        if memory.key is None:
            raise bad_field("memory.key", "is required: memory is always encrypted", "KEY_MISSING")
        check_passphrase_given(memory.key, "memory.key")
    if len(set(ids)) < len(ids):
        raise bad_field("disks", "must name every volume once")
    for number, pair in enumerate(pairs):
        check_passphrase_given(pair.target.key, f"disks[{number}].target.key")


def _part(target: VolumeRef) -> str:
    """The fact that says why a copy is whole; "" for an increment."""
    return f"why the copy {target.volume_id} is whole"


def _created(pools: Pools, pair: Pair, facts: Mapping[str, str]) -> VolumeInfo:
    """A copy that an earlier attempt of the job completed."""
    return replace(created_by(pools, pair.target, facts), full_reason=facts.get(_part(pair.target)))


def _draft(target: VolumeRef) -> str:
    """The fact by which the next run of the agent finds a copy that continues."""
    return f"where the copy {target.volume_id} is written"
