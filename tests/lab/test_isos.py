"""ISO images with real guests: installing from one onto an empty encrypted disk, moving with one, and ejecting it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from ostler.control.v1 import iso_pb2, vm_pb2
from ostler.types.v1 import vm_pb2 as types_pb2

from tests.lab.fleet import MIB, SECRET, SHARED_POOL, Fleet, fresh
from tests.lab.host import wait_for
from tests.lab.installer import installer_iso, unsigned_iso

pytestmark = pytest.mark.lab


def upload(fleet: Fleet, name: str, path: Path) -> None:
    data = path.read_bytes()
    header = iso_pb2.UploadIsoRequest.Header(request_id=fresh(), name=name, file_size_bytes=len(data))
    parts = [iso_pb2.UploadIsoRequest(header=header)]
    parts += [iso_pb2.UploadIsoRequest(data=data[at : at + MIB]) for at in range(0, len(data), MIB)]
    fleet.api.isos.UploadIso(iter(parts))


def inserted(fleet: Fleet, vm: str) -> list[str]:
    """Names of the ISO images that libvirt has in the drives of a running VM."""
    found = fleet.vm(vm)
    rows = fleet.lab.host(found.host_name).virsh("domblklist", found.id, "--details").splitlines()
    names = {iso.sha256: iso.name for iso in fleet.api.isos.ListIsos(iso_pb2.ListIsosRequest()).isos}
    return [names.get(Path(row.split()[3]).name, "") for row in rows if "cdrom" in row]


def test_a_guest_is_installed_onto_an_empty_encrypted_disk(fleet: Fleet, tmp_path: Path) -> None:
    upload(fleet, "installer", installer_iso(tmp_path))
    request = vm_pb2.CreateVmRequest(
        request_id=fresh(),
        name="installed",
        service_offering=SECRET,
        isos=["installer"],
        root_size_bytes=64 * MIB,
        pool=SHARED_POOL,
    )
    creating = fleet.api.vms.CreateVm(request)
    fleet.do(creating)
    with fleet.console("installed") as console:
        console.wait("INSTALLED", 120)
        console.wait("GUEST-UP", 120)  # from its disk, with the installer still in the drive
        console.run("mark installed-here", "MARKED")
        assert inserted(fleet, "installed") == ["installer", ""]
        assert b"installed-here" not in fleet.file(fleet.root_volume("installed")).read_bytes()
        before = console.tick()
        fleet.do(fleet.migrate("installed", fleet.other_host("installed").name))
        assert before < console.tick()
    assert inserted(fleet, "installed") == ["installer", ""], "it has moved with the VM"
    fleet.assert_runs_once("installed")
    eject = vm_pb2.EjectIsoRequest(request_id=fresh(), vm="installed")
    fleet.do(fleet.api.vms.EjectIso(eject))
    assert inserted(fleet, "installed") == ["", ""]
    attach = vm_pb2.AttachIsoRequest(request_id=fresh(), vm="installed", iso="installer", boot_first=True)
    fleet.do(fleet.api.vms.AttachIso(attach))
    assert inserted(fleet, "installed") == ["installer", ""]
    # Started anew, it boots from the drive first.
    fleet.do(fleet.stop("installed", force=True))
    machine = fleet.vm("installed").machine
    assert machine.startswith("pc-q35-")
    fleet.do(fleet.start("installed"))
    found = fleet.vm("installed")
    assert machine in fleet.lab.host(found.host_name).virsh("dumpxml", found.id), "it keeps its machine type"
    assert found.machine == machine
    with fleet.console("installed") as console:
        console.wait("INSTALLING", 120)
    fleet.do(fleet.stop("installed", force=True))
    fleet.do(fleet.api.vms.EjectIso(vm_pb2.EjectIsoRequest(request_id=fresh(), vm="installed")))
    fleet.delete_vm("installed")
    fleet.api.isos.DeleteIso(iso_pb2.DeleteIsoRequest(iso="installer"))


def test_secure_boot_refuses_what_nobody_has_signed(fleet: Fleet, tmp_path: Path) -> None:
    upload(fleet, "unsigned", unsigned_iso(tmp_path))
    for name, firmware, printed in (
        ("open", types_pb2.FIRMWARE_UEFI, "grub>"),
        ("secure", types_pb2.FIRMWARE_UEFI_SECURE_BOOT, "Access Denied"),
    ):
        request = vm_pb2.CreateVmRequest(
            request_id=fresh(),
            name=name,
            service_offering=SECRET,
            isos=["unsigned"],
            firmware=firmware,
            root_size_bytes=16 * MIB,
            pool=SHARED_POOL,
        )
        fleet.do(fleet.api.vms.CreateVm(request))
        wait_for(partial(has_printed, fleet, name, printed), f"{printed} of VM {name}", 90)
    fleet.do(fleet.migrate("secure", fleet.other_host("secure").name))
    fleet.assert_runs_once("secure")
    assert "grub>" not in log_of(fleet, "secure")
    for name in ("open", "secure"):
        fleet.delete_vm(name)
    fleet.api.isos.DeleteIso(iso_pb2.DeleteIsoRequest(iso="unsigned"))


def has_printed(fleet: Fleet, vm: str, text: str) -> bool:
    return text in log_of(fleet, vm)


def log_of(fleet: Fleet, vm: str) -> str:
    """What the guest has printed on its serial console."""
    outputs = fleet.api.vms.ReadConsoleLog(vm_pb2.ReadConsoleLogRequest(vm=vm))
    return b"".join(output.data for output in outputs).decode(errors="replace")
