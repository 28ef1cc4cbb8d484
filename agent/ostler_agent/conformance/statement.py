"""The driver's statement, and whether it is true."""

from __future__ import annotations

import uuid
from dataclasses import replace

from ostler_common.config import ConfigError
from ostler_common.driver_details import check_schema, check_values
from ostler_common.errors import OstlerError
from ostler_common.hypervisors import Function
from ostler_common.io_limits import IoLimits

from ostler_agent.conformance.assertions import CheckFailedError, SkippedError, refused, require
from ostler_agent.conformance.bench import Bench, NeverCancelled
from ostler_agent.hypervisors.base import PARTS
from ostler_agent.pools import registry as pool_registry
from ostler_agent.spec import (
    Cdrom,
    DiskFormat,
    DiskSpec,
    ExtraConfig,
    Firmware,
    FirmwareCopy,
    FirmwareState,
    Key,
    KeyUse,
    NicSpec,
)
from ostler_agent.vms import addresses as vm_addresses
from ostler_agent.vms import console_log, disks, keyboard, power, resizing, screen
from ostler_agent.vms import firmware as vm_firmware
from ostler_agent.vms import guest as vm_guest
from ostler_agent.vms import nic_link as vm_nic_link
from ostler_agent.vms import nics as vm_nics

REFUSAL = "FUNCTION_NOT_SUPPORTED"


def info(bench: Bench) -> None:
    """Name, formats and pool types are valid, and the open driver states the same."""
    stated = bench.driver.info
    require(stated.display_name.strip(), "the display name must not be empty")
    require(stated.template_formats, "there must be at least one template format")
    known = set(pool_registry.names())
    require(stated.pool_types is None or stated.pool_types, "there must be at least one pool type")
    unknown = (stated.pool_types or frozenset()) - known
    require(not unknown, f"pool types must be among {', '.join(sorted(known))}, not {', '.join(sorted(unknown))}")
    require(bench.hypervisor.info == stated, "the open driver must state the same")
    try:
        check_schema(stated.details)
        check_values(bench.setup.details, stated.details, "the driver")
    except ValueError as error:
        raise CheckFailedError(f"the details that it states are not valid: {error}") from None


def parts(bench: Bench) -> None:
    """A driver has the calls of a function if and only if it states the function."""
    for function, part in PARTS.items():
        stated, there = function in bench.driver.info.functions, isinstance(bench.hypervisor, part)
        require(there or not stated, f"it states {function} but lacks the calls of {part.__name__}")
        require(stated or not there, f"it has the calls of {part.__name__} but does not state {function}")


def probe(bench: Bench) -> None:
    """A probe reports CPUs, memory and version, and is idempotent."""
    for _ in range(2):
        facts = bench.driver.probe(bench.context)
        require(facts.cpus > 0 and facts.memory_bytes > 0, "it must report the host's CPUs and memory")
        require(facts.hypervisor_version, "it must report the hypervisor's version")


def options(bench: Bench) -> None:
    """An unknown option raises ConfigError."""
    context = replace(bench.context, options={**bench.context.options, "no-such-option": 1})
    try:
        bench.driver.open(context).close()
    except ConfigError:
        return
    raise CheckFailedError("an unknown option must raise ConfigError")


def unstated(bench: Bench) -> None:
    """The agent refuses what the driver does not state, before it calls the driver."""
    hypervisor, stated = bench.hypervisor, bench.driver.info
    spec, data, progress = bench.start(), bench.volume(), NeverCancelled()
    stopped = bench.spec(bench.volume())
    refusals = 0
    if Function.REBOOT not in stated.functions:
        refusals += 1
        with refused("reboot", REFUSAL):
            power.reboot(hypervisor, spec.vm_id, hard=True)
    if Function.HOT_PLUG not in stated.functions:
        refusals += 1
        with refused("attaching to a running VM", REFUSAL):
            disks.attach(hypervisor, bench.paths, spec.vm_id, DiskSpec(data, 1), progress)
    if Function.LIVE_RESIZE not in stated.functions:
        refusals += 1
        with refused("CPUs for a running VM", REFUSAL):
            resizing.resize(hypervisor, spec.vm_id, spec.cpus + 1, spec.memory_bytes, progress)
    if Function.UEFI not in stated.functions:
        refusals += 1
        with refused("a VM with UEFI", REFUSAL):
            power.start(hypervisor, bench.paths, replace(stopped, firmware=Firmware.UEFI), progress)
    if Function.NICS not in stated.functions:
        refusals += 1
        with refused("a VM with a network interface", REFUSAL):
            nics = (NicSpec("52:54:00:00:00:01", "br0"),)
            power.start(hypervisor, bench.paths, replace(stopped, nics=nics), progress)
    elif Function.NIC_FILTER not in stated.functions:
        refusals += 1
        with refused("a VM whose network filters spoofed frames", REFUSAL):
            nics = (NicSpec("52:54:00:00:00:01", "br0", filter=True),)
            power.start(hypervisor, bench.paths, replace(stopped, nics=nics), progress)
    if Function.NIC_HOT_PLUG not in stated.functions:
        refusals += 1
        with refused("a network interface for a running VM", REFUSAL):
            vm_nics.attach(hypervisor, spec.vm_id, NicSpec("52:54:00:00:00:01", "br0"), progress)
    if Function.CONSOLE_LOG not in stated.functions:
        refusals += 1
        with refused("reading a console log", REFUSAL):
            list(console_log.read(hypervisor, spec.vm_id, 0))
    if Function.SEND_KEY not in stated.functions:
        refusals += 1
        with refused("pressing a key", REFUSAL):
            keyboard.send_key(hypervisor, spec.vm_id, "enter")
    if Function.IO_LIMITS not in stated.functions:
        refusals += 1
        limited = replace(stopped.disks[0], limits=IoLimits(iops=100))
        with refused("a VM with a limited disk", REFUSAL):
            power.start(hypervisor, bench.paths, replace(stopped, disks=(limited,)), progress)
        with refused("limiting a running VM's disk", REFUSAL):
            disks.limit(hypervisor, spec.vm_id, spec.disks[0].volume.volume_id, IoLimits(iops=100), progress)
    if Function.NIC_LINK not in stated.functions:
        refusals += 1
        with refused("the link of a running VM's interface", REFUSAL):
            vm_nic_link.set_link(hypervisor, spec.vm_id, "52:54:00:00:00:01", up=False, progress=progress)
    if Function.GUEST_ADDRESSES not in stated.functions:
        refusals += 1
        with refused("the addresses of a running VM", REFUSAL):
            vm_addresses.read(hypervisor, spec.vm_id)
    if Function.GUEST_AGENT not in stated.functions:
        refusals += 1
        with refused("asking the guest agent of a running VM", REFUSAL):
            vm_guest.read_info(hypervisor, spec.vm_id)
    if Function.SCREEN not in stated.functions:
        refusals += 1
        with refused("opening a screen", REFUSAL):
            screen.open_screen(hypervisor, spec.vm_id, False)
    if Function.EXTRA_CONFIG not in stated.functions:
        refusals += 1
        with refused("a VM with extra configuration", REFUSAL):
            extra = ExtraConfig(("<os><bootmenu enable='yes'/></os>",))
            power.start(hypervisor, bench.paths, replace(stopped, extra=extra), progress)
    if Function.USER_DATA not in stated.functions:
        refusals += 1
        with refused("a VM with user data", REFUSAL):
            power.start(hypervisor, bench.paths, replace(stopped, seed={"user-data": b"#cloud-config\n"}), progress)
    if Function.SECURE_BOOT not in stated.functions:
        refusals += 1
        with refused("a VM with secure boot", REFUSAL):
            secure = replace(stopped, firmware=Firmware.UEFI_SECURE_BOOT)
            power.start(hypervisor, bench.paths, secure, progress)
    if Function.TPM not in stated.functions:
        refusals += 1
        with refused("a VM with a TPM", REFUSAL):
            key = Key(str(uuid.uuid4()), None, use=KeyUse.TPM)
            power.start(hypervisor, bench.paths, replace(stopped, tpm_key=key), progress)
    if Function.FIRMWARE_STATE not in stated.functions:
        refusals += 2
        with refused("reading what firmware keeps", REFUSAL):
            vm_firmware.read_state(hypervisor, stopped.vm_id)
        with refused("a VM with what its firmware kept", REFUSAL):
            copy = FirmwareCopy(str(uuid.uuid4()), FirmwareState())
            power.start(hypervisor, bench.paths, replace(stopped, firmware_copy=copy), progress)
    if Function.MACHINE_TYPE not in stated.functions:
        refusals += 1
        with refused("a VM with a machine type", REFUSAL):
            power.start(hypervisor, bench.paths, replace(stopped, machine="pc-q35-7.2"), progress)
    if Function.ISO not in stated.functions:
        refusals += 1
        with refused("a VM with an ISO image", REFUSAL):
            cdroms = (Cdrom(stopped.vm_id, "", 1, 0, path=bench.setup.scratch),)
            power.start(hypervisor, bench.paths, replace(stopped, cdroms=cdroms), progress)
    refusals += 1
    with refused("a VM with a detail that is not stated", "DETAIL_UNKNOWN"):
        power.start(hypervisor, bench.paths, replace(stopped, details={"no-such-detail": "1"}), progress)
    if Function.VOLUME_ENCRYPTION not in stated.functions:
        refusals += 1
        disk = replace(stopped.disks[0], volume=replace(stopped.disks[0].volume, key=Key(spec.vm_id, None)))
        with refused("a VM with an encrypted volume", REFUSAL):
            power.start(hypervisor, bench.paths, replace(stopped, disks=(disk,)), progress)
    for wrong in set(DiskFormat) - stated.template_formats:
        refusals += 1
        disk = replace(stopped.disks[0], volume=replace(stopped.disks[0].volume, format=wrong))
        with refused(f"a VM with a disk of format {wrong}", "FORMAT_NOT_SUPPORTED"):
            power.start(hypervisor, bench.paths, replace(stopped, disks=(disk,)), progress)
        with refused(f"attaching a disk of format {wrong}", "FORMAT_NOT_SUPPORTED"):
            wrong_data = DiskSpec(replace(data, format=wrong), 1)
            disks.attach(hypervisor, bench.paths, spec.vm_id, wrong_data, progress)
    if not refusals:
        raise SkippedError("the driver states every function and format that this check uses")
    require(not hypervisor.running(stopped.vm_id), "a refused VM must not run")
    with refused("shut_down of a VM that was never defined", "VM_NOT_FOUND"):
        hypervisor.shut_down(stopped.vm_id)


def raises_its_own(bench: Bench) -> None:
    """A failing call raises an OstlerError with a reason and a message, never a foreign exception."""
    spec = bench.spec(bench.volume())
    bench.paths(spec.disks[0].volume).unlink()
    try:
        bench.hypervisor.start(spec, bench.paths)
    except OstlerError as error:
        require(error.reason.isupper() and error.message, "an error must have an upper-case reason and a message")
    else:
        raise CheckFailedError("a VM must not start without its disk's file")
    require(not bench.hypervisor.running(spec.vm_id), "a VM that failed to start must not run")
    bench.hypervisor.power_off(spec.vm_id)
