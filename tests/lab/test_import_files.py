"""A VM of an OVA archive becomes a VM here: a real guest, real virt-v2v, a real boot."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

import pytest
from ostler.types.v1 import volume_pb2

from tests.fakes.web import serving
from tests.lab.fleet import LAN, PLAIN, SECRET, SHARED_POOL, Fleet
from tests.lab.guest import guest_image, vmware_guest_image
from tests.lab.host import SHARED
from tests.unit.imports.ovf_documents import DESCRIPTOR

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

# The conversion alone takes two minutes without KVM, on a quiet machine.
IMPORT_S = 700
ONTO_LAN = ("--network", f"VM Network={LAN}")


@pytest.fixture
def appliance(tmp_path: Path) -> Path:
    """An archive of a VM with one disk, whose guest boots on VMware's devices only."""
    return pack(tmp_path / "appliance.ova", vmware_guest_image())


def pack(path: Path, image: Path) -> Path:
    """An archive of a VM with this disk."""
    name = f"first{image.suffix}"
    info = subprocess.run(["qemu-img", "info", "--output=json", image], capture_output=True, check=True).stdout
    capacity = json.loads(info)["virtual-size"]
    disk = image.read_bytes()
    lines = [line for line in DESCRIPTOR.splitlines() if "d2" not in line and "f2" not in line]
    text = "\n".join(lines).format(first=len(disk)).replace("8388608", str(capacity))
    xml = (
        text.replace("first.vmdk", name)
        .replace(">512<", ">128<")
        .replace(">2<", ">1<")
        .replace("web 1", "appliance")
        .encode()
    )
    manifest = f"SHA256(appliance.ovf)= {hashlib.sha256(xml).hexdigest()}\nSHA1({name})= {_sha1(disk)}\n"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for file, data in (("appliance.ovf", xml), ("appliance.mf", manifest.encode()), (name, disk)):
            member = tarfile.TarInfo(file)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def _sha1(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


def test_an_archive_is_imported_into_an_encrypted_volume_and_boots(fleet: Fleet, appliance: Path) -> None:
    def ostler(*words: str) -> str:
        fleet.watch.remember()
        return fleet.lab.control.ostler(*words, timeout_s=IMPORT_S)

    ostler("import", "ova", str(appliance), "--offering", SECRET, "--pool", SHARED_POOL, *ONTO_LAN)
    vm = fleet.vm("appliance")
    with fleet.console("appliance") as console:
        console.wait("tick", 120)
        console.run("mount", "/dev/vda1 on / ")
    fleet.assert_runs_once("appliance")
    volume = fleet.volume(fleet.root_volume("appliance"), read_file=True)
    assert volume.encrypt_format == volume.file.encrypt_format == volume_pb2.ENCRYPT_FORMAT_LUKS
    assert vm.nics[0].mac == "00:50:56:aa:bb:01"
    shared = fleet.lab.hosts[0].outside(SHARED)
    assert [path for path in shared.rglob("*") if path.suffix in (".vmdk", ".part")] == []
    fleet.delete_vm("appliance")


def test_images_with_drivers_are_imported_as_they_are(fleet: Fleet, tmp_path: Path) -> None:
    data = tmp_path / "data.vhdx"
    subprocess.run(["qemu-img", "create", "-q", "-f", "vhdx", data, "16M"], check=True)
    fleet.lab.control.ostler(
        "import", "image", str(guest_image()), str(data), "--name", "plain-image", "--offering", PLAIN,
        "--disk-offering", f"{SECRET}-data", "--pool", SHARED_POOL, "--network", LAN, "--no-conversion",
        timeout_s=120,
    )  # fmt: skip
    with fleet.console("plain-image") as console:
        console.wait("tick", 60)
    volumes = {v.slot: v.encrypted for v in fleet.vm("plain-image").volumes}
    assert volumes == {0: False, 1: True}
    fleet.delete_vm("plain-image")


def test_a_host_downloads_an_archive_itself(fleet: Fleet, tmp_path: Path) -> None:
    data = pack(tmp_path / "plain.ova", guest_image()).read_bytes()
    gateway, ca = fleet.lab.network.gateway, tmp_path / "ca.pem"
    with serving(tmp_path, gateway, data, listen=gateway) as web:
        ca.write_bytes(web.ca_pem)
        words = ("import", "ova", web.url(), "--name", "fetched", "--offering", PLAIN, "--pool", SHARED_POOL, *ONTO_LAN)
        more = ("--ca-file", str(ca), "--no-conversion", "--new-macs")
        with pytest.raises(subprocess.CalledProcessError) as refused:
            fleet.lab.control.ostler(*words, *more)
        assert "PRIVATE_ADDRESS" in refused.value.stderr
        with fleet.setting("direct.download.allow.private", "true"):
            web.breaks = [len(data) // 3]
            fleet.lab.control.ostler(*words, *more)
    with fleet.console("fetched") as console:
        console.wait("tick", 60)
    fleet.delete_vm("fetched")
