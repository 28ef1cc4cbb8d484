"""A VM of VMware's becomes a VM here, end to end: the simulated vCenter, a real guest, real virt-v2v, a real boot."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ostler.control.v1 import event_pb2
from ostler.types.v1 import volume_pb2

from tests.fakes.vcenter import PASSWORD, USER, FakeVcenter, vcenter
from tests.lab.fleet import LAN, SECRET, SHARED_POOL, Fleet
from tests.lab.guest import vmware_guest_image
from tests.lab.host import SHARED
from tests.lab.imports import IMPORT_S
from tests.unit.vmware.conftest import NETWORK

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[FakeVcenter]:
    """A vCenter with one running VM, whose guest boots on VMware's devices only."""
    image = vmware_guest_image()
    info = subprocess.run(["qemu-img", "info", "--output=json", image], capture_output=True, check=True).stdout
    disk = {"kb": json.loads(info)["virtual-size"] >> 10, "file": str(image)}
    machine = {
        "name": "legacy app",
        "cpus": 1,
        "memory_mb": 128,
        "guest": "debian10_64Guest",
        "firmware": "bios",
        "on": True,
        "nics": [NETWORK],
        "disks": [disk],
    }
    with vcenter(tmp_path, [machine]) as running:
        yield running


def test_a_vm_is_imported_into_an_encrypted_volume_and_boots(fleet: Fleet, site: FakeVcenter, tmp_path: Path) -> None:
    def ostler(*words: str) -> str:
        fleet.watch.remember()
        return fleet.lab.control.ostler(*words, timeout_s=IMPORT_S)

    fleet.watch.passphrases["vcenter"] = PASSWORD.encode()  # the search at the end finds it where it should not be
    password = tmp_path / "password"
    password.write_text(PASSWORD + "\n")
    ostler("import", "source", "add", "vmware", "vc1", "--vcenter", f"{site.host}:{site.port}", "--username", USER,
           "--thumbprint", site.sha256, "--password-file", str(password))  # fmt: skip
    assert "legacy app" in ostler("import", "list-vms", "vc1")
    what = ("vc1", "legacy app", "--offering", SECRET, "--pool", SHARED_POOL, "--network", f"{NETWORK}={LAN}")
    checked = ostler("import", "check", *what)
    assert "go: " in checked, checked
    ostler("import", "vm", *what)
    vm = fleet.vm("legacy-app")
    with fleet.console("legacy-app") as console:
        console.wait("tick", 120)
        console.run("mount", "/dev/vda1 on / ")
    fleet.assert_runs_once("legacy-app")
    volume = fleet.volume(fleet.root_volume("legacy-app"), read_file=True)
    assert volume.encrypt_format == volume.file.encrypt_format == volume_pb2.ENCRYPT_FORMAT_LUKS
    assert b"GUEST-UP" not in fleet.file(volume.id).read_bytes()
    nic = vm.nics[0]
    assert nic.mac.startswith("00:0c:29"), "VMware's address is kept"
    reports = fleet.api.events.ListEvents(event_pb2.ListEventsRequest(type="vm.import.report")).events
    assert "legacy app" in reports[0].message
    assert {lease["state"] for lease in site.leases()} == {"done"}
    staged = [path for path in fleet.lab.hosts[0].outside(SHARED).rglob("*") if path.suffix in (".vmdk", ".ovf", ".mf")]
    assert staged == []
    fleet.delete_vm("legacy-app")
    ostler("import", "source", "remove", "vc1", "--yes")
