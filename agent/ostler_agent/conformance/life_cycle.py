"""Definition and power."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from ostler_common.errors import OstlerError
from ostler_common.hypervisors import Function

from ostler_agent.conformance.assertions import CheckFailedError, refused, require, wait_for
from ostler_agent.conformance.bench import MIB, Bench, NeverCancelled, new_id
from ostler_agent.spec import DiskSpec, PowerState, VmInfo, VmSpec


def unknown_vm(bench: Bench) -> None:
    """A VM that is not here: looking finds it absent, removing is a success, what needs it is refused."""
    hypervisor, vm_id = bench.hypervisor, new_id()
    for _ in range(2):
        require(hypervisor.vm(vm_id).power_state is PowerState.ABSENT, "it must be ABSENT")
        require(not hypervisor.running(vm_id), "it must not run")
        hypervisor.power_off(vm_id)
        hypervisor.delete(vm_id)
    require(hypervisor.using(new_id()) is None, "nobody uses a volume that is not here")
    require(vm_id not in [vm.vm_id for vm in hypervisor.vms()], "it must not be listed")
    with refused("shut_down", "VM_NOT_FOUND"):
        hypervisor.shut_down(vm_id)
    with refused("console", "VM_NOT_FOUND"):
        hypervisor.console(vm_id, force=False)
    functions = bench.driver.info.functions
    if Function.REBOOT in functions:
        with refused("reboot", "VM_NOT_FOUND"):
            bench.reboot().reboot(vm_id, hard=True)
    if Function.SCREENSHOT in functions:
        with refused("screenshot", "VM_NOT_FOUND"):
            bench.screen().screenshot(vm_id)
    if Function.ONLINE_GROW in functions:
        with refused("grow_disk", "VM_NOT_FOUND"):
            bench.online_grow().grow_disk(vm_id, new_id(), MIB)
    if Function.HOT_PLUG in functions:
        data = bench.volume()
        with refused("attach", "VM_NOT_FOUND"):
            bench.hot_plug().attach(vm_id, DiskSpec(data, 1), bench.paths(data))
        bench.hot_plug().detach(vm_id, data.volume_id, None, 1, NeverCancelled())


def define(bench: Bench) -> None:
    """A defined VM is there as its specification says, and does not run; defining again replaces it."""
    hypervisor, spec = bench.hypervisor, bench.spec(bench.volume(), bench.volume())
    for _ in range(2):
        hypervisor.define(spec, bench.paths)
        _same(hypervisor.vm(spec.vm_id), spec, PowerState.STOPPED)
    require([vm.vm_id for vm in hypervisor.vms()].count(spec.vm_id) == 1, "it must be listed once")
    require(not hypervisor.running(spec.vm_id), "it must not run")
    require(hypervisor.using(spec.disks[0].volume.volume_id) is None, "a stopped VM uses no volume")
    other = replace(spec, cpus=2, memory_bytes=192 * MIB, disks=spec.disks[:1])
    hypervisor.define(other, bench.paths)
    _same(hypervisor.vm(spec.vm_id), other, PowerState.STOPPED)


def start(bench: Bench) -> None:
    """A started VM runs as its specification says; starting it again changes nothing."""
    hypervisor, spec = bench.hypervisor, bench.spec(bench.volume(), bench.volume())
    hypervisor.start(spec, bench.paths)
    hypervisor.start(replace(spec, cpus=2), bench.paths)
    _same(hypervisor.vm(spec.vm_id), spec, PowerState.RUNNING)
    require(hypervisor.running(spec.vm_id), "it must run")
    require(hypervisor.vm(spec.vm_id) in hypervisor.vms(), "it must be listed as it is seen alone")
    for disk in spec.disks:
        require(hypervisor.using(disk.volume.volume_id) == spec.vm_id, "it must be told as the user of its volumes")


def refuse_running(bench: Bench) -> None:
    """A running VM is neither defined anew nor deleted."""
    hypervisor, spec = bench.hypervisor, bench.start()
    for _ in range(2):
        with refused("define", "VM_RUNNING"):
            hypervisor.define(replace(spec, cpus=2), bench.paths)
        with refused("delete", "VM_RUNNING"):
            hypervisor.delete(spec.vm_id)
    _same(hypervisor.vm(spec.vm_id), spec, PowerState.RUNNING)


def power_off(bench: Bench) -> None:
    """The plug pulled, the VM is stopped, stays defined, and starts again; deleted, it is gone."""
    hypervisor, spec = bench.hypervisor, bench.start()
    for _ in range(2):
        for _ in range(2):
            hypervisor.power_off(spec.vm_id)
            _same(hypervisor.vm(spec.vm_id), spec, PowerState.STOPPED)
            require(not hypervisor.running(spec.vm_id), "it must not run")
        require(hypervisor.using(spec.disks[0].volume.volume_id) is None, "a stopped VM uses no volume")
        bench.start(spec)
    hypervisor.power_off(spec.vm_id)
    for _ in range(2):
        hypervisor.delete(spec.vm_id)
        require(hypervisor.vm(spec.vm_id).power_state is PowerState.ABSENT, "it must be ABSENT")
    require(bench.paths(spec.disks[0].volume).exists(), "deleting a VM must leave its volumes alone")


def one_writer(bench: Bench) -> None:
    """A volume that a running VM writes is not given to another."""
    first = bench.start()
    second = bench.spec(first.disks[0].volume)
    with refused("starting a second VM on a volume", "DISK_IN_USE"):
        bench.hypervisor.start(second, bench.paths)
    require(not bench.hypervisor.running(second.vm_id), "it must not run")
    bench.hypervisor.power_off(first.vm_id)
    bench.hypervisor.start(second, bench.paths)
    require(bench.hypervisor.running(second.vm_id), "once the first is stopped it must start")


def at_once(bench: Bench) -> None:
    """Calls from several threads at once: a VM starts once, and different ones do not disturb each other."""
    hypervisor = bench.hypervisor
    specs = [bench.spec(bench.volume()) for _ in range(3)]
    gate = threading.Barrier(6)

    def work(spec: VmSpec) -> None:
        gate.wait()
        hypervisor.start(spec, bench.paths)

    with ThreadPoolExecutor(6) as pool:
        for error in [future.exception() for future in [pool.submit(work, spec) for spec in specs * 2]]:
            if error:
                raise error
    require(all(hypervisor.running(spec.vm_id) for spec in specs), "all must run")
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda spec: hypervisor.power_off(spec.vm_id), specs * 2))
    require(not any(hypervisor.running(spec.vm_id) for spec in specs), "none must run")


def shut_down(bench: Bench) -> None:
    """Asked to shut down, a VM in which nobody answers runs on; a stopped one may be asked, or refuses."""
    hypervisor, spec = bench.hypervisor, bench.start()
    for _ in range(2):
        hypervisor.shut_down(spec.vm_id)
    require(hypervisor.running(spec.vm_id), "it must run on: only the guest can end it")
    hypervisor.power_off(spec.vm_id)
    try:
        hypervisor.shut_down(spec.vm_id)
    except OstlerError as error:
        require(error.reason == "VM_NOT_RUNNING", f"a stopped VM's refusal must be VM_NOT_RUNNING, not {error.reason}")


def samples(bench: Bench) -> None:
    """Running VMs are measured, stopped ones are not."""
    hypervisor, spec = bench.hypervisor, bench.start()
    cpu_times = [0]

    def grows() -> bool:
        own = [sample for sample in hypervisor.samples() if sample.vm_id == spec.vm_id]
        require(len(own) == 1, "a running VM must have one sample")
        require(own[0].rss_bytes > 0, "it must take memory")
        cpu_times.append(own[0].cpu_time_ns)
        require(cpu_times[-1] >= cpu_times[-2], "its CPU time must not go back")
        return cpu_times[-1] > 0

    wait_for(grows, "CPU time")
    hypervisor.power_off(spec.vm_id)
    require(spec.vm_id not in [sample.vm_id for sample in hypervisor.samples()], "a stopped VM must have no sample")


def events(bench: Bench) -> None:
    """Listeners hear of a VM's life, in order; one that has had enough hears no more."""
    hypervisor, spec = bench.hypervisor, bench.spec(bench.volume())
    deaf = type(bench.listener)()
    unsubscribe = hypervisor.subscribe(deaf)
    unsubscribe()
    hypervisor.start(spec, bench.paths)
    bench.listener.wait(spec.vm_id, "STARTED")
    hypervisor.power_off(spec.vm_id)
    bench.listener.wait(spec.vm_id, "STOPPED")
    hypervisor.delete(spec.vm_id)
    bench.listener.wait(spec.vm_id, "UNDEFINED")
    heard = [kind for kind in bench.listener.kinds(spec.vm_id) if kind in ("STARTED", "STOPPED", "UNDEFINED")]
    require(heard == ["STARTED", "STOPPED", "UNDEFINED"], f"events must come once and in order, not {heard}")
    require(not deaf.events, "a listener that has gone must hear nothing")


def guest_shut_down(bench: Bench) -> None:
    """The guest obeys the power button, the VM is stopped then, and listeners hear of it."""
    spec, _ = bench.guest()
    bench.hypervisor.shut_down(spec.vm_id)
    wait_for(lambda: not bench.hypervisor.running(spec.vm_id), "the guest's end", 90)
    bench.listener.wait(spec.vm_id, "STOPPED")
    require(bench.hypervisor.vm(spec.vm_id).power_state is PowerState.STOPPED, "it must be STOPPED")


def _same(found: VmInfo, spec: VmSpec, state: PowerState) -> None:
    volumes = tuple(disk.volume.volume_id for disk in spec.disks)
    wanted = VmInfo(spec.vm_id, spec.name, state, spec.cpus, spec.memory_bytes, volumes, managed=True)
    if found != wanted:
        raise CheckFailedError(f"the VM must be seen as {wanted}, not {found}")
