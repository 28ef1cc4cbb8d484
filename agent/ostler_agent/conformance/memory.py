"""The memory of a running VM."""

from __future__ import annotations

from dataclasses import replace

from ostler_agent.conformance.assertions import refused, require
from ostler_agent.conformance.bench import Bench, NeverCancelled, new_id
from ostler_agent.conformance.copies import marked
from ostler_agent.hypervisors.base import DiskCopy
from ostler_agent.hypervisors.memory import MemorySnapshot
from ostler_agent.memory_files import size_for
from ostler_agent.spec import PowerState


def continued(bench: Bench) -> None:
    """A VM's memory and disks are saved together; the VM goes on, and later continues from them."""
    hypervisor = bench.hypervisor
    assert isinstance(hypervisor, MemorySnapshot)
    source, target = marked(bench), bench.volume()
    spec = bench.start(bench.spec(source))
    copies = [DiskCopy(source.volume_id, target, bench.paths(target))]
    memory = bench.paths(target).with_name(new_id())
    memory.touch(mode=0o600)
    try:
        with memory.open("r+b") as file:
            file.truncate(size_for(spec.memory_bytes))
        hypervisor.copy_with_memory(spec.vm_id, memory, copies, NeverCancelled())
        for _ in range(2):
            hypervisor.end_save(spec.vm_id, copies)
        state = bench.hypervisor.vm(spec.vm_id).power_state
        require(state is PowerState.RUNNING, "the guest must run again after its memory was saved")
        require(bench.hypervisor.using(target.volume_id) is None, "the VM must not use the copy")
        bench.hypervisor.power_off(spec.vm_id)
        with refused("saving a stopped VM's memory", "VM_NOT_RUNNING", "VM_STOPPED"):
            hypervisor.copy_with_memory(spec.vm_id, memory, copies, NeverCancelled())
        [disk] = spec.disks
        again = replace(spec, disks=(replace(disk, volume=target, serial=disk.serial or source.volume_id),))
        for _ in range(2):
            hypervisor.restore(again, bench.paths, memory)
        state = bench.hypervisor.vm(spec.vm_id).power_state
        require(state is PowerState.RUNNING, "the guest must run after it was restored")
        require(bench.hypervisor.using(target.volume_id) == spec.vm_id, "the restored VM must use the copy")
        bench.hypervisor.power_off(spec.vm_id)
    finally:
        memory.unlink()
