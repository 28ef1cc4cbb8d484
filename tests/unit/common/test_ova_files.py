"""Archives, disks and descriptors that Ostler writes, read by qemu-img and by its own readers."""

from __future__ import annotations

import hashlib
import io
import json
import random
import struct
import subprocess
import tarfile
from pathlib import Path

import pytest
from ostler_common import ova, ovf_writer, vmdk_writer
from ostler_common.errors import FailedPreconditionError
from ostler_common.ovf_writer import Disk, Machine
from ostler_common.qcow2_reader import Qcow2Reader
from ostler_control.cli.ova_file import OvaFile
from ostler_control.imports import ovf

MIB = 1 << 20


def raw_disk(path: Path, size_bytes: int) -> Path:
    """A disk with something at its beginning, its end, and across grains in between."""
    random_bytes = random.Random(1).randbytes
    with path.open("wb") as file:
        file.truncate(size_bytes)
        for offset, count in ((0, 512), (MIB - 100, 200), (33 * MIB, 3 * MIB), (size_bytes - 512, 512)):
            if offset + count <= size_bytes:
                file.seek(offset)
                file.write(random_bytes(count))
    return path


def qcow2_of(raw: Path, *options: str) -> Path:
    image = raw.with_suffix(".qcow2")
    subprocess.run(["qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", *options, raw, image], check=True)
    return image


@pytest.mark.parametrize("size_bytes", [MIB, 37 * MIB + 512, 200 * MIB])
@pytest.mark.parametrize("cluster", ["cluster_size=4k", "cluster_size=2M", "compat=0.10"])
def test_a_disk_is_the_same_in_each_format(tmp_path: Path, size_bytes: int, cluster: str) -> None:
    raw = raw_disk(tmp_path / "disk", size_bytes)
    vmdk = tmp_path / "disk.vmdk"
    with qcow2_of(raw, "-o", cluster).open("rb") as source, vmdk.open("wb") as out:
        reader = Qcow2Reader(source)
        assert reader.size_bytes == size_bytes
        assert vmdk_writer.write(out, "disk.vmdk", size_bytes, reader.allocated()) == out.tell()
    subprocess.run(["qemu-img", "compare", "-q", "-f", "raw", "-F", "vmdk", raw, vmdk], check=True)
    info = json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", vmdk]))
    assert (info["format"], info["virtual-size"]) == ("vmdk", size_bytes)
    assert info["format-specific"]["data"]["create-type"] == "streamOptimized"
    assert vmdk.stat().st_size < 8 * MIB, "zeros take no room"


def test_an_empty_disk_is_a_disk(tmp_path: Path) -> None:
    with (tmp_path / "empty.vmdk").open("wb") as out:
        vmdk_writer.write(out, "empty.vmdk", 5 * MIB, [])
    subprocess.run(
        ["qemu-img", "convert", "-f", "vmdk", "-O", "raw", tmp_path / "empty.vmdk", tmp_path / "raw"], check=True
    )
    assert (tmp_path / "raw").read_bytes() == bytes(5 * MIB)


def test_images_that_are_not_plain_are_refused(tmp_path: Path) -> None:
    raw = raw_disk(tmp_path / "disk", 4 * MIB)
    with qcow2_of(raw, "-c").open("rb") as source, pytest.raises(FailedPreconditionError, match="compressed"):
        list(Qcow2Reader(source).allocated())
    image = bytearray(qcow2_of(raw).read_bytes())
    encrypted, backed, huge = bytearray(image), bytearray(image), bytearray(image)
    encrypted[32:36] = struct.pack(">I", 2)
    backed[8:20] = struct.pack(">QI", 600, 4)
    huge[36:40] = struct.pack(">I", 0xFFFFFFFF)
    for bad in (b"", b"KDMV" + bytes(600), encrypted, backed, huge):
        with pytest.raises(FailedPreconditionError) as caught:
            list(Qcow2Reader(io.BytesIO(bytes(bad))).allocated())
        assert caught.value.reason == "NOT_AN_IMAGE"


MACHINE = Machine(
    name="web-1",
    cpus=4,
    memory_bytes=8 << 30,
    uefi=True,
    disks=[Disk(f"web-1-disk{n}.vmdk", 37 * MIB + 512, 0) for n in range(1, 11)],
    networks=["lan & co", "dmz", "lan & co"],
)


def test_a_descriptor_says_what_the_machine_has() -> None:
    found = ovf.parse(ovf_writer.descriptor(MACHINE))
    assert (found.name, found.cpus, found.memory_bytes, found.firmware) == ("web-1", 4, 8 << 30, "efi")
    assert [disk.file_name for disk in found.disks] == [disk.file_name for disk in MACHINE.disks]
    assert {(disk.capacity_bytes, disk.controller) for disk in found.disks} == {(37 * MIB + 512, "virtualscsi")}
    assert [disk.unit for disk in found.disks] == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10]
    assert [(nic.network, nic.model) for nic in found.nics] == [
        ("lan & co", "vmxnet3"),
        ("dmz", "vmxnet3"),
        ("lan & co", "vmxnet3"),
    ]


def test_an_archive_is_read_by_tar_and_agrees_with_its_manifest(tmp_path: Path) -> None:
    raws = [raw_disk(tmp_path / f"disk{n}", size * MIB) for n, size in enumerate((40, 2))]
    disks = [Disk(f"web-1-disk{n}.vmdk", raw.stat().st_size, 0) for n, raw in enumerate(raws, 1)]
    machine = Machine("web-1", 2, 1 << 30, False, disks, [])
    path = tmp_path / "web-1.ova"
    with path.open("w+b") as out:
        archive = OvaFile(out, machine)
        for raw in raws:
            with qcow2_of(raw).open("rb") as image:
                archive.add_disk(image)
        archive.finish()
    with tarfile.open(path) as tar:
        assert tar.getnames() == ["web-1.ovf", "web-1.mf", "web-1-disk1.vmdk", "web-1-disk2.vmdk"]
        tar.extractall(tmp_path / "out", filter="data")
    with path.open("rb") as file:
        assert next(ova.Reader(file.read).members()).name == "web-1.ovf"
    described = ovf.parse((tmp_path / "out" / "web-1.ovf").read_bytes())
    manifest = ova.parse_manifest((tmp_path / "out" / "web-1.mf").read_bytes())
    assert manifest.keys() == {"web-1.ovf", "web-1-disk1.vmdk", "web-1-disk2.vmdk"}
    for name, digest in manifest.items():
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest.value
    for raw, disk in zip(raws, described.disks, strict=True):
        vmdk = tmp_path / "out" / disk.file_name
        assert vmdk.stat().st_size == disk.file_bytes
        subprocess.run(["qemu-img", "compare", "-q", "-f", "raw", "-F", "vmdk", raw, vmdk], check=True)
