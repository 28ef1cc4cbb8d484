"""The agent dies at any line: its next life finds everything."""

from __future__ import annotations

from ostler_common.errors import DeadlineExceededError

from ostler_agent.conformance.assertions import require, wait_for
from ostler_agent.conformance.bench import Bench, NeverCancelled
from ostler_agent.hypervisors.base import LiveCopy, MirrorState
from ostler_agent.spec import PowerState

# Some of these hit the start in its middle, whatever the machine's speed.
MOMENTS_S = (0.0, 0.03, 0.1, 0.3)


def vm_survives(bench: Bench) -> None:
    """A VM that an agent started which was killed then: it runs on, and obeys the next one as if nothing had been."""
    spec = bench.spec(bench.volume())
    bench.run_killed_agent("run", spec)
    hypervisor = bench.hypervisor
    require(hypervisor.vm(spec.vm_id).power_state is PowerState.RUNNING, "the VM must run on when the agent is killed")
    require([vm.vm_id for vm in hypervisor.vms()].count(spec.vm_id) == 1, "it must be listed once")
    require(hypervisor.using(spec.disks[0].volume.volume_id) == spec.vm_id, "it must use its volume")
    require(spec.vm_id in [sample.vm_id for sample in hypervisor.samples()], "it must be measured")
    for _ in range(2):
        hypervisor.console(spec.vm_id, force=False).close()
    hypervisor.start(spec, bench.paths)
    hypervisor.power_off(spec.vm_id)
    bench.listener.wait(spec.vm_id, "STOPPED")
    require(hypervisor.vm(spec.vm_id).power_state is PowerState.STOPPED, "the next life must stop it")


def definition_survives(bench: Bench) -> None:
    """A stopped VM is there for the next life, in a process that ended well."""
    spec = bench.spec(bench.volume())
    bench.hypervisor.define(spec, bench.paths)
    before = bench.hypervisor.vm(spec.vm_id)
    bench.reopen()
    require(bench.hypervisor.vm(spec.vm_id) == before, "it must be as it was")
    bench.start(spec)


def killed_in_start(bench: Bench) -> None:
    """An agent killed while it starts a VM: the next one starts it, or finds it started."""
    for moment_s in MOMENTS_S:
        spec = bench.spec(bench.volume())
        bench.run_killed_agent("start", spec, moment_s)
        hypervisor = bench.hypervisor
        hypervisor.start(spec, bench.paths)
        # The hypervisor itself may still be at the first start.
        wait_for(
            lambda: bench.hypervisor.vm(spec.vm_id).power_state is PowerState.RUNNING,  # noqa: B023 (called at once)
            f"the VM running after a kill {moment_s} s into its start",
        )
        require([vm.vm_id for vm in hypervisor.vms()].count(spec.vm_id) == 1, "it must be listed once")
        hypervisor.console(spec.vm_id, force=False).close()
        hypervisor.power_off(spec.vm_id)
        require(not hypervisor.running(spec.vm_id), "nothing of it must be left running")
        hypervisor.delete(spec.vm_id)


def killed_in_detach(bench: Bench) -> None:
    """An agent killed while it waits for a guest to let go of a disk: the next one knows where the disk is."""
    spec = bench.spec(bench.volume(), bench.volume())
    data_id = spec.disks[1].volume.volume_id
    bench.run_killed_agent("detach", spec, 0.5)
    hypervisor, plug = bench.hypervisor, bench.hot_plug()
    there = data_id in hypervisor.vm(spec.vm_id).volume_ids
    require((hypervisor.using(data_id) == spec.vm_id) is there, "a disk that the VM has must be in use, another not")
    try:
        plug.detach(spec.vm_id, data_id, None, 1, NeverCancelled())
    except DeadlineExceededError:
        require(there, "a disk that has gone must not be waited for")
    hypervisor.power_off(spec.vm_id)
    plug.detach(spec.vm_id, data_id, None, 1, NeverCancelled())
    require(data_id not in hypervisor.vm(spec.vm_id).volume_ids, "the stopped VM must give it")


def mirror_survives(bench: Bench) -> None:
    """An agent killed once a mirror was ready: the mirror is ready still, and the next agent goes over to it."""
    spec = bench.spec(bench.volume(), bench.volume())
    source, target = (disk.volume for disk in spec.disks)
    bench.run_killed_agent("mirror", spec)
    live = bench.hypervisor
    assert isinstance(live, LiveCopy)
    require(live.mirror_state(spec.vm_id, source, target) is MirrorState.READY, "the mirror must be READY")
    for _ in range(2):
        live.pivot_disk(spec.vm_id, source, target)
    require(
        bench.hypervisor.vm(spec.vm_id).volume_ids == (target.volume_id,), "the VM must have the mirror for its disk"
    )
