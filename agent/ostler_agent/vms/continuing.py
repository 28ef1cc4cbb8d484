"""Starts a VM whose guest continues from memory that a snapshot kept."""

from __future__ import annotations

from ostler_common.errors import FailedPreconditionError, bad_field
from ostler_common.hypervisors import Function

from ostler_agent.hypervisors.base import Hypervisor, Paths, need
from ostler_agent.hypervisors.memory import MemorySnapshot
from ostler_agent.jobs import JobContext
from ostler_agent.memory_files import MEMORY_FILES, MemoryFiles
from ostler_agent.preconditions import check_volume
from ostler_agent.seeds import SEEDS, Seeds
from ostler_agent.spec import VmInfo, VmSpec, VolumeRef
from ostler_agent.vms import firmware, power

_BEGUN = "continues from its memory"  # the fact that the guest may have run since


def start(
    driver: Hypervisor,
    paths: Paths,
    spec: VmSpec,
    memory: VolumeRef,
    job: JobContext,
    seeds: Seeds = SEEDS,
    files: MemoryFiles = MEMORY_FILES,
) -> VmInfo:
    """Starts the VM with this spec from its memory. No effect on a running VM.

    Memory fits only disks of its moment, which the guest changes as soon as it runs: it is tried once. Raises what
    `power.start` raises; InvalidArgumentError KEY_MISSING; FailedPreconditionError MEMORY_NOT_RESTORED,
    RESTORE_INTERRUPTED if an earlier attempt of the job may have let the guest run.
    """
    if driver.running(spec.vm_id):
        return driver.vm(spec.vm_id)
    need(driver, Function.MEMORY_SNAPSHOT)
    assert isinstance(driver, MemorySnapshot)
    if memory.key is None or not memory.key.passphrase:
        raise bad_field("memory.key.passphrase", "is required: memory is always encrypted", "KEY_MISSING")
    if _BEGUN in job.facts:
        raise FailedPreconditionError(
            f"VM {spec.vm_id} has begun to continue from its memory and does not run any more, so its disks may have "
            "changed; revert it again",
            "RESTORE_INTERRUPTED",
            {"vm": spec.vm_id},
        )
    power.check_startable(driver, paths, spec)
    path = paths(memory)
    check_volume(memory, path)
    job.report("reading memory")
    with files.shown(memory, path, job) as file:
        firmware.place(driver, spec)
        job.remember(**{_BEGUN: "yes"})
        driver.restore(seeds.place(spec), paths, file)
    return driver.vm(spec.vm_id)
