"""The optional part of a driver that keeps the memory of running VMs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ostler_agent.spec import Freeze, VmSpec

if TYPE_CHECKING:
    from ostler_agent.hypervisors.base import DiskCopy, Paths, Progress


@runtime_checkable
class MemorySnapshot(Protocol):
    """Optional part of a driver, `Function.MEMORY_SNAPSHOT`: copies a running VM's disks together with its memory.

    memory: an existing file, at least as large as the VM's memory. What is written to it is encrypted before it reaches
    a disk, so the driver must write the memory nowhere else. Only root can open it; its owner may change. A save
    continues if the agent dies; the next run of the agent calls `end_save`.
    """

    def copy_with_memory(self, vm_id: str, memory: Path, copies: Sequence[DiskCopy], progress: Progress) -> Freeze:
        """Copies memory and disks as of one moment, as `Backup.copy_disks` does.

        The guest stands still while its memory is written, and runs while its disks are copied. Its file systems are
        not frozen: they would be frozen in the memory. If it raises, nothing writes to memory and targets any more, and
        the guest runs again, unless it has stopped (FailedPreconditionError VM_STOPPED). Raises FailedPreconditionError
        VM_NOT_RUNNING, VM_PAUSED; ResourceExhaustedError POOL_FULL; AbortedError COPY_FAILED, DISK_BUSY;
        DeadlineExceededError MEMORY_TIMEOUT.
        """

    def end_save(self, vm_id: str, copies: Sequence[DiskCopy]) -> None:
        """Ends a `copy_with_memory` that an earlier run of the agent began, and lets the guest run again.

        Succeeds if there is none.
        """

    def restore(self, spec: VmSpec, paths: Paths, memory: Path) -> None:
        """Like `start`, but the guest continues from its memory. No effect on a running VM.

        The disks have the content of that moment, and each is in its slot. If it raises, the VM does not run and no key
        is left. Raises FailedPreconditionError MEMORY_NOT_RESTORED if the memory does not fit the VM or this host.
        """
