"""Restarts of the agent, also by SIGKILL: the next run finds every VM as it is."""

from __future__ import annotations

import time

from ostler_common.errors import DeadlineExceededError

from ostler_agent.conformance import processes
from ostler_agent.conformance.assertions import refused, require, wait_for
from ostler_agent.conformance.bench import Bench, NeverCancelled
from ostler_agent.conformance.leftovers import require_none_but
from ostler_agent.hypervisors.base import LiveCopy, MirrorState
from ostler_agent.spec import PowerState

# Some of these fall into the start, whatever the machine's speed.
MOMENTS_S = (0.0, 0.03, 0.1, 0.3)
SURVIVAL_S = 3.0


def vm_survives(bench: Bench) -> None:
    """A VM survives the SIGKILL of the agent that started it, and the next run controls it."""
    spec = bench.spec(bench.volume())
    bench.run_killed_agent("run", spec)
    killed = time.monotonic()
    hypervisor = bench.hypervisor
    require(
        hypervisor.vm(spec.vm_id).power_state is PowerState.RUNNING,
        "the VM must keep running after the agent was killed",
    )
    time.sleep(max(0.0, killed + SURVIVAL_S - time.monotonic()))  # first, or a VM that dies fails anything below
    require(
        hypervisor.running(spec.vm_id), f"the VM must not stop within {SURVIVAL_S:.0f} s after the agent was killed"
    )
    require([vm.vm_id for vm in hypervisor.vms()].count(spec.vm_id) == 1, "the VM must be listed once")
    require(hypervisor.using(spec.disks[0].volume.volume_id) == spec.vm_id, "`using` must return the VM")
    require(spec.vm_id in [sample.vm_id for sample in hypervisor.samples()], "the VM must have a sample")
    for _ in range(2):
        hypervisor.console(spec.vm_id, force=False).close()
    running = bench.processes()  # now, for a driver may begin processes of its own after it was opened
    hypervisor.start(spec, bench.paths)
    require_none_but(bench, running, "starting a VM that runs since the last run of the agent")
    hypervisor.power_off(spec.vm_id)
    bench.listener.wait(spec.vm_id, "STOPPED")
    require(hypervisor.vm(spec.vm_id).power_state is PowerState.STOPPED, "the next run must be able to stop it")


def definition_survives(bench: Bench) -> None:
    """The definition of a stopped VM survives the SIGKILL of the agent that created it, and an orderly restart."""
    spec = bench.spec(bench.volume())
    bench.run_killed_agent("define", spec)
    before = bench.hypervisor.vm(spec.vm_id)
    require(before.power_state is PowerState.STOPPED, "the next run must find the definition")
    require(before.volume_ids == (spec.disks[0].volume.volume_id,), "the definition must be complete")
    bench.reopen()
    require(bench.hypervisor.vm(spec.vm_id) == before, "the VM must be unchanged")
    bench.start(spec)


def close_keeps_vms(bench: Bench) -> None:
    """VMs keep running, in the same processes, when the agent restarts in an orderly way: `close` stops nothing."""
    before = bench.processes()  # a driver may have processes of its own
    spec = bench.start()
    own = bench.processes() - before
    bench.hypervisor.close()
    time.sleep(1)
    gone = own - bench.processes()
    inside = [pid for pid in own - gone if processes.in_own_cgroup(pid)]
    require(
        not inside or bench.setup.unit_kill_mode in ("", "process", "none"),
        "a restart of ostler-agent.service would kill the VM, whose process is in its control group (in a drop-in "
        f"of the unit, set KillMode=process instead of {bench.setup.unit_kill_mode})",
    )
    bench.reopen(closed=True)
    require(
        bench.hypervisor.vm(spec.vm_id).power_state is PowerState.RUNNING, "the VM must run after an orderly restart"
    )
    require(not gone, "`close` must not end a process of the VM, also if `open` starts it again")


def one_writer_survives(bench: Bench) -> None:
    """A disk of a VM that an earlier run of the agent started cannot be used by another VM."""
    first = bench.spec(bench.volume())
    bench.run_killed_agent("run", first)
    second = bench.spec(first.disks[0].volume)
    with refused("starting a second VM on the volume of a VM that runs since the last run", "DISK_IN_USE"):
        bench.hypervisor.start(second, bench.paths)
    require(not bench.hypervisor.running(second.vm_id), "the VM must not run")


def killed_in_start(bench: Bench) -> None:
    """An agent is killed while it starts a VM: the next run starts it, or finds it running."""
    for moment_s in MOMENTS_S:
        spec = bench.spec(bench.volume())
        bench.run_killed_agent("start", spec, moment_s)
        hypervisor = bench.hypervisor
        hypervisor.start(spec, bench.paths)
        # The hypervisor may still be executing the first start.
        wait_for(
            lambda: bench.hypervisor.vm(spec.vm_id).power_state is PowerState.RUNNING,  # noqa: B023 (called at once)
            f"the VM running after a kill {moment_s} s into its start",
        )
        require([vm.vm_id for vm in hypervisor.vms()].count(spec.vm_id) == 1, "the VM must be listed once")
        hypervisor.console(spec.vm_id, force=False).close()
        hypervisor.power_off(spec.vm_id)
        require(not hypervisor.running(spec.vm_id), "the VM must not run")
        hypervisor.delete(spec.vm_id)


def killed_in_detach(bench: Bench) -> None:
    """An agent is killed during a detach: the next run knows whether the VM has the disk."""
    spec = bench.spec(bench.volume(), bench.volume())
    data_id = spec.disks[1].volume.volume_id
    bench.run_killed_agent("detach", spec, 0.5)
    hypervisor, plug = bench.hypervisor, bench.hot_plug()
    there = data_id in hypervisor.vm(spec.vm_id).volume_ids
    require(
        (hypervisor.using(data_id) == spec.vm_id) is there, "`using` must return the VM if and only if it has the disk"
    )
    try:
        plug.detach(spec.vm_id, data_id, None, 1, NeverCancelled())
    except DeadlineExceededError:
        require(there, "detach must not wait for a disk that is detached")
    hypervisor.power_off(spec.vm_id)
    plug.detach(spec.vm_id, data_id, None, 1, NeverCancelled())
    require(data_id not in hypervisor.vm(spec.vm_id).volume_ids, "detach must work on the stopped VM")


def mirror_survives(bench: Bench) -> None:
    """A ready mirror survives the SIGKILL of the agent, and the next run pivots to it."""
    spec = bench.spec(bench.volume(), bench.volume())
    source, target = (disk.volume for disk in spec.disks)
    bench.run_killed_agent("mirror", spec)
    live = bench.hypervisor
    assert isinstance(live, LiveCopy)
    require(live.mirror_state(spec.vm_id, source, target) is MirrorState.READY, "the mirror must be READY")
    for _ in range(2):
        live.pivot_disk(spec.vm_id, source, target)
    require(bench.hypervisor.vm(spec.vm_id).volume_ids == (target.volume_id,), "the VM must use the mirror as its disk")
