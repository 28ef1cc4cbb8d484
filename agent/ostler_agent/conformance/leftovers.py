"""Processes and files of VMs: one process per start, none afterwards, and none that the driver does not notice."""

from __future__ import annotations

from dataclasses import replace

from ostler_agent.conformance import processes
from ostler_agent.conformance.assertions import CheckFailedError, SkippedError, refused, require, wait_for
from ostler_agent.conformance.bench import Bench
from ostler_agent.spec import DiskSpec

SETTLE_TIMEOUT_S = 5.0


def second_start(bench: Bench) -> None:
    """A second start of a running VM creates no second process."""
    spec = bench.start()
    first = bench.processes()
    bench.hypervisor.start(spec, bench.paths)
    require_none_but(bench, first, "the second start of a running VM")


def nothing_left(bench: Bench) -> None:
    """A VM that was stopped and deleted leaves neither processes nor files behind."""
    _live_and_die(bench)  # what the driver creates once stays
    processes_before, files_before = bench.processes(), bench.state_files()
    for _ in range(2):
        _live_and_die(bench)
    require_none_but(bench, processes_before, "a VM that was deleted")
    left = sorted(bench.state_files() - files_before)
    require(not left, f"a VM that was deleted must leave no files in the driver's directory, but {', '.join(left[:3])}")


def failed_start(bench: Bench) -> None:
    """A start that fails leaves no process, and releases the disks that it has opened."""
    before = bench.processes()
    first, missing = bench.volume(), bench.volume()
    bench.paths(missing).unlink()
    failing = bench.spec(first, missing)
    with refused("a VM whose second disk's file does not exist"):
        bench.hypervisor.start(failing, bench.paths)
    require_none_but(bench, before, "a start that failed")
    require(not bench.hypervisor.running(failing.vm_id), "the VM must not run")
    require(bench.hypervisor.using(first.volume_id) is None, "a VM that failed to start must use no volume")
    other = bench.start(bench.spec(first))
    require(bench.hypervisor.running(other.vm_id), "another VM must be able to use the first disk")


def second_disk(bench: Bench) -> None:
    """Every disk of a running VM has one writer, not only the first."""
    shared = bench.volume()
    first = bench.start(bench.spec(bench.volume(), shared))
    before = bench.processes()
    second = bench.spec(bench.volume())
    second = replace(second, disks=(*second.disks, DiskSpec(shared, 1)))
    with refused("starting a second VM with the second disk of a running VM", "DISK_IN_USE"):
        bench.hypervisor.start(second, bench.paths)
    require(not bench.hypervisor.running(second.vm_id), "the VM must not run")
    require_none_but(bench, before, "a start that was refused")
    require(bench.hypervisor.using(shared.volume_id) == first.vm_id, "`using` must return the first VM")


def killed_vm(bench: Bench) -> None:
    """A VM whose processes are killed is stopped, listeners receive STOPPED or CRASHED, and it starts again."""
    hypervisor, before = bench.hypervisor, bench.processes()
    spec = bench.start()
    own = bench.processes() - before
    if not own:
        raise SkippedError("the VM has no process that the suite can see")
    processes.kill(own)
    wait_for(lambda: not hypervisor.running(spec.vm_id), "`running` must become False for a killed VM")
    wait_for(
        lambda: {"STOPPED", "CRASHED"} & set(bench.listener.kinds(spec.vm_id)),
        "listeners must receive STOPPED or CRASHED of a killed VM",
    )
    require(hypervisor.using(spec.disks[0].volume.volume_id) is None, "a killed VM must use no volume")
    bench.start(spec)
    require(hypervisor.running(spec.vm_id), "a killed VM must start again")


def _live_and_die(bench: Bench) -> None:
    spec = bench.start()
    bench.hypervisor.power_off(spec.vm_id)
    bench.hypervisor.delete(spec.vm_id)


def require_none_but(bench: Bench, expected: frozenset[int], what: str) -> None:
    """Raises CheckFailedError if processes other than those expected exist; some may need a moment to exit."""
    try:
        wait_for(lambda: bench.processes() <= expected, "", SETTLE_TIMEOUT_S)
    except CheckFailedError:
        found = [processes.command_line(pid) for pid in sorted(bench.processes() - expected)]
        raise CheckFailedError(f"{what} must leave no further process: {'; '.join(filter(None, found))}") from None
