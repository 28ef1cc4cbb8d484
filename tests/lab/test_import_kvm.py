"""VMs of a KVM host become VMs of other hosts: real libvirt, QEMU and sshd, and a guest that boots here and there."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from ostler.types.v1 import volume_pb2

from tests.lab.fleet import LAN, SECRET, SHARED_POOL, Fleet
from tests.lab.guest import guest_image
from tests.lab.host import SHARED, Host, wait_for
from tests.lab.ssh import Sshd, program

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

IMAGES = "/var/lib/libvirt/legacy"
DOMAIN = """<domain type="qemu"><name>legacy</name><uuid>{id}</uuid><memory unit="MiB">128</memory><vcpu>1</vcpu>
<os><type arch="x86_64" machine="q35">hvm</type></os><features><acpi/></features>
<devices>
  <disk type="file" device="disk"><driver name="qemu" type="qcow2"/><source file="{images}/top.qcow2"/>
    <target dev="vda" bus="virtio"/></disk>
  <disk type="file" device="disk"><driver name="qemu" type="raw"/><source file="{images}/data.raw"/>
    <target dev="vdb" bus="virtio"/></disk>
  <interface type="bridge"><mac address="52:54:00:aa:07:01"/><source bridge="br0"/><model type="virtio"/></interface>
  <serial type="pty"/><console type="pty"/>
</devices></domain>"""
IMPORT = (
    "import", "kvm", "old1", "legacy", "--offering", SECRET, "--disk-offering", f"{SECRET}-data",
    "--pool", SHARED_POOL, "--network", f"br0={LAN}",
)  # fmt: skip


@pytest.fixture
def source(fleet: Fleet, tmp_path: Path) -> Iterator[Host]:
    """The last host of the lab as one that another tool has used, with a VM whose disk is on a base."""
    if not program():
        pytest.skip("sshd is not installed")
    host = fleet.lab.hosts[-1]
    images = host.outside(IMAGES)
    images.mkdir()
    shutil.copy(guest_image(), images / "base.qcow2")
    backing = ["-b", "base.qcow2", "-F", "qcow2"]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, "top.qcow2"], cwd=images, check=True)
    (images / "data.raw").touch()
    (images / "data.raw").open("r+b").truncate(1 << 20)
    definition = tmp_path / "legacy.xml"
    definition.write_text(DOMAIN.format(id=uuid.uuid4(), images=IMAGES))
    host.virsh("define", str(definition))
    sshd = Sshd.start(host)
    host_key = tmp_path / "old1.pub"
    host_key.write_text(sshd.known_hosts.partition(" ")[2])
    keys = ("--host-key", str(host_key), "--private-key-file", str(sshd.private_key))
    fleet.lab.control.ostler("import", "source", "add", "kvm", "old1", "--host", host.address, *keys)
    yield host
    fleet.lab.control.ostler("import", "source", "remove", "old1", "--yes")
    if "running" in host.virsh("domstate", "legacy"):
        host.virsh("destroy", "legacy")
    host.virsh("undefine", "legacy")
    host.stop_daemon("sshd")
    shutil.rmtree(images)


def test_a_vm_is_imported_stopped_and_running_and_a_cancelled_import_leaves_nothing(fleet: Fleet, source: Host) -> None:
    ostler = fleet.lab.control.ostler
    assert "legacy" in ostler("import", "list-vms", "old1")
    images = source.outside(IMAGES)
    before = {path.name: path.read_bytes() for path in images.iterdir()}
    ostler(*IMPORT, timeout_s=240)
    assert {path.name: path.read_bytes() for path in images.iterdir()} == before
    assert "shut off" in source.virsh("domstate", "legacy")
    _boots_encrypted(fleet, "legacy")
    fleet.delete_vm("legacy")

    source.virsh("start", "legacy")
    ostler(*IMPORT, "--name", "legacy-live", timeout_s=240)
    assert "running" in source.virsh("domstate", "legacy")
    wait_for(lambda: {path.name for path in images.iterdir()} == set(before), "the end of the copy's files")
    _boots_encrypted(fleet, "legacy-live")
    fleet.delete_vm("legacy-live")

    source.virsh("destroy", "legacy")
    with (images / "data.raw").open("r+b") as data:
        data.truncate(4 << 30)  # sftp tells of no holes: this is read for long enough to be cancelled
    volumes, files = ostler("volume", "list", "-o", "name"), _files(fleet)
    operation = ostler(*IMPORT, "--no-wait").strip()
    wait_for(lambda: "copying disk 2" in ostler("operation", "show", operation), "the copy of the second disk", 60, 0.3)
    ostler("operation", "cancel", operation)
    wait_for(lambda: "cancelled" in ostler("operation", "show", operation).lower(), "the end of the import", 60, 0.3)
    assert "legacy" not in ostler("vm", "list", "-o", "name")
    assert ostler("volume", "list", "-o", "name") == volumes
    assert _files(fleet) == files


def _boots_encrypted(fleet: Fleet, name: str) -> None:
    with fleet.console(name) as console:
        console.wait("tick", 120)
    volume = fleet.volume(fleet.root_volume(name), read_file=True)
    assert volume.encrypt_format == volume.file.encrypt_format == volume_pb2.ENCRYPT_FORMAT_LUKS
    assert fleet.vm(name).nics[0].mac == "52:54:00:aa:07:01"


def _files(fleet: Fleet) -> set[str]:
    return {path.name for path in fleet.lab.hosts[0].outside(SHARED).iterdir()}
