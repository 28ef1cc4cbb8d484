"""Copies a volume to any pool, format and key, also while a VM uses it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from ostler_common.errors import FailedPreconditionError, InvalidArgumentError, bad_field

from ostler_agent.image_header import ImageHeader
from ostler_agent.image_lock import wait_until_unlocked
from ostler_agent.jobs import JobContext, interrupted
from ostler_agent.pools import Pools, Staging
from ostler_agent.spec import DiskFormat, Freeze, Provisioning, VolumeInfo, VolumeRef
from ostler_agent.tools import qemu_img
from ostler_agent.volumes.checks import check_free_space, check_key_matches, check_passphrase_given, check_size
from ostler_agent.volumes.images import create_like, created_by, header_of, info_of
from ostler_agent.volumes.locks import VolumeLocks
from ostler_agent.volumes.runtime import VmRuntime, live_copy

MAX_PARENTS = 64

_DRAFT = "where the copy is written"  # the fact by which the next run of the agent finds a copy that continues


class Copies:
    """Copies volumes; part of `volumes.Volumes`."""

    def __init__(self, pools: Pools, runtime: VmRuntime, busy: VolumeLocks) -> None:
        self._pools = pools
        self._runtime = runtime
        self._locks = busy

    def copy(
        self,
        job: JobContext,
        source: VolumeRef,
        target: VolumeRef,
        size_bytes: int = 0,
        provisioning: Provisioning = Provisioning.THIN,
        vm_id: str = "",
        parents: Sequence[VolumeRef] = (),
    ) -> VolumeInfo:
        """Creates target with source's content, of size_bytes (0: the source's size).

        The part beyond the source reads as never written. vm_id: the VM that may be running here with the source; then
        the copy is the disk as of one moment. parents: if the source is an increment, what it builds on, the nearest
        first; no VM uses it then. If it raises, it leaves nothing behind.

        Raises what `Volumes.create` raises; InvalidArgumentError (SOURCE_LARGER); NotFoundError (VOLUME_NOT_FOUND);
        FailedPreconditionError (WRONG_KEY, NOT_ENCRYPTED, NOT_AN_IMAGE, BACKING_FILE_REFUSED, VM_STOPPED, SIZE_DIFFERS;
        VOLUME_IN_USE if another VM writes to the source); AbortedError (DISK_BUSY, COPY_FAILED).
        """
        if source.volume_id == target.volume_id:
            raise bad_field("target.volume_id", "must differ from the source's")
        if size_bytes:
            check_size(size_bytes)
        check_passphrase_given(target.key, "target.key")
        _check_chain(source, parents)
        with ExitStack() as stack:
            for one in (source, *parents):
                stack.enter_context(self._locks.shared(one))
            stack.enter_context(self._locks.exclusive(target))
            if self._pools.exists(target):
                return created_by(self._pools, target, job.facts)
            self._pools.check_room_to_fetch((source, *parents))
            layers = [self._open(job, parent, stack) for parent in parents]
            with self._pools.hold(source, job) as path:
                header = header_of(source, path)
                check_key_matches(source, header)
                size_bytes = _check_fits(source, header, size_bytes)
                if provisioning is Provisioning.THICK:
                    check_free_space(self._pools, target, size_bytes)
                user = self._user(source, vm_id) if not parents else None
                with self._pools.staging(target, size_bytes, job, provisioning) as staging:
                    freeze = None
                    if user:
                        freeze = self._copy_running(job, user, source, header, target, staging, provisioning)
                    else:
                        _copy_stopped(job, source, path, header, target, staging, provisioning, layers)
                    if size_bytes > header.virtual_size_bytes:
                        thick = provisioning is Provisioning.THICK
                        qemu_img.resize(
                            staging.path, target.format, size_bytes, key=target.key, allocate=thick, cancel=job
                        )
                    made = replace(info_of(target, header_of(target, staging.path)), freeze=freeze)
                    staging.commit()
        return made

    def resolve_interrupted_copy(self, target: VolumeRef, vm_id: str, facts: Mapping[str, str]) -> VolumeInfo:
        """Resolves a `copy` that the agent's end interrupted: returns the copy if it was complete, else undoes it.

        Raises UnavailableError INTERRUPTED.
        """
        with self._locks.exclusive(target):
            if _DRAFT in facts:
                # The hypervisor continues it without the agent.
                key_id = target.key.key_id if target.key else None
                live_copy(self._runtime).end_copy(vm_id, key_id, Path(facts[_DRAFT]))
            self._pools.discard(target)
            if self._pools.exists(target):
                return created_by(self._pools, target, facts)
        raise interrupted()

    def _open(self, job: JobContext, parent: VolumeRef, stack: ExitStack) -> qemu_img.Layer:
        path = stack.enter_context(self._pools.hold(parent, job))
        check_key_matches(parent, header_of(parent, path))
        return qemu_img.Layer(path, parent.key)

    def _user(self, source: VolumeRef, vm_id: str) -> str | None:
        """The running VM that uses the source. Raises FailedPreconditionError (VOLUME_IN_USE) if it is another one."""
        user = self._runtime.using(source.volume_id)
        if user and user != vm_id:
            raise FailedPreconditionError(
                f"volume {source.volume_id} is used by VM {user} (stop it or detach the volume first)",
                "VOLUME_IN_USE",
                {"volume": source.volume_id, "vm": user},
            )
        return user

    def _copy_running(
        self,
        job: JobContext,
        vm_id: str,
        source: VolumeRef,
        header: ImageHeader,
        target: VolumeRef,
        staging: Staging,
        provisioning: Provisioning,
    ) -> Freeze:
        live = live_copy(self._runtime)
        # A guest's write waits until the old data is copied: the pool must not be full then.
        check_free_space(self._pools, target, min(header.allocated_bytes, header.virtual_size_bytes))
        create_like(job, header, target, staging.path, provisioning)
        job.remember(**{_DRAFT: str(staging.path)})
        freeze = live.copy_disk(vm_id, source.volume_id, target, staging.path, job)
        wait_until_unlocked(staging.path)
        return freeze


def _copy_stopped(
    job: JobContext,
    source: VolumeRef,
    path: Path,
    header: ImageHeader,
    target: VolumeRef,
    staging: Staging,
    provisioning: Provisioning,
    parents: Sequence[qemu_img.Layer],
) -> None:
    check_passphrase_given(source.key, "source.key")
    # QEMU locks the source, which excludes writers on every host.
    qemu_img.convert(
        path,
        source.format,
        staging.path,
        target.format,
        source_key=source.key,
        parents=parents,
        key=target.key,
        provisioning=provisioning,
        progress=_copying(job, header.virtual_size_bytes),
        cancel=job,
    )


def _check_chain(source: VolumeRef, parents: Sequence[VolumeRef]) -> None:
    if len(parents) > MAX_PARENTS:
        raise bad_field("layers", f"must be at most {MAX_PARENTS + 1}")
    if len({ref.volume_id for ref in (source, *parents)}) <= len(parents):
        raise bad_field("layers", "must name every volume once")
    for number, ref in enumerate((source, *parents) if parents else ()):
        if ref.format is not DiskFormat.QCOW2:
            raise bad_field(f"layers[{number}].format", "must be qcow2")
        check_passphrase_given(ref.key, f"layers[{number}].key")


def _check_fits(source: VolumeRef, header: ImageHeader, size_bytes: int) -> int:
    """The size of the copy. Raises InvalidArgumentError (SOURCE_LARGER)."""
    if size_bytes and size_bytes < header.virtual_size_bytes:
        raise InvalidArgumentError(
            f"volume {source.volume_id} has {header.virtual_size_bytes} bytes and does not fit in {size_bytes}",
            "SOURCE_LARGER",
            {"volume": source.volume_id, "size_bytes": str(header.virtual_size_bytes)},
        )
    return size_bytes or header.virtual_size_bytes


def _copying(job: JobContext, total: int) -> Callable[[float], None]:
    def progress(percent: float) -> None:
        job.report("copying volume", int(total * percent / 100), total, percent=min(99, int(percent)))

    return progress
