"""Defines, starts, stops, reboots and deletes VMs."""

from __future__ import annotations

import time

from ostler_common.driver_details import check_values
from ostler_common.errors import FailedPreconditionError
from ostler_common.hypervisors import Function

from ostler_agent.hypervisors.base import Hypervisor, Paths, Progress, Reboot, need
from ostler_agent.preconditions import check_networks, check_volume
from ostler_agent.seeds import SEEDS, Seeds
from ostler_agent.spec import Firmware, VmInfo, VmSpec
from ostler_agent.vms import firmware, guest
from ostler_agent.vms.disks import check_disk

POLL_INTERVAL_S = 0.2


def define(driver: Hypervisor, paths: Paths, spec: VmSpec, progress: Progress, seeds: Seeds = SEEDS) -> VmInfo:
    """Creates the definition, or replaces that of a stopped VM.

    Raises FailedPreconditionError VM_RUNNING, FUNCTION_NOT_SUPPORTED, FORMAT_NOT_SUPPORTED, EXTRA_CONFIG_OWNED,
    EXTRA_CONFIG_INVALID.
    """
    _check_supported(driver, spec)
    progress.report("defining")
    if not driver.running(spec.vm_id):
        spec = seeds.place(spec)
    driver.define(spec, paths)
    return driver.vm(spec.vm_id)


def start(driver: Hypervisor, paths: Paths, spec: VmSpec, progress: Progress, seeds: Seeds = SEEDS) -> VmInfo:
    """Starts the VM with this spec. No effect on a running VM.

    Raises what `check_volume` and `check_networks` raise; FailedPreconditionError WRONG_KEY, DISK_IN_USE,
    FUNCTION_NOT_SUPPORTED, FORMAT_NOT_SUPPORTED, EXTRA_CONFIG_OWNED, EXTRA_CONFIG_INVALID; InvalidArgumentError
    KEY_MISSING.
    """
    if not driver.running(spec.vm_id):
        check_startable(driver, paths, spec)
        firmware.place(driver, spec)
        progress.report("starting")
        driver.start(seeds.place(spec), paths)
    return driver.vm(spec.vm_id)


def stop(driver: Hypervisor, vm_id: str, timeout_s: float, progress: Progress) -> VmInfo:
    """Asks the guest to shut down, and forces the VM off if it has not stopped within timeout_s (0: at once).

    Succeeds if the VM is stopped or absent. Cancellation during the wait does not revoke the request to the guest.
    """
    if timeout_s > 0 and driver.running(vm_id):
        progress.check()
        progress.report(f"waiting for the guest to shut down ({guest.shut_down(driver, vm_id)})")
        _wait_until_off(driver, vm_id, timeout_s, progress)
    if driver.running(vm_id):
        progress.check()
        progress.report("forcing off")
    driver.power_off(vm_id)
    return driver.vm(vm_id)


def reboot(driver: Hypervisor, vm_id: str, hard: bool) -> VmInfo:
    """Asks the guest to reboot; hard: resets it.

    Raises NotFoundError VM_NOT_FOUND; FailedPreconditionError VM_NOT_RUNNING, FUNCTION_NOT_SUPPORTED.
    """
    need(driver, Function.REBOOT)
    assert isinstance(driver, Reboot)
    driver.reboot(vm_id, hard)
    return driver.vm(vm_id)


def delete(driver: Hypervisor, vm_id: str, seeds: Seeds = SEEDS) -> VmInfo:
    """Deletes a stopped VM's definition and its seed. Raises FailedPreconditionError VM_RUNNING, VM_NOT_MANAGED."""
    info = driver.vm(vm_id)
    if info.name and not info.managed:
        raise FailedPreconditionError(
            f"Ostler did not create VM {info.name} (delete it with the tool that created it)",
            "VM_NOT_MANAGED",
            {"vm": vm_id},
        )
    driver.delete(vm_id)
    seeds.delete(vm_id)
    return driver.vm(vm_id)


def check_startable(driver: Hypervisor, paths: Paths, spec: VmSpec) -> None:
    """Raises what `start` does of a VM that cannot start here, before any change."""
    _check_supported(driver, spec)
    for disk in spec.disks:
        check_volume(disk.volume, paths(disk.volume))
    check_networks(spec.nics)


def _check_supported(driver: Hypervisor, spec: VmSpec) -> None:
    if spec.firmware is Firmware.UEFI:
        need(driver, Function.UEFI)
    if spec.firmware is Firmware.UEFI_SECURE_BOOT:
        need(driver, Function.SECURE_BOOT)
    if spec.tpm_key is not None:
        need(driver, Function.TPM)
    if spec.firmware_copy is not None:
        need(driver, Function.FIRMWARE_STATE)
    if spec.nics:
        need(driver, Function.NICS)
    if any(nic.link_down for nic in spec.nics):
        need(driver, Function.NIC_LINK)
    if any(nic.filter for nic in spec.nics):
        need(driver, Function.NIC_FILTER)
    if spec.extra:
        need(driver, Function.EXTRA_CONFIG)
    if spec.seed is not None:
        need(driver, Function.USER_DATA)
    if spec.machine:
        need(driver, Function.MACHINE_TYPE)
    if spec.cdroms:
        need(driver, Function.ISO)
    check_values(spec.details, driver.info.details, f"the driver for {driver.info.type}")
    for disk in spec.disks:
        check_disk(driver, disk)


def _wait_until_off(driver: Hypervisor, vm_id: str, timeout_s: float, progress: Progress) -> None:
    deadline = time.monotonic() + timeout_s
    while driver.running(vm_id) and time.monotonic() < deadline:
        progress.check()
        time.sleep(POLL_INTERVAL_S)
