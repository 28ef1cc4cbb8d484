"""A VM of VMware's is copied while its guest writes, and boots here with what that wrote last, whichever agent dies."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ostler.control.v1 import import_pb2, operation_pb2
from ostler.types.v1 import volume_pb2

from tests.fakes.vcenter import PASSWORD, USER, FakeVcenter, vcenter
from tests.lab.fleet import LAN, MIB, SECRET, SHARED_POOL, Fleet, fresh
from tests.lab.guest import vmware_guest_image
from tests.lab.imports import IMPORT_S
from tests.unit.imports.warm_site import warm_spec
from tests.unit.vmware.conftest import NETWORK

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[FakeVcenter]:
    """A vCenter with a running VM: a guest that boots on VMware's devices only, and a disk of data."""
    root, data = tmp_path / "root-flat.vmdk", tmp_path / "data-flat.vmdk"
    subprocess.run(["qemu-img", "convert", "-O", "raw", vmware_guest_image(), root], check=True)
    data.write_bytes(b"before the copy".ljust(4 * MIB, b"."))
    machine = warm_spec("busy app", [root, data], cpus=1, memory_mb=128, guest="debian10_64Guest")
    with vcenter(tmp_path, [machine]) as running:
        yield running


def test_a_running_vm_is_imported_warm(fleet: Fleet, site: FakeVcenter, tmp_path: Path) -> None:
    def ostler(*words: str) -> str:
        fleet.watch.remember()
        return fleet.lab.control.ostler(*words, timeout_s=IMPORT_S)

    fleet.watch.passphrases["vcenter"] = PASSWORD.encode()  # the search at the end finds it where it should not be
    password = tmp_path / "password"
    password.write_text(PASSWORD + "\n")
    ostler("import", "source", "add", "vmware", "vc2", "--vcenter", f"{site.host}:{site.port}", "--username", USER,
           "--thumbprint", site.sha256, "--password-file", str(password))  # fmt: skip
    host = fleet.lab.hosts[0]
    spec = import_pb2.ImportSpec(
        source="vc2",
        source_vm="busy app",
        service_offering=SECRET,
        disk_offering=f"{SECRET}-data",
        pool=SHARED_POOL,
        networks={NETWORK: LAN},
        conversion_host=host.name,
        warm=True,
    )
    site.faults(folder_bytes_per_sec=4 * MIB)
    operation = fleet.api.imports.ImportVm(import_pb2.ImportVmRequest(request_id=fresh(), spec=spec))
    fleet.wait_phase(operation, "copying the disks")
    host.stop_agent("KILL")
    host.start_agent()
    site.faults()
    fleet.wait_phase(operation, "waiting for the cut-over", 120)
    assert fleet.state_of(operation).state == operation_pb2.OperationMetadata.RUNNING
    site.write("busy app", 0, b"written last of all", disk=1)
    ostler("import", "cut-over", "busy-app", "--yes")
    fleet.do(operation, IMPORT_S)
    with fleet.console("busy-app") as console:
        console.wait("tick", 120)
        console.run("mount", "/dev/vda1 on / ")
        console.run("head -c 20 /dev/vdb", "written last of all")
    fleet.assert_runs_once("busy-app")
    volume = fleet.volume(fleet.root_volume("busy-app"), read_file=True)
    assert volume.encrypt_format == volume.file.encrypt_format == volume_pb2.ENCRYPT_FORMAT_LUKS
    assert b"GUEST-UP" not in fleet.file(volume.id).read_bytes()
    [source_vm] = fleet.api.imports.ListSourceVms(import_pb2.ListSourceVmsRequest(source="vc2")).vms
    assert (source_vm.power, source_vm.snapshots) == (import_pb2.SourceVm.OFF, 0)
    fleet.delete_vm("busy-app")
    ostler("import", "source", "remove", "vc2", "--yes")
