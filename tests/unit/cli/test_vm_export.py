"""`ostler vm export`: what is asked for, and what is on disk afterwards."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

import pytest
from ostler.control.v1 import vm_pb2, volume_pb2
from ostler.types.v1 import volume_pb2 as types_pb2
from ostler_common.errors import FailedPreconditionError

from tests.fakes.control import Control
from tests.unit.cli.conftest import Ostler


@pytest.fixture
def stopped(control: Control, tmp_path: Path) -> Control:
    """web-1 is stopped, and its disks are what is stored."""
    raw, image = tmp_path / "raw", tmp_path / "image"
    raw.write_bytes(b"what the guest wrote".ljust(1 << 20, b"\0"))
    subprocess.run(["qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", raw, image], check=True)
    control.stored = image.read_bytes()
    image.unlink()
    control.vms["web-1"].state = vm_pb2.Vm.STOPPED
    control.vms[control.vms["web-1"].id] = control.vms["web-1"]
    return control


def test_an_export_holds_the_disks_and_leaves_nothing_else(ostler: Ostler, stopped: Control, tmp_path: Path) -> None:
    file = tmp_path / "web-1.ova"
    result = ostler("vm", "export", "web-1", str(file), "--decrypt")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "web-1.ova"]
    assert file.stat().st_mode & 0o777 == 0o600
    with tarfile.open(file) as tar:
        assert tar.getnames() == ["web-1.ovf", "web-1.mf", "web-1-disk1.vmdk", "web-1-disk2.vmdk"]
        tar.extract("web-1-disk2.vmdk", tmp_path, filter="data")
    vmdk = tmp_path / "web-1-disk2.vmdk"
    subprocess.run(["qemu-img", "compare", "-q", "-f", "raw", "-F", "vmdk", tmp_path / "raw", vmdk], check=True)
    downloads = [request for request in stopped.asked if isinstance(request, volume_pb2.DownloadVolumeRequest)]
    plain = volume_pb2.DownloadVolumeRequest(volume="5b", format=types_pb2.DISK_FORMAT_QCOW2)
    decrypted = volume_pb2.ExportEncryption(decrypt=True)
    encrypted = volume_pb2.DownloadVolumeRequest(volume="5a", format=types_pb2.DISK_FORMAT_QCOW2, encryption=decrypted)
    assert downloads == [encrypted, plain], "only an encrypted disk is decrypted"


def test_what_cannot_be_exported_is_refused_before_a_byte_leaves(
    ostler: Ostler, stopped: Control, tmp_path: Path
) -> None:
    file = str(tmp_path / "web-1.ova")
    refused = ostler("vm", "export", "web-1", file)
    assert refused.exit_code == 2
    assert "--decrypt lets its content leave so" in " ".join(refused.output.split())
    stopped.vms["web-1"].state = vm_pb2.Vm.RUNNING
    refused = ostler("vm", "export", "web-1", file, "--decrypt")
    assert (refused.exit_code, "EXPORT_NEEDS_STOP" in refused.output) == (6, True)
    Path(file).write_text("precious")
    refused = ostler("vm", "export", "web-1", file, "--decrypt")
    assert (refused.exit_code, "FILE_EXISTS" in refused.output) == (6, True)
    assert not [request for request in stopped.asked if isinstance(request, volume_pb2.DownloadVolumeRequest)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "web-1.ova"]


def test_a_vm_that_starts_meanwhile_and_a_disk_that_breaks_off_leave_no_file(
    ostler: Ostler, stopped: Control, tmp_path: Path
) -> None:
    file = tmp_path / "web-1.ova"
    started = vm_pb2.Vm()
    started.CopyFrom(stopped.vms["web-1"])
    started.state = vm_pb2.Vm.RUNNING
    stopped.vms[started.id] = started
    result = ostler("vm", "export", "web-1", str(file), "--decrypt")
    assert (result.exit_code, "CHANGED_MEANWHILE" in result.output) == (6, True)
    stopped.vms[started.id] = stopped.vms["web-1"]
    stopped.sent = 100
    assert "DAMAGED" in ostler("vm", "export", "web-1", str(file), "--decrypt").output
    stopped.sent = None
    stopped.stored = b"no image at all"
    assert "NOT_AN_IMAGE" in ostler("vm", "export", "web-1", str(file), "--decrypt").output
    stopped.error = FailedPreconditionError("no", "NO_WAY")
    assert "NO_WAY" in ostler("vm", "export", "web-1", str(file), "--decrypt").output
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]
