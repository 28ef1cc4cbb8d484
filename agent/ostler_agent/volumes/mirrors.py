"""Mirrors a running VM's disk to a new volume and pivots the VM to it."""

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
from ostler_agent.volumes.runtime import VmRuntime, live_copy

_COMPLETE = (MirrorState.READY, MirrorState.PIVOTED)


class Mirrors:
    """Mirrors volumes; part of `volumes.Volumes`. Uses only the id of a source's key."""

    def __init__(self, pools: Pools, runtime: VmRuntime, busy: VolumeLocks) -> None:
        self._pools = pools
        self._runtime = runtime
        self._locks = busy

    def begin(
        self,
        job: JobContext,
        vm_id: str,
        source: VolumeRef,
        target: VolumeRef,
        provisioning: Provisioning = Provisioning.THIN,
    ) -> VolumeInfo:
        """Creates target as a mirror of the running VM's source; returns once it is complete.

        From then on it receives each of the guest's writes, until `pivot`, `cancel`, or the VM's stop. If it raises,
        there is no mirror and no target. Raises InvalidArgumentError (KEY_MISSING); AlreadyExistsError (VOLUME_EXISTS)
        unless this operation created the target; FailedPreconditionError (FUNCTION_NOT_SUPPORTED, VM_NOT_RUNNING,
        VM_STOPPED, NOT_ENCRYPTED, SIZE_DIFFERS); ResourceExhaustedError (POOL_FULL); AbortedError (DISK_BUSY,
        MIRROR_FAILED); NotFoundError (VOLUME_NOT_FOUND).
        """
        if source.volume_id == target.volume_id:
            raise bad_field("target.volume_id", "must differ from the source's")
        check_passphrase_given(target.key, "target.key")
        live = live_copy(self._runtime)
        with self._locks.exclusive(source, target):
            if self._pools.exists(target):
                if not self._pools.created_by(target, job.facts):
                    raise already_exists(target)
                if live.mirror_state(vm_id, source, target) in _COMPLETE:
                    return inspect(self._pools, target)
                live.cancel_mirror(vm_id, source, target)
                self._pools.delete(target)
            if self._runtime.using(source.volume_id) != vm_id:
                raise FailedPreconditionError(
                    f"volume {source.volume_id} is not attached to a running VM {vm_id} on this host (copy it instead)",
                    "VM_NOT_RUNNING",
                    {"vm": vm_id, "volume": source.volume_id},
                )
            with ExitStack() as undo:
                self._create_target(job, source, target, provisioning)
                undo.callback(self._pools.delete, target)
                try:
                    live.mirror_disk(vm_id, source.volume_id, target, self._pools.volume_path(target), job)
                except AbortedError as error:
                    if error.reason == "MIRROR_FAILED":
                        check_free_space(self._pools, target, 0)  # QEMU does not report the reason
                    raise
                undo.pop_all()
            return inspect(self._pools, target)

    def pivot(self, job: JobContext, vm_id: str, source: VolumeRef, target: VolumeRef) -> VolumeInfo:
        """Switches the VM to the mirror; the source stays as it was at that moment. Idempotent.

        Raises FailedPreconditionError (MIRROR_NOT_READY, MIRROR_MISSING).
        """
        with self._locks.exclusive(source, target):
            job.report("pivoting to the mirror")
            live_copy(self._runtime).pivot_disk(vm_id, source, target)
            self._pools.unmap_if_unused(source.volume_id, self._runtime.using)
            return inspect(self._pools, target)

    def cancel(self, job: JobContext, vm_id: str, source: VolumeRef, target: VolumeRef) -> None:
        """Ends a mirror and deletes its volume. Idempotent.

        Raises FailedPreconditionError (PIVOTED; VOLUME_IN_USE if something else uses the volume).
        """
        with self._locks.exclusive(source, target):
            job.report("ending the mirror")
            live_copy(self._runtime).cancel_mirror(vm_id, source, target)
            if self._pools.exists(target):
                with self._pools.hold(target) as path:
                    check_not_locked(path)
            self._pools.delete(target)

    def resolve_interrupted_begin(
        self, vm_id: str, source: VolumeRef, target: VolumeRef, facts: Mapping[str, str]
    ) -> VolumeInfo:
        """Resolves a `begin` that the agent's end interrupted; the hypervisor continued it without the agent.

        Returns the mirror if it is complete, else ends it and deletes its volume. Raises UnavailableError INTERRUPTED.
        """
        live = live_copy(self._runtime)
        with self._locks.exclusive(source, target):
            self._pools.discard(target)
            if not self._pools.created_by(target, facts):
                raise interrupted()
            if live.mirror_state(vm_id, source, target) in _COMPLETE:
                return inspect(self._pools, target)
            live.cancel_mirror(vm_id, source, target)
            self._pools.delete(target)
        raise interrupted()

    def _create_target(self, job: JobContext, source: VolumeRef, target: VolumeRef, provisioning: Provisioning) -> None:
        """Creates the empty image under its final name, which the VM's definition will contain."""
        with self._pools.hold(source) as path:
            header = header_of(source, path)
        check_key_matches(source, header)
        size_bytes = header.virtual_size_bytes
        if provisioning is Provisioning.THICK:
            check_free_space(self._pools, target, size_bytes)
        with self._pools.staging(target, size_bytes, job) as staging:
            create_like(job, header, target, staging.path, provisioning)
            staging.commit()
