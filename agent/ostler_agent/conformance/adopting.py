"""Taking VMs over, and handing them back."""

from __future__ import annotations

from ostler_agent.conformance.assertions import refused, require
from ostler_agent.conformance.bench import Bench, new_id


def hand_back(bench: Bench) -> None:
    """A VM that is handed back runs on without the mark; one that is taken over has it. Both are idempotent."""
    hypervisor, part, spec = bench.hypervisor, bench.adoption(), bench.start()
    found = part.describe(spec.vm_id)
    require(found.vm_id == spec.vm_id, "describe must find the VM by its UUID")
    require(part.describe(found.name).vm_id == spec.vm_id, "describe must find the VM by its name")
    require((found.cpus, found.memory_bytes) == (spec.cpus, spec.memory_bytes), "describe must tell its size")
    paths = [disk.path for disk in sorted(found.disks, key=lambda disk: disk.slot)]
    require(paths == [bench.paths(disk.volume) for disk in spec.disks], "describe must tell its disks' files")
    require(not [problem for problem in found.problems if problem.refuses], "the driver's own VM must have no problem")
    for _ in range(2):
        part.release(spec.vm_id)
        require(hypervisor.running(spec.vm_id), "the VM must run on")
        require(not hypervisor.vm(spec.vm_id).managed, "the VM must have lost the mark")
    for _ in range(2):
        part.adopt(spec.vm_id, spec.name, {})
        require(hypervisor.running(spec.vm_id), "the VM must run on")
        require(hypervisor.vm(spec.vm_id).managed, "the VM must have the mark")


def unknown(bench: Bench) -> None:
    """An unknown VM is not found; releasing it succeeds."""
    part, vm_id = bench.adoption(), new_id()
    part.release(vm_id)
    with refused("describe", "VM_NOT_FOUND"):
        part.describe(vm_id)
    with refused("adopt", "VM_NOT_FOUND"):
        part.adopt(vm_id, "stranger", {})
