"""All checks, and how they are run."""

from __future__ import annotations

import fnmatch
import inspect
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ostler_common.config import ConfigError
from ostler_common.hypervisors import Function

from ostler_agent.conformance import (
    adopting,
    cdroms,
    copies,
    disks,
    leftovers,
    life_cycle,
    memory,
    resizing,
    restart,
    screen,
    statement,
)
from ostler_agent.conformance.bench import Bench
from ostler_agent.conformance.results import Outcome, Result, attempt


@dataclass(frozen=True)
class Check:
    """One check. name: subject.what; function: skipped unless the driver states it; guest: needs a bootable image."""

    name: str
    summary: str
    work: Callable[[Bench], None]
    function: Function | None = None
    guest: bool = False


def _check(name: str, work: Callable[[Bench], None], function: Function | None = None, guest: bool = False) -> Check:
    return Check(name, " ".join((inspect.getdoc(work) or "").split()), work, function, guest)


# The checks that need a guest are adjacent: it boots once, and the last one shuts it down.
CHECKS: tuple[Check, ...] = (
    _check("statement.info", statement.info),
    _check("statement.parts", statement.parts),
    _check("statement.probe", statement.probe),
    _check("statement.options", statement.options),
    _check("statement.unstated", statement.unstated),
    _check("statement.errors", statement.raises_its_own),
    _check("vm.unknown", life_cycle.unknown_vm),
    _check("vm.define", life_cycle.define),
    _check("vm.start", life_cycle.start),
    _check("vm.refuse-running", life_cycle.refuse_running),
    _check("vm.power-off", life_cycle.power_off),
    _check("vm.shut-down", life_cycle.shut_down),
    _check("vm.one-writer", life_cycle.one_writer),
    _check("vm.one-writer-each", leftovers.second_disk),
    _check("vm.second-start", leftovers.second_start),
    _check("vm.failed-start", leftovers.failed_start),
    _check("vm.leftovers", leftovers.nothing_left),
    _check("vm.killed", leftovers.killed_vm),
    _check("vm.at-once", life_cycle.at_once),
    _check("vm.samples", life_cycle.samples),
    _check("vm.events", life_cycle.events),
    _check("console.one-holder", screen.console),
    _check("reboot.reset", screen.reset, Function.REBOOT),
    _check("reboot.unheard", screen.reboot_unheard, Function.REBOOT),
    _check("console-log.kept", screen.console_log, Function.CONSOLE_LOG),
    _check("send-key.pressed", screen.send_key, Function.SEND_KEY),
    _check("screen.vnc", screen.vnc, Function.SCREEN),
    _check("screenshot.png", screen.screenshot, Function.SCREENSHOT),
    _check("hot-plug.stopped", disks.plug_stopped, Function.HOT_PLUG),
    _check("hot-plug.running", disks.plug_running, Function.HOT_PLUG),
    _check("hot-plug.unheard", disks.unplug_unheard, Function.HOT_PLUG),
    _check("live-resize.running", resizing.running, Function.LIVE_RESIZE),
    _check("online-grow.grow", disks.grow, Function.ONLINE_GROW),
    _check("online-copy.copy", copies.copy, Function.ONLINE_COPY),
    _check("online-copy.cancelled", copies.cancelled_mirror, Function.ONLINE_COPY),
    _check("online-copy.pivot", copies.pivot, Function.ONLINE_COPY),
    _check("io-limits.running", disks.limit_disk, Function.IO_LIMITS),
    _check("online-backup.together", copies.together, Function.ONLINE_BACKUP),
    _check("incremental-backup.since", copies.increments, Function.INCREMENTAL_BACKUP),
    _check("memory-snapshot.continued", memory.continued, Function.MEMORY_SNAPSHOT),
    _check("volume-encryption.key", disks.encryption, Function.VOLUME_ENCRYPTION),
    _check("uefi.start", disks.uefi, Function.UEFI),
    _check("secure-boot.start", disks.secure_boot, Function.SECURE_BOOT),
    _check("tpm.start", disks.tpm, Function.TPM),
    _check("firmware-state.carried", disks.firmware_state, Function.FIRMWARE_STATE),
    _check("nics.start", disks.nics, Function.NICS),
    _check("nic-hot-plug.running", disks.plug_nic, Function.NIC_HOT_PLUG),
    _check("nic-link.running", disks.nic_link, Function.NIC_LINK),
    _check("guest-addresses.unheard", disks.guest_addresses, Function.GUEST_ADDRESSES),
    _check("guest-agent.unheard", disks.guest_agent, Function.GUEST_AGENT),
    _check("user-data.start", disks.user_data, Function.USER_DATA),
    _check("machine-type.kept", life_cycle.machine_type, Function.MACHINE_TYPE),
    _check("iso.drives", cdroms.drives, Function.ISO),
    _check("extra-config.start", disks.extra_config, Function.EXTRA_CONFIG),
    _check("adoption.hand-back", adopting.hand_back, Function.ADOPTION),
    _check("adoption.unknown", adopting.unknown, Function.ADOPTION),
    _check("guest.console", screen.guest_console, guest=True),
    _check("guest.console-log", screen.guest_console_log, Function.CONSOLE_LOG, guest=True),
    _check("guest.unplug", disks.guest_unplug, Function.HOT_PLUG, guest=True),
    _check("guest.reboot", screen.guest_reboot, Function.REBOOT, guest=True),
    _check("guest.shut-down", life_cycle.guest_shut_down, guest=True),
    _check("restart.definition", restart.definition_survives),
    _check("restart.close", restart.close_keeps_vms),
    _check("restart.running", restart.vm_survives),
    _check("restart.one-writer", restart.one_writer_survives),
    _check("restart.in-start", restart.killed_in_start),
    _check("restart.in-detach", restart.killed_in_detach, Function.HOT_PLUG),
    _check("restart.mirror", restart.mirror_survives, Function.ONLINE_COPY),
)


def select_checks(pattern: str) -> list[Check]:
    """The checks whose names match the pattern, in order. Raises ConfigError if there is none."""
    found = [check for check in CHECKS if fnmatch.fnmatch(check.name, pattern)]
    if not found:
        raise ConfigError(f"--only {pattern}: no check matches (see `--only '*'` for all names)")
    return found


def run_checks(bench: Bench, pattern: str = "*", repeat: int = 1) -> Iterator[Result]:
    """Runs the checks whose names match the pattern in order, each `repeat` times, and yields each result."""
    for check in select_checks(pattern):
        for _ in range(repeat):
            began = time.monotonic()
            outcome, detail = _run(check, bench)
            yield Result(check.name, check.summary, outcome, detail, time.monotonic() - began)


def _run(check: Check, bench: Bench) -> tuple[Outcome, str]:
    if check.function and check.function not in bench.driver.info.functions:
        return Outcome.SKIPPED, f"the driver does not state {check.function}"
    if check.guest and bench.setup.image is None:
        return Outcome.SKIPPED, "needs a guest that boots (--image FILE)"
    return attempt(check.name, lambda: check.work(bench), bench.clean_up)
