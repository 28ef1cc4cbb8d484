"""A foreign guest becomes encrypted volumes, with the real virt-v2v."""

from __future__ import annotations

import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from ostler.agent.v1 import conversion_pb2
from ostler.types.v1 import job_pb2, vm_pb2
from ostler_agent.keyfile import KeyFile
from ostler_agent.spec import DiskFormat, VolumeRef
from ostler_agent.tools import qemu_img
from ostler_common.errors import FailedPreconditionError

from tests.host.conftest import Storage, contents, need, new_key
from tests.host.imports import Imports, source_disk
from tests.lab.guest import vmware_uefi_guest_image

BOOT_TIMEOUT_S = 180
State = job_pb2.JobUpdate.State


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_vmware_guest_becomes_encrypted_volumes(storage: Storage, tmp_path: Path) -> None:
    """The system disk of a UEFI guest boots on virtio; the data disk stays as it was; only their keys open them."""
    need("virt-v2v-in-place", "nbdkit", "supermin", "qemu-storage-daemon")
    imports = Imports(storage)
    shutil.copy(vmware_uefi_guest_image(), imports.directory / "system.vmdk")
    (imports.directory / "data.raw").write_bytes(b"data" + bytes((1 << 20) - 4))
    found = imports.service.InspectStaging(
        conversion_pb2.InspectStagingRequest(staging=imports.wire_ref),
        None,  # type: ignore[arg-type]
    )
    assert [(image.name, image.format) for image in found.images] == [
        ("data.raw", conversion_pb2.SOURCE_FORMAT_RAW),
        ("system.vmdk", conversion_pb2.SOURCE_FORMAT_VMDK),
    ]
    system, data = storage.ref(DiskFormat.QCOW2, new_key()), storage.ref(DiskFormat.RAW, new_key())
    disks = [
        source_disk("system.vmdk", system, conversion_pb2.SOURCE_FORMAT_VMDK),
        source_disk("data.raw", data, key="2001"),
    ]
    request = imports.request(*disks, timeout_s=800)
    request.firmware = vm_pb2.FIRMWARE_UEFI
    updates = list(imports.service.ConvertVm(request, None))  # type: ignore[arg-type]
    assert updates[-1].state == State.SUCCEEDED, updates[-1].error.message
    assert [disk.key for disk in updates[-1].conversion_report.disks] == ["2000", "2001"]
    phases = {update.progress.phase for update in updates}
    assert {"copying disk 1 of 2", "inspecting the guest", "converting the guest"} <= phases
    assert imports.leftovers({"system.vmdk", "data.raw"}) == []
    for ref in (system, data):
        refuses_other_keys(storage, ref)
    assert contents(storage.path(data), data, tmp_path / "data") == (imports.directory / "data.raw").read_bytes()
    assert boots_on_virtio(storage.path(system), system, tmp_path / "variables")


def refuses_other_keys(storage: Storage, ref: VolumeRef) -> None:
    with pytest.raises(FailedPreconditionError) as caught:
        qemu_img.check_key(storage.path(ref), ref.format, new_key())
    assert caught.value.reason == "WRONG_KEY"
    assert ref.key
    qemu_img.check_key(storage.path(ref), ref.format, ref.key)


def boots_on_virtio(path: Path, ref: VolumeRef, variables: Path) -> bool:
    """Whether the UEFI guest on an encrypted qcow2 volume finds its root disk on virtio and says so on its console."""
    shutil.copy("/usr/share/OVMF/OVMF_VARS_4M.fd", variables)
    assert ref.key
    assert ref.key.passphrase
    with KeyFile(ref.key.passphrase) as key:
        blockdev = f"driver=qcow2,node-name=d,file.driver=file,file.filename={path},encrypt.format=luks"
        command = ["qemu-system-x86_64", "-machine", "q35,accel=tcg", "-m", "256", "-nodefaults", "-display", "none"]
        command += ["-drive", "if=pflash,unit=0,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd"]
        command += ["-drive", f"if=pflash,unit=1,format=raw,file={variables}"]
        command += ["-serial", "stdio", "-object", f"secret,id=k,file={key.path}"]
        command += ["-blockdev", f"{blockdev},encrypt.key-secret=k", "-device", "virtio-blk-pci,drive=d"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=[key.fd]) as machine:
            assert machine.stdout
            timer = threading.Timer(BOOT_TIMEOUT_S, machine.kill)
            timer.start()
            try:
                return any(b"GUEST-UP" in line for line in machine.stdout)
            finally:
                timer.cancel()
                machine.kill()
