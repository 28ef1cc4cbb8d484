"""Takes VMs over from other tools, and hands them back. The guest never notices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ostler_common.errors import FailedPreconditionError, OstlerError
from ostler_common.hypervisors import Function

from ostler_agent.hypervisors.base import Hypervisor, need
from ostler_agent.hypervisors.foreign import Adoption, ForeignDisk, ForeignVm, Problem
from ostler_agent.jobs import JobContext
from ostler_agent.pools import Pools
from ostler_agent.spec import DiskFormat, VmInfo, VolumeRef
from ostler_agent.volumes.adoption import Adoption as FileAdoption


@dataclass(frozen=True)
class FoundDisk:
    """A disk of a VM on a known pool. size_bytes: as the guest sees it."""

    slot: int
    pool_id: str
    file_name: str
    format: DiskFormat
    size_bytes: int


@dataclass(frozen=True)
class Found:
    """A VM that may be adopted, its disks on known pools, and all that cannot be mapped."""

    vm: ForeignVm
    disks: tuple[FoundDisk, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class AdoptedDisk:
    """A disk's file and the volume that it becomes."""

    volume: VolumeRef
    file_name: str


class VmAdoption:
    """Adopts and releases VMs; safe to use from many threads."""

    def __init__(self, driver: Hypervisor, pools: Pools, files: FileAdoption) -> None:
        self._driver = driver
        self._pools = pools
        self._files = files

    def inspect(self, vm: str) -> Found:
        """Describes a VM. Raises FailedPreconditionError FUNCTION_NOT_SUPPORTED, what `Adoption.describe` raises."""
        found = _part(self._driver).describe(vm)
        disks: list[FoundDisk] = []
        problems = list(found.problems)
        for disk in found.disks:
            result = self._disk(disk)
            if isinstance(result, FoundDisk):
                disks.append(result)
            else:
                problems.append(result)
        return Found(found, tuple(disks), tuple(problems))

    def adopt(self, job: JobContext, vm_id: str, title: str, disks: Sequence[AdoptedDisk]) -> VmInfo:
        """Gives a VM's files the names of volumes, beside their own, and marks the VM as Ostler's. Idempotent.

        Raises what `FileAdoption.adopt` and `Adoption.adopt` raise.
        """
        part = _part(self._driver)
        for disk in disks:
            self._files.adopt(job, disk.volume, disk.file_name, keep_name=True)
        job.report("adopting the VM")
        part.adopt(vm_id, title, self._old_names(disks))
        return self._driver.vm(vm_id)

    def release(self, job: JobContext, vm_id: str, disks: Sequence[AdoptedDisk] = ()) -> VmInfo:
        """Hands a VM back: undoes `adopt` with these disks. Without them, its files keep their volumes' names.

        Idempotent. Raises FailedPreconditionError OLD_FILE_NAMES for a VM whose running definition still names files
        by other names, which are not among the disks.
        """
        part = _part(self._driver)
        info = self._driver.vm(vm_id)
        if info.name and info.managed and not disks:
            self._check_own_names(part.describe(vm_id))
        job.report("releasing the VM")
        part.release(vm_id)
        for disk in disks:
            self._files.release(job, disk.volume, disk.file_name)
        return self._driver.vm(vm_id)

    def _old_names(self, disks: Sequence[AdoptedDisk]) -> dict[Path, str]:
        return {
            self._pools.directory(disk.volume.pool_id) / disk.file_name: disk.volume.volume_id
            for disk in disks
            if disk.file_name != disk.volume.volume_id
        }

    def _check_own_names(self, vm: ForeignVm) -> None:
        volume_ids = self._driver.vm(vm.vm_id).volume_ids
        other = [disk.path for disk in vm.disks if disk.path.name not in volume_ids]
        if other:
            raise FailedPreconditionError(
                f"VM {vm.name} still has the file names from before it was adopted ({other[0].name}); stop and start "
                "it once, then unmanage it",
                "OLD_FILE_NAMES",
                {"vm": vm.vm_id},
            )

    def _disk(self, disk: ForeignDisk) -> FoundDisk | Problem:
        pool_id = self._pool_of(disk.path)
        if pool_id is None:
            return Problem("DISK_OUTSIDE_POOLS", f"{disk.path} is in the directory of no pool that this host has")
        format = DiskFormat(disk.format)
        try:
            info = self._files.inspect(pool_id, disk.path.name, format, None, in_use=True)
        except OstlerError as error:
            return Problem(error.reason, error.message)
        return FoundDisk(disk.slot, pool_id, disk.path.name, format, info.virtual_size_bytes)

    def _pool_of(self, path: Path) -> str | None:
        """The pool in whose directory a file lies."""
        for pool in self._pools.list():
            try:
                directory = self._pools.directory(pool.spec.pool_id)
            except OstlerError:
                continue  # a pool of devices, or one that cannot be used now
            if path.parent.resolve() == directory.resolve():
                return pool.spec.pool_id
        return None


def _part(driver: Hypervisor) -> Adoption:
    need(driver, Function.ADOPTION)
    assert isinstance(driver, Adoption)
    return driver
