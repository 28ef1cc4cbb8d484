"""UEFI with a real guest: a variable that it writes follows it, and secure boot refuses its unsigned boot loader."""

from __future__ import annotations

from pathlib import Path

import pytest
from ostler.control.v1 import backup_pb2, offering_pb2, template_pb2, vm_pb2
from ostler.types.v1 import vm_pb2 as types_pb2

from tests.lab.console import Console
from tests.lab.fleet import MIB, Fleet, fresh
from tests.lab.guest import uefi_guest_image
from tests.lab.host import wait_for
from tests.lab.test_isos import log_of

pytestmark = pytest.mark.lab

TEMPLATE, OFFERING = "tiny-uefi", "for-uefi"
MEMORY_BYTES = 256 * MIB  # GRUB finds no room for the kernel beside a UEFI in less
VARIABLE = "/sys/firmware/efi/efivars/OstlerLab-0aa9a2c1-4b0c-4b0e-8f3c-3f8d1f6f7a11"
VALUE = "sea-salt"


def write(console: Console) -> None:
    """Writes the variable, kept when the power is off; its first four bytes are its attributes."""
    console.run(f"printf '\\007\\000\\000\\000{VALUE}' >{VARIABLE} && echo WRIT''TEN", "WRITTEN")


def written(console: Console) -> str:
    """The value that the guest reads; "" where there is no such variable."""
    return console.run(f'echo "VALUE=$(tail -c +5 {VARIABLE} 2>/dev/null)."', r"VALUE=([a-z-]*)\.")[1]


def booted(fleet: Fleet, vm: str) -> str:
    """The value that a guest reads once it has booted, which may be before anybody listens."""
    with fleet.console(vm) as console:
        console.wait(r"tick \d", 120)
        return written(console)


def clone(fleet: Fleet, name: str, copy: bool) -> None:
    request = vm_pb2.CloneVmRequest(request_id=fresh(), vm="firm", name=name, copy_firmware_state=copy)
    fleet.do(fleet.api.vms.CloneVm(request))


@pytest.fixture
def uefi(fleet: Fleet) -> None:
    """A template that boots with UEFI and gives a TPM, and an offering with memory enough for it."""
    fleet.upload(TEMPLATE, uefi_guest_image(), types_pb2.FIRMWARE_UEFI, tpm=True)
    offering = offering_pb2.CreateServiceOfferingRequest(
        request_id=fresh(), name=OFFERING, cpus=1, memory_bytes=MEMORY_BYTES, encrypt_root=True
    )
    fleet.api.offerings.CreateServiceOffering(offering)


@pytest.mark.timeout(400)
@pytest.mark.usefixtures("uefi")
def test_a_uefi_variable_follows_its_guest(fleet: Fleet, store: Path) -> None:
    assert fleet.create_vm("firm", OFFERING, TEMPLATE).tpm, "its template says so"
    with fleet.console("firm") as console:
        console.wait("GUEST-UP", 120)
        console.run("test -c /dev/tpm0 && echo HAS''TPM", "HASTPM")
        assert written(console) == ""
        write(console)
        assert written(console) == VALUE
        fleet.do(fleet.migrate("firm", fleet.other_host("firm").name))
        assert written(console) == VALUE, "it has moved with the guest"
    create = backup_pb2.CreateBackupRequest(request_id=fresh(), vm="firm", name="with-variables")
    fleet.do(fleet.api.backups.CreateBackup(create))
    assert fleet.api.backups.GetBackup(backup_pb2.GetBackupRequest(backup="with-variables")).HasField(
        "firmware_state_time"
    )
    fleet.do(fleet.stop("firm", force=True))
    there = fleet.other_host("firm")
    clone(fleet, "copied", copy=True)
    clone(fleet, "fresh", copy=False)
    restore = backup_pb2.RestoreVmRequest(
        request_id=fresh(), backup="with-variables", name="restored", without_nics=True
    )
    fleet.do(fleet.api.backups.RestoreVm(restore))
    for starting in (fleet.start("firm", there.name), *map(fleet.start, ("copied", "fresh", "restored"))):
        fleet.do(starting)
    assert booted(fleet, "firm") == VALUE, "it has followed the stopped VM to another host"
    assert booted(fleet, "copied") == VALUE, "a clone has a copy if asked"
    assert booted(fleet, "fresh") == "", "a clone has new variables"
    assert booted(fleet, "restored") == VALUE, "a restored VM has those of its backup"
    for name in ("copied", "fresh", "restored"):
        fleet.delete_vm(name)
    fleet.do(fleet.stop("firm", force=True))
    request = vm_pb2.SetFirmwareRequest(request_id=fresh(), vm="firm", firmware=types_pb2.FIRMWARE_UEFI_SECURE_BOOT)
    fleet.do(fleet.api.vms.SetFirmware(request))
    fleet.do(fleet.start("firm"))
    wait_for(lambda: "Access Denied" in log_of(fleet, "firm"), "the refusal of an unsigned boot loader", 90)
    fleet.delete_vm("firm")
    fleet.do(
        fleet.api.backups.DeleteBackup(backup_pb2.DeleteBackupRequest(request_id=fresh(), backup="with-variables"))
    )
    fleet.api.templates.DeleteTemplate(template_pb2.DeleteTemplateRequest(template=TEMPLATE))
