"""Console, reboot, screenshots."""

from __future__ import annotations

from collections.abc import Callable

from ostler_common.errors import AbortedError
from ostler_common.key_names import parse_keys

from ostler_agent.conformance.assertions import CheckFailedError, refused, require, wait_for
from ostler_agent.conformance.bench import Bench, expect, read_until
from ostler_agent.hypervisors.base import Console
from ostler_agent.spec import VmSpec

PNG = b"\x89PNG\r\n\x1a\n"


def console(bench: Bench) -> None:
    """A console has one holder: a second is refused, or takes it over by force; once closed, it is free."""
    _one_holder(bench, bench.start(), bench.hypervisor.console)


def vnc(bench: Bench) -> None:
    """A screen speaks RFB without a password and has one holder, as a console has."""
    spec = bench.start()
    viewer = bench.vnc().open_screen(spec.vm_id, force=False)
    expect(viewer, "RFB 003.008\n", 10)
    viewer.write(b"RFB 003.008\n")
    require(b"\1" in viewer.read()[1:], "the screen must offer security type 1, no password (RFC 6143, 7.1.2)")
    viewer.close()
    _one_holder(bench, spec, bench.vnc().open_screen)


def _one_holder(bench: Bench, spec: VmSpec, open_console: Callable[[str, bool], Console]) -> None:
    hypervisor = bench.hypervisor
    first = open_console(spec.vm_id, False)
    with refused("a second console", "CONSOLE_BUSY"):
        open_console(spec.vm_id, False)
    second = open_console(spec.vm_id, True)
    require(_taken(first), "read of a console that was taken over must raise CONSOLE_TAKEN")
    for _ in range(2):
        first.close()
    with refused("a third console", "CONSOLE_BUSY"):
        open_console(spec.vm_id, False)
    for _ in range(2):
        second.close()
    require(second.read() == b"", "read of a closed console must return b''")
    third = open_console(spec.vm_id, False)
    third.write(b"\n")
    hypervisor.power_off(spec.vm_id)
    require(read_until(third, lambda _: False, 10), "the console must end when its VM stops")
    _require_write_has_no_effect(third, "after its VM has stopped")
    third.close()
    _require_write_has_no_effect(third, "after close")
    with refused("the console of a stopped VM", "VM_NOT_RUNNING"):
        open_console(spec.vm_id, False)


def guest_console(bench: Bench) -> None:
    """The console transmits the guest's output and the caller's input."""
    _, terminal = bench.guest()
    terminal.write(b"\n")
    expect(terminal, "\n", 30)


def console_log(bench: Bench) -> None:
    """A running and a stopped VM have a console log; it is deleted with the VM."""
    spec = bench.start()
    for _ in range(2):
        bench.console_log().console_log(spec.vm_id).read()
    bench.hypervisor.power_off(spec.vm_id)
    kept = bench.console_log().console_log(spec.vm_id)
    kept.read()
    require(kept.read() == b"", "a stopped VM prints nothing more")
    bench.hypervisor.delete(spec.vm_id)
    with refused("the console log of a VM that was deleted", "VM_NOT_FOUND"):
        bench.console_log().console_log(spec.vm_id)
    bench.hypervisor.define(spec, bench.paths)
    require(bench.console_log().console_log(spec.vm_id).read() == b"", "the log must be deleted with its VM")


def guest_console_log(bench: Bench) -> None:
    """The console log has what the guest printed before it was read, and goes on."""
    spec, terminal = bench.guest()
    log = bench.console_log().console_log(spec.vm_id)
    require(bench.setup.ready.encode() in log.read(), f"the log must have {bench.setup.ready!r}")
    terminal.write(b"\n")
    wait_for(log.read, "what the guest prints, in its console log", 30)


def send_key(bench: Bench) -> None:
    """A running VM's keys can be pressed, one or several together; a stopped VM has no keyboard."""
    spec = bench.start()
    for keys in ("enter", "ctrl-alt-f1"):
        bench.keyboard().send_key(spec.vm_id, parse_keys(keys))
    require(bench.hypervisor.running(spec.vm_id), "the VM must keep running")
    bench.hypervisor.power_off(spec.vm_id)
    with refused("a key for a stopped VM", "VM_NOT_RUNNING"):
        bench.keyboard().send_key(spec.vm_id, parse_keys("enter"))


def reset(bench: Bench) -> None:
    """A reset VM keeps running, and listeners receive REBOOTED."""
    spec = bench.start()
    for _ in range(2):
        bench.reboot().reboot(spec.vm_id, hard=True)
        require(bench.hypervisor.running(spec.vm_id), "the VM must keep running")
    bench.listener.wait(spec.vm_id, "REBOOTED")
    bench.hypervisor.power_off(spec.vm_id)
    for hard in (True, False):
        with refused("rebooting a stopped VM", "VM_NOT_RUNNING"):
            bench.reboot().reboot(spec.vm_id, hard)


def reboot_unheard(bench: Bench) -> None:
    """A VM whose guest ignores reboot keeps running and can be forced off."""
    spec = bench.start()
    for _ in range(2):
        bench.reboot().reboot(spec.vm_id, hard=False)
    require(bench.hypervisor.running(spec.vm_id), "the VM must keep running")
    bench.hypervisor.power_off(spec.vm_id)
    require(not bench.hypervisor.running(spec.vm_id), "the VM must stop")


def guest_reboot(bench: Bench) -> None:
    """A guest that is asked to reboot boots again, and the VM does not stop."""
    spec, terminal = bench.guest()
    before = len(bench.listener.kinds(spec.vm_id))
    bench.reboot().reboot(spec.vm_id, hard=False)
    wait_for(lambda: "REBOOTED" in bench.listener.kinds(spec.vm_id)[before:], "the event REBOOTED", 90)
    expect(terminal, bench.setup.ready, 180)
    require("STOPPED" not in bench.listener.kinds(spec.vm_id)[before:], "the VM must not stop")


def screenshot(bench: Bench) -> None:
    """A running VM's screenshot is a PNG; a stopped VM has none."""
    spec = bench.start()
    for _ in range(2):
        require(bench.screen().screenshot(spec.vm_id).startswith(PNG), "a screenshot must be a PNG")
    bench.hypervisor.power_off(spec.vm_id)
    with refused("a screenshot of a stopped VM", "VM_NOT_RUNNING"):
        bench.screen().screenshot(spec.vm_id)


def _require_write_has_no_effect(console: Console, when: str) -> None:
    try:
        console.write(b"\n")
    except Exception as error:  # a driver may raise anything
        raise CheckFailedError(
            f"console.write must not raise {type(error).__name__} {when}; `read` reports the end"
        ) from error


def _taken(lost: Console) -> bool:
    try:
        if not read_until(lost, lambda _: False, 10):
            raise CheckFailedError("a console that was taken over must end")
    except AbortedError as error:
        return error.reason == "CONSOLE_TAKEN"
    return False
