"""CPUs and memory that running VMs get."""

from __future__ import annotations

from dataclasses import replace

from ostler_common.hypervisors import MEMORY_STEP_BYTES

from ostler_agent.conformance.assertions import refused, require
from ostler_agent.conformance.bench import MIB, Bench
from ostler_agent.hypervisors.base import LiveResize

NEEDS_STOP = "RESIZE_NEEDS_STOP"


def running(bench: Bench) -> None:
    """A running VM gets CPUs and memory up to its maximum, each once, and keeps them; it loses none."""
    hypervisor = bench.hypervisor
    assert isinstance(hypervisor, LiveResize)
    small = bench.spec(bench.volume())
    had, wanted = small.memory_bytes, small.memory_bytes + MEMORY_STEP_BYTES
    spec = bench.start(replace(small, max_cpus=2, max_memory_bytes=wanted))

    def require_size(cpus: int, memory_bytes: int) -> None:
        info = bench.hypervisor.vm(spec.vm_id)
        require((info.cpus, info.memory_bytes) == (cpus, memory_bytes), "the VM must have exactly the size asked for")

    require_size(1, had)
    for what, cpus, memory_bytes in (
        ("more CPUs than the maximum", 3, wanted),
        ("more memory than the maximum", 2, wanted + MEMORY_STEP_BYTES),
        ("memory in smaller steps", 2, had + MIB),
    ):
        with refused(what, NEEDS_STOP):
            hypervisor.resize(spec.vm_id, cpus, memory_bytes)
        require_size(1, had)
    for _ in range(2):
        hypervisor.resize(spec.vm_id, 2, wanted)
        require_size(2, wanted)
    for what, cpus, memory_bytes in (("fewer CPUs", 1, wanted), ("less memory", 2, had)):
        with refused(what, NEEDS_STOP):
            hypervisor.resize(spec.vm_id, cpus, memory_bytes)
    bench.hypervisor.power_off(spec.vm_id)
    require_size(2, wanted)
    with refused("resizing a stopped VM", "VM_NOT_RUNNING"):
        hypervisor.resize(spec.vm_id, 2, wanted)
    bench.start(small)
    require_size(1, had)
