"""A foreign guest becomes encrypted volumes, with the real virt-v2v."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from ostler.agent.v1 import conversion_pb2
from ostler.types.v1 import job_pb2
from ostler_agent.spec import DiskFormat, VolumeRef
from ostler_agent.tools import qemu_img
from ostler_common.errors import FailedPreconditionError

from tests.host.conftest import Storage, contents, need, new_key
from tests.host.imports import Imports, source_disk
from tests.lab.guest import vmware_guest_image

State = job_pb2.JobUpdate.State


@pytest.mark.timeout(900)
def test_a_vmware_guest_becomes_encrypted_volumes(storage: Storage, tmp_path: Path) -> None:
    """Two disks, the one with the system as vCenter exports it: the driver that it boots with changes, no key but its
    own opens it, and its other disk is what it was."""
    need("virt-v2v-in-place", "nbdkit", "supermin", "qemu-storage-daemon")
    imports = Imports(storage)
    shutil.copy(vmware_guest_image(), imports.directory / "system.vmdk")
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
    updates = list(imports.service.ConvertVm(imports.request(*disks, timeout_s=800), None))  # type: ignore[arg-type]
    assert updates[-1].state == State.SUCCEEDED, updates[-1].error.message
    assert [disk.key for disk in updates[-1].conversion_report.disks] == ["2000", "2001"]
    phases = {update.progress.phase for update in updates}
    assert {"copying disk 1 of 2", "inspecting the guest", "converting the guest"} <= phases
    assert imports.leftovers({"system.vmdk", "data.raw"}) == []
    for ref in (system, data):
        refuses_other_keys(storage, ref)
    assert contents(storage.path(data), data, tmp_path / "data") == (imports.directory / "data.raw").read_bytes()
    clear = tmp_path / "system"
    contents(storage.path(system), system, clear)
    assert "virtio_blk" in guest_file(clear, "/etc/initramfs-tools/modules").split()


def refuses_other_keys(storage: Storage, ref: VolumeRef) -> None:
    with pytest.raises(FailedPreconditionError) as caught:
        qemu_img.check_key(storage.path(ref), ref.format, new_key())
    assert caught.value.reason == "WRONG_KEY"
    assert ref.key
    qemu_img.check_key(storage.path(ref), ref.format, ref.key)


def guest_file(disk: Path, path: str) -> str:
    """A file of the guest's first partition."""
    command = ["debugfs", "-R", f"cat {path}", f"{disk}?offset=1048576"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
