"""Definition, power, measurements and events."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from ostler_common.errors import OstlerError
from ostler_common.hypervisors import Function

from ostler_agent.conformance.assertions import POLL_INTERVAL_S, CheckFailedError, refused, require, wait_for
from ostler_agent.conformance.bench import MIB, Bench, NeverCancelled, new_id
from ostler_agent.spec import DiskSpec, PowerState, VmInfo, VmSpec

MAX_CALL_S = 5.0  # for a call that must not wait for a guest
MAX_SAMPLES_S = 1.0  # load reports arrive every few seconds


def unknown_vm(bench: Bench) -> None:
    """An unknown VM is ABSENT; power_off and delete succeed; calls that need the VM are refused."""
    hypervisor, vm_id = bench.hypervisor, new_id()
    for _ in range(2):
        require(hypervisor.vm(vm_id).power_state is PowerState.ABSENT, "the VM must be ABSENT")
        require(not hypervisor.running(vm_id), "the VM must not run")
        hypervisor.power_off(vm_id)
        hypervisor.delete(vm_id)
    require(hypervisor.using(new_id()) is None, "no VM uses an unknown volume")
    require(vm_id not in [vm.vm_id for vm in hypervisor.vms()], "the VM must not be listed")
    with refused("shut_down", "VM_NOT_FOUND"):
        hypervisor.shut_down(vm_id)
    with refused("console", "VM_NOT_FOUND"):
        hypervisor.console(vm_id, force=False)
    functions = bench.driver.info.functions
    if Function.REBOOT in functions:
        with refused("reboot", "VM_NOT_FOUND"):
            bench.reboot().reboot(vm_id, hard=True)
    if Function.CONSOLE_LOG in functions:
        with refused("console_log", "VM_NOT_FOUND"):
            bench.console_log().console_log(vm_id)
    if Function.SEND_KEY in functions:
        with refused("send_key", "VM_NOT_FOUND"):
            bench.keyboard().send_key(vm_id, (28,))
    if Function.SCREEN in functions:
        with refused("open_screen", "VM_NOT_FOUND"):
            bench.vnc().open_screen(vm_id, force=False)
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
    """A defined VM matches its spec and does not run; defining it again replaces the definition."""
    hypervisor, spec = bench.hypervisor, bench.spec(bench.volume(), bench.volume())
    for _ in range(2):
        hypervisor.define(spec, bench.paths)
        _same(hypervisor.vm(spec.vm_id), spec, PowerState.STOPPED)
    require([vm.vm_id for vm in hypervisor.vms()].count(spec.vm_id) == 1, "the VM must be listed once")
    require(not hypervisor.running(spec.vm_id), "the VM must not run")
    require(hypervisor.using(spec.disks[0].volume.volume_id) is None, "a stopped VM uses no volume")
    other = replace(spec, cpus=2, memory_bytes=192 * MIB, disks=spec.disks[:1])
    hypervisor.define(other, bench.paths)
    _same(hypervisor.vm(spec.vm_id), other, PowerState.STOPPED)


def start(bench: Bench) -> None:
    """A started VM matches the spec that it is started with, not an earlier one; starting it again changes nothing."""
    hypervisor, spec = bench.hypervisor, bench.spec(bench.volume(), bench.volume())
    hypervisor.define(replace(spec, memory_bytes=192 * MIB, disks=spec.disks[:1]), bench.paths)
    hypervisor.start(spec, bench.paths)
    hypervisor.start(replace(spec, cpus=2), bench.paths)
    _same(hypervisor.vm(spec.vm_id), spec, PowerState.RUNNING)
    require(hypervisor.running(spec.vm_id), "the VM must run")
    require(hypervisor.vm(spec.vm_id) in hypervisor.vms(), "`vms` and `vm` must agree")
    for disk in spec.disks:
        require(hypervisor.using(disk.volume.volume_id) == spec.vm_id, "`using` must return the VM for its volumes")


def refuse_running(bench: Bench) -> None:
    """A running VM can neither be redefined nor deleted."""
    hypervisor, spec = bench.hypervisor, bench.start()
    for _ in range(2):
        with refused("define", "VM_RUNNING"):
            hypervisor.define(replace(spec, cpus=2), bench.paths)
        with refused("delete", "VM_RUNNING"):
            hypervisor.delete(spec.vm_id)
    _same(hypervisor.vm(spec.vm_id), spec, PowerState.RUNNING)


def power_off(bench: Bench) -> None:
    """A VM that is forced off is stopped, stays defined, and starts again; a deleted VM is ABSENT."""
    hypervisor, spec = bench.hypervisor, bench.start()
    for _ in range(2):
        for _ in range(2):
            hypervisor.power_off(spec.vm_id)
            _same(hypervisor.vm(spec.vm_id), spec, PowerState.STOPPED)
            require(not hypervisor.running(spec.vm_id), "the VM must not run")
        require(hypervisor.using(spec.disks[0].volume.volume_id) is None, "a stopped VM uses no volume")
        bench.start(spec)
    hypervisor.power_off(spec.vm_id)
    for _ in range(2):
        hypervisor.delete(spec.vm_id)
        require(hypervisor.vm(spec.vm_id).power_state is PowerState.ABSENT, "the VM must be ABSENT")
    require(bench.paths(spec.disks[0].volume).exists(), "deleting a VM must not delete its volumes")


def one_writer(bench: Bench) -> None:
    """A volume has one writer: no second VM starts with it."""
    first = bench.start()
    second = bench.spec(first.disks[0].volume)
    with refused("starting a second VM on a volume", "DISK_IN_USE"):
        bench.hypervisor.start(second, bench.paths)
    require(not bench.hypervisor.running(second.vm_id), "the VM must not run")
    bench.hypervisor.power_off(first.vm_id)
    bench.hypervisor.start(second, bench.paths)
    require(bench.hypervisor.running(second.vm_id), "the second VM must start once the first has stopped")


def at_once(bench: Bench) -> None:
    """Concurrent calls: a VM starts once, and different VMs do not affect each other."""
    hypervisor = bench.hypervisor
    specs = [bench.spec(bench.volume()) for _ in range(3)]
    gate = threading.Barrier(6)

    def start_at_once(spec: VmSpec) -> None:
        gate.wait()
        hypervisor.start(spec, bench.paths)

    with ThreadPoolExecutor(6) as pool:
        for error in [future.exception() for future in [pool.submit(start_at_once, spec) for spec in specs * 2]]:
            if error:
                raise error
    require(all(hypervisor.running(spec.vm_id) for spec in specs), "all VMs must run")
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda spec: hypervisor.power_off(spec.vm_id), specs * 2))
    require(not any(hypervisor.running(spec.vm_id) for spec in specs), "no VM must run")


def shut_down(bench: Bench) -> None:
    """A VM whose guest ignores shut_down keeps running; on a stopped VM the call succeeds or is refused."""
    hypervisor, spec = bench.hypervisor, bench.start()
    fastest_s = min(_duration_s(lambda: hypervisor.shut_down(spec.vm_id)) for _ in range(2))
    require(
        fastest_s < MAX_CALL_S, f"shut_down must return at once, not after {fastest_s:.1f} s: it only asks the guest"
    )
    require(hypervisor.running(spec.vm_id), "the VM must keep running: only its guest may stop it")
    hypervisor.power_off(spec.vm_id)
    try:
        hypervisor.shut_down(spec.vm_id)
    except OstlerError as error:
        require(
            error.reason == "VM_NOT_RUNNING",
            f"shut_down of a stopped VM must be refused with VM_NOT_RUNNING, not {error.reason}",
        )


def samples(bench: Bench) -> None:
    """Running VMs have samples, quickly; stopped VMs have none. An idle VM may have a CPU time of 0."""
    hypervisor, spec = bench.hypervisor, bench.start()
    cpu_times, durations_s = [0], []
    for _ in range(4):
        began = time.monotonic()
        own = [sample for sample in hypervisor.samples() if sample.vm_id == spec.vm_id]
        durations_s.append(time.monotonic() - began)
        require(len(own) == 1, "a running VM must have exactly one sample")
        require(own[0].rss_bytes > 0, "rss_bytes must be positive")
        cpu_times.append(own[0].cpu_time_ns)
        require(cpu_times[-1] >= cpu_times[-2], "CPU time must not decrease")
        time.sleep(POLL_INTERVAL_S)
    fastest_s = min(durations_s)
    require(fastest_s < MAX_SAMPLES_S, f"samples must return within {MAX_SAMPLES_S} s, not after {fastest_s:.1f} s")
    hypervisor.power_off(spec.vm_id)
    require(spec.vm_id not in [sample.vm_id for sample in hypervisor.samples()], "a stopped VM must have no sample")


def events(bench: Bench) -> None:
    """Each listener receives a VM's events in order; an unsubscribed listener receives none."""
    hypervisor, spec = bench.hypervisor, bench.spec(bench.volume())
    unsubscribed, second = type(bench.listener)(), type(bench.listener)()
    unsubscribe = hypervisor.subscribe(unsubscribed)
    unsubscribe()
    unsubscribe_second = hypervisor.subscribe(second)
    hypervisor.start(spec, bench.paths)
    bench.listener.wait(spec.vm_id, "STARTED")
    hypervisor.power_off(spec.vm_id)
    bench.listener.wait(spec.vm_id, "STOPPED")
    hypervisor.delete(spec.vm_id)
    bench.listener.wait(spec.vm_id, "UNDEFINED")
    for kind in ("STARTED", "STOPPED", "UNDEFINED"):
        second.wait(spec.vm_id, kind)
    unsubscribe_second()
    received = [kind for kind in bench.listener.kinds(spec.vm_id) if kind in ("STARTED", "STOPPED", "UNDEFINED")]
    own_thread = threading.get_ident()
    require(own_thread not in bench.listener.threads, "listeners must be called from a thread of the driver's own")
    require(received == ["STARTED", "STOPPED", "UNDEFINED"], f"events must come once and in order, not {received}")
    require(not unsubscribed.events, "an unsubscribed listener must receive no events")


def guest_shut_down(bench: Bench) -> None:
    """The guest responds to the power button; then the VM is stopped, and listeners receive STOPPED."""
    spec, _ = bench.guest()
    bench.hypervisor.shut_down(spec.vm_id)
    wait_for(lambda: not bench.hypervisor.running(spec.vm_id), "the guest's shutdown", 90)
    bench.listener.wait(spec.vm_id, "STOPPED")
    require(bench.hypervisor.vm(spec.vm_id).power_state is PowerState.STOPPED, "the VM must be STOPPED")


def _duration_s(call: Callable[[], None]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def _same(found: VmInfo, spec: VmSpec, state: PowerState) -> None:
    volumes = tuple(disk.volume.volume_id for disk in spec.disks)
    wanted = VmInfo(spec.vm_id, spec.name, state, spec.cpus, spec.memory_bytes, volumes, managed=True)
    if replace(found, machine="") != wanted:  # which type it got is the hypervisor's choice
        raise CheckFailedError(f"the VM must be reported as {wanted}, not {found}")


def machine_type(bench: Bench) -> None:
    """A VM has a machine type, keeps it at its next start, and does not start with one that there is not."""
    spec = bench.start()
    machine = bench.hypervisor.vm(spec.vm_id).machine
    require(machine != "", "a running VM must have a machine type")
    bench.hypervisor.power_off(spec.vm_id)
    bench.start(replace(spec, machine=machine))
    require(bench.hypervisor.vm(spec.vm_id).machine == machine, "it must keep its machine type")
    bench.hypervisor.power_off(spec.vm_id)
    with refused("a machine type that there is not", "MACHINE_NOT_SUPPORTED"):
        bench.hypervisor.start(replace(spec, machine="pc-q35-0.1"), bench.paths)
    require(not bench.hypervisor.running(spec.vm_id), "it must not run")
