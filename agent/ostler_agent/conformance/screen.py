"""Console, reboot, pictures."""

from __future__ import annotations

from ostler_common.errors import AbortedError

from ostler_agent.conformance.assertions import CheckFailedError, refused, require, wait_for
from ostler_agent.conformance.bench import Bench, expect, read_until
from ostler_agent.hypervisors.base import Console

PNG = b"\x89PNG\r\n\x1a\n"


def console(bench: Bench) -> None:
    """One holds the console; a second is refused, or takes it by force; let go, it is free again."""
    hypervisor, spec = bench.hypervisor, bench.start()
    first = hypervisor.console(spec.vm_id, force=False)
    with refused("a second console", "CONSOLE_BUSY"):
        hypervisor.console(spec.vm_id, force=False)
    second = hypervisor.console(spec.vm_id, force=True)
    require(_taken(first), "who lost the console must read CONSOLE_TAKEN")
    for _ in range(2):
        first.close()
    with refused("a third console", "CONSOLE_BUSY"):
        hypervisor.console(spec.vm_id, force=False)
    for _ in range(2):
        second.close()
    require(second.read() == b"", "a closed console reads nothing")
    third = hypervisor.console(spec.vm_id, force=False)
    hypervisor.power_off(spec.vm_id)
    require(read_until(third, lambda _: False, 10), "the console must be over when its VM is")
    third.close()
    with refused("the console of a stopped VM", "VM_NOT_RUNNING"):
        hypervisor.console(spec.vm_id, force=False)


def guest_console(bench: Bench) -> None:
    """The guest's words come through; so does what is typed, and nobody need type for the guest to be read."""
    _, terminal = bench.guest()
    terminal.write(b"\n")
    expect(terminal, "\n", 30)


def reset(bench: Bench) -> None:
    """A VM is reset any number of times and runs on; listeners hear of it."""
    spec = bench.start()
    for _ in range(2):
        bench.reboot().reboot(spec.vm_id, hard=True)
        require(bench.hypervisor.running(spec.vm_id), "it must run on")
    bench.listener.wait(spec.vm_id, "REBOOTED")
    bench.hypervisor.power_off(spec.vm_id)
    for hard in (True, False):
        with refused("rebooting a stopped VM", "VM_NOT_RUNNING"):
            bench.reboot().reboot(spec.vm_id, hard)


def reboot_unheard(bench: Bench) -> None:
    """Asked to reboot, a VM in which nobody answers runs on, and can still be stopped."""
    spec = bench.start()
    for _ in range(2):
        bench.reboot().reboot(spec.vm_id, hard=False)
    require(bench.hypervisor.running(spec.vm_id), "it must run on")
    bench.hypervisor.power_off(spec.vm_id)
    require(not bench.hypervisor.running(spec.vm_id), "it must stop")


def guest_reboot(bench: Bench) -> None:
    """A guest that is asked to reboot comes up again, in a VM that never stopped."""
    spec, terminal = bench.guest()
    before = len(bench.listener.kinds(spec.vm_id))
    bench.reboot().reboot(spec.vm_id, hard=False)
    wait_for(lambda: "REBOOTED" in bench.listener.kinds(spec.vm_id)[before:], "the event REBOOTED", 90)
    expect(terminal, bench.setup.ready, 180)
    require("STOPPED" not in bench.listener.kinds(spec.vm_id)[before:], "the VM must not stop meanwhile")


def screenshot(bench: Bench) -> None:
    """A running VM's screen is a PNG; a stopped one has none."""
    spec = bench.start()
    for _ in range(2):
        require(bench.screen().screenshot(spec.vm_id).startswith(PNG), "a screenshot must be a PNG")
    bench.hypervisor.power_off(spec.vm_id)
    with refused("a screenshot of a stopped VM", "VM_NOT_RUNNING"):
        bench.screen().screenshot(spec.vm_id)


def _taken(lost: Console) -> bool:
    try:
        if not read_until(lost, lambda _: False, 10):
            raise CheckFailedError("who lost the console must hear of it")
    except AbortedError as error:
        return error.reason == "CONSOLE_TAKEN"
    return False
