"""Mirroring a running VM's disk to a new volume, and having the VM go over to that."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

from ostler_common.errors import AbortedError, FailedPreconditionError, bad_field

from ostler_agent.hypervisors.base import MirrorState
from ostler_agent.image_lock import check_not_locked
from ostler_agent.jobs import JobContext, interrupted
from ostler_agent.pools import Pools, already_exists
from ostler_agent.spec import Provisioning, VolumeInfo, VolumeRef
from ostler_agent.volumes.checks import check_free_space, check_key_matches, check_passphrase_given
from ostler_agent.volumes.images import create_like, header_of, inspect
from ostler_agent.volumes.locks import VolumeLocks
from ostler_agent.volumes.runtime import Guests, live_copy

_WHOLE = (MirrorState.READY, MirrorState.PIVOTED)


class Mirrors:
    """Mirrors of volumes; made by `volumes.Volumes`. Of a source's key only the id is looked at."""

    def __init__(self, pools: Pools, guests: Guests, busy: VolumeLocks) -> None:
        self._pools = pools
        self._guests = guests
        self._locks = busy

    def begin(
        self,
        job: JobContext,
        vm_id: str,
        source: VolumeRef,
        target: VolumeRef,
        provisioning: Provisioning = Provisioning.THIN,
    ) -> VolumeInfo:
        """Makes target a mirror of the source that the VM executes with; returns when it holds all of it.

        From then on it gets each of the guest's writes, until `pivot` or `cancel`, or until the VM stops. Raises
        InvalidArgumentError (KEY_MISSING); AlreadyExistsError (VOLUME_EXISTS) unless this very operation made it;
        FailedPreconditionError (FUNCTION_NOT_SUPPORTED, VM_NOT_RUNNING, VM_STOPPED, NOT_ENCRYPTED,
        SIZE_DIFFERS);
        ResourceExhaustedError (POOL_FULL); AbortedError (DISK_BUSY, MIRROR_FAILED); NotFoundError (VOLUME_NOT_FOUND).
        Whatever it raises, there is no mirror and nothing is left.
        """
        if source.volume_id == target.volume_id:
            raise bad_field("target.volume_id", "must be another one than the source's")
        check_passphrase_given(target.key, "target.key")
        live = live_copy(self._guests)
        with self._locks.exclusive(source, target):
            if self._pools.exists(target):
                if not self._pools.created_by(target, job.facts):
                    raise already_exists(target)
                if live.mirror_state(vm_id, source, target) in _WHOLE:
                    return inspect(self._pools, target)
                live.cancel_mirror(vm_id, source, target)
                self._pools.delete(target)
            if self._guests.using(source.volume_id) != vm_id:
                raise FailedPreconditionError(
                    f"volume {source.volume_id} is not attached to VM {vm_id}, running here (copy it instead)",
                    "VM_NOT_RUNNING",
                    {"vm": vm_id, "volume": source.volume_id},
                )
            with ExitStack() as undo:
                self._make(job, source, target, provisioning)
                undo.callback(self._pools.delete, target)
                try:
                    live.mirror_disk(vm_id, source.volume_id, target, self._pools.volume_path(target), job)
                except AbortedError as error:
                    if error.reason == "MIRROR_FAILED":
                        check_free_space(self._pools, target, 0)  # QEMU does not say why
                    raise
                undo.pop_all()
            return inspect(self._pools, target)

    def pivot(self, job: JobContext, vm_id: str, source: VolumeRef, target: VolumeRef) -> VolumeInfo:
        """Has the VM use the mirror alone; the source stays as it was at that moment. Done already is a success.

        Raises FailedPreconditionError (MIRROR_NOT_READY, MIRROR_MISSING).
        """
        with self._locks.exclusive(source, target):
            job.report("going over to the mirror")
            live_copy(self._guests).pivot_disk(vm_id, source, target)
            self._pools.unmap_if_unused(source.volume_id, self._guests.using)
            return inspect(self._pools, target)

    def cancel(self, job: JobContext, vm_id: str, source: VolumeRef, target: VolumeRef) -> None:
        """Ends a mirror and deletes its volume; nothing to end is a success.

        Raises FailedPreconditionError (PIVOTED; VOLUME_IN_USE when something else uses the volume).
        """
        with self._locks.exclusive(source, target):
            job.report("ending the mirror")
            live_copy(self._guests).cancel_mirror(vm_id, source, target)
            if self._pools.exists(target):
                with self._pools.hold(target) as path:
                    check_not_locked(path)
            self._pools.delete(target)

    def resolve_interrupted_begin(
        self, vm_id: str, source: VolumeRef, target: VolumeRef, facts: Mapping[str, str]
    ) -> VolumeInfo:
        """How a `begin` ended that the agent's end cut short: the hypervisor went on with it, alone.

        A mirror that is not whole is ended, and its volume goes. Raises INTERRUPTED.
        """
        live = live_copy(self._guests)
        with self._locks.exclusive(source, target):
            self._pools.discard(target)
            if not self._pools.created_by(target, facts):
                raise interrupted()
            if live.mirror_state(vm_id, source, target) in _WHOLE:
                return inspect(self._pools, target)
            live.cancel_mirror(vm_id, source, target)
            self._pools.delete(target)
        raise interrupted()

    def _make(self, job: JobContext, source: VolumeRef, target: VolumeRef, provisioning: Provisioning) -> None:
        """The empty image. It has its name before it is filled: that is what the VM's definition will say."""
        with self._pools.hold(source) as path:
            header = header_of(source, path)
        check_key_matches(source, header)
        size_bytes = header.virtual_size_bytes
        if provisioning is Provisioning.THICK:
            check_free_space(self._pools, target, size_bytes)
        with self._pools.staging(target, size_bytes, job) as staging:
            create_like(job, header, target, staging.path, provisioning)
            staging.commit()
