"""Foreign images of every format become volumes, and those that refer to other files are refused."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from ostler.agent.v1 import conversion_pb2
from ostler.types.v1 import job_pb2
from ostler_agent.conversion.images import image_names, inspect
from ostler_agent.spec import DiskFormat, SourceFormat
from ostler_common.errors import FailedPreconditionError, OstlerError, from_status

from tests.host.conftest import Storage, contents, new_key, wire
from tests.host.imports import Imports, source_disk
from tests.host.volumes import MIB

COPY = conversion_pb2.ConvertVmRequest.COPY
State = job_pb2.JobUpdate.State
FORMATS = {
    "disk.vmdk": (SourceFormat.VMDK, "vmdk", "subformat=streamOptimized"),
    "sparse.vmdk": (SourceFormat.VMDK, "vmdk", "subformat=monolithicSparse"),
    "flat.vmdk": (SourceFormat.VMDK, "vmdk", "subformat=monolithicFlat"),
    "split.vmdk": (SourceFormat.VMDK, "vmdk", "subformat=twoGbMaxExtentSparse"),
    "disk.qcow2": (SourceFormat.QCOW2, "qcow2", ""),
    "disk.img": (SourceFormat.QCOW2, "qcow2", ""),
    "disk.raw": (SourceFormat.RAW, "raw", ""),
    "disk.vhdx": (SourceFormat.VHDX, "vhdx", ""),
    "disk.vdi": (SourceFormat.VDI, "vdi", ""),
}
WIRE = {
    SourceFormat.VMDK: conversion_pb2.SOURCE_FORMAT_VMDK,
    SourceFormat.QCOW2: conversion_pb2.SOURCE_FORMAT_QCOW2,
    SourceFormat.RAW: conversion_pb2.SOURCE_FORMAT_RAW,
    SourceFormat.VHDX: conversion_pb2.SOURCE_FORMAT_VHDX,
    SourceFormat.VDI: conversion_pb2.SOURCE_FORMAT_VDI,
}


@pytest.fixture
def imports(storage: Storage) -> Imports:
    return Imports(storage)


def qemu_img(*arguments: str | Path) -> None:
    subprocess.run(["qemu-img", *(str(argument) for argument in arguments)], check=True, capture_output=True)


def make(directory: Path, name: str, content: bytes) -> None:
    _, driver, option = FORMATS[name]
    source = directory.parent / "content"
    source.write_bytes(content)
    qemu_img("convert", "-f", "raw", "-O", driver, *(["-o", option] if option else []), source, directory / name)


def reason(update: job_pb2.JobUpdate) -> str:
    return from_status(update.error).reason


@pytest.mark.parametrize("name", FORMATS)
def test_every_format(imports: Imports, tmp_path: Path, name: str) -> None:
    content = os.urandom(MIB) + bytes(MIB)
    make(imports.directory, name, content)
    expected = FORMATS[name][0]
    assert image_names(imports.directory) == [name]
    image = inspect(imports.directory / name)
    assert (image.format, image.virtual_size_bytes, image.encrypted) == (expected, 2 * MIB, False)
    target = imports.storage.ref(DiskFormat.QCOW2)
    disk = source_disk(name, target, WIRE[expected])
    disk.size_bytes = 3 * MIB
    update = imports.convert(imports.request(disk, mode=COPY))
    assert update.state == State.SUCCEEDED, update.error.message
    [made] = update.conversion_report.disks
    assert made.volume.virtual_size_bytes == 3 * MIB
    assert contents(imports.storage.path(target), target, tmp_path / "clear") == content + bytes(MIB)


def test_an_encrypted_image_and_its_key(imports: Imports, tmp_path: Path) -> None:
    key, content = new_key(), os.urandom(MIB)
    assert key.passphrase
    (tmp_path / "key").write_bytes(key.passphrase.reveal())
    (tmp_path / "content").write_bytes(content)
    secret = ["--object", f"secret,id=s,file={tmp_path}/key"]
    options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"
    staged = imports.directory / "disk.qcow2"
    for _ in range(20):  # QEMU may not be able to measure its speed
        try:
            qemu_img("convert", *secret, "-f", "raw", "-O", "qcow2", "-o", options, tmp_path / "content", staged)
            break
        except subprocess.CalledProcessError:
            continue
    assert inspect(staged).encrypted
    target = imports.storage.ref(DiskFormat.RAW)
    disk = source_disk("disk.qcow2", target, WIRE[SourceFormat.QCOW2])
    assert reason(imports.convert(imports.request(disk, mode=COPY))) == "KEY_MISSING"
    disk.source_key.CopyFrom(wire(imports.storage.ref(DiskFormat.RAW, new_key())).key)
    assert reason(imports.convert(imports.request(disk, mode=COPY))) == "WRONG_KEY"
    disk.source_key.passphrase = key.passphrase.reveal()
    assert imports.convert(imports.request(disk, mode=COPY)).state == State.SUCCEEDED
    assert contents(imports.storage.path(target), target, tmp_path / "clear") == content


@pytest.mark.parametrize("name", ["disk.vmdk", "disk.qcow2"])
def test_an_image_that_needs_another_is_refused(imports: Imports, tmp_path: Path, name: str) -> None:
    expected, driver, _ = FORMATS[name]
    base = tmp_path / f"base.{driver}"
    qemu_img("create", "-f", driver, base, "1M")
    qemu_img("create", "-f", driver, "-b", base, "-F", driver, imports.directory / name)
    with pytest.raises(FailedPreconditionError) as caught:
        inspect(imports.directory / name)
    assert caught.value.reason == "BACKING_FILE_REFUSED"
    disk = source_disk(name, imports.storage.ref(DiskFormat.QCOW2), WIRE[expected])
    assert reason(imports.convert(imports.request(disk, mode=COPY))) == "BACKING_FILE_REFUSED"
    assert imports.leftovers({name}) == []


def test_a_descriptor_that_names_a_file_of_the_host_is_refused(imports: Imports, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"host's own" * 1000)
    name = "flat.vmdk"
    make(imports.directory, name, bytes(MIB))
    path = imports.directory / name
    path.write_text(path.read_text().replace("flat-flat.vmdk", str(tmp_path / "secret")))
    disk = source_disk(name, imports.storage.ref(DiskFormat.RAW), WIRE[SourceFormat.VMDK])
    assert reason(imports.convert(imports.request(disk, mode=COPY))) == "BACKING_FILE_REFUSED"
    assert imports.leftovers({name, "flat-flat.vmdk"}) == []


@pytest.mark.parametrize("name", ["disk.vmdk", "disk.qcow2", "disk.vhdx", "disk.vdi"])
def test_a_name_that_promises_another_format(imports: Imports, name: str) -> None:
    (imports.directory / name).write_bytes(bytes(MIB))
    with pytest.raises(OstlerError) as caught:
        inspect(imports.directory / name)
    assert caught.value.reason == "NOT_AN_IMAGE"


@pytest.mark.parametrize("name", ["disk.vhdx", "disk.vmdk"])
def test_an_image_that_was_cut_short(imports: Imports, name: str) -> None:
    """The other formats cannot tell: QEMU reads zeros beyond the end of a file. Their digest does."""
    make(imports.directory, name, os.urandom(MIB))
    os.truncate(imports.directory / name, 700)
    with pytest.raises(OstlerError) as caught:
        inspect(imports.directory / name)
    assert caught.value.reason == "NOT_AN_IMAGE"


def test_an_image_that_is_larger_than_the_volume(imports: Imports) -> None:
    (imports.directory / "disk.raw").write_bytes(bytes(2 * MIB))
    disk = source_disk("disk.raw", imports.storage.ref(DiskFormat.RAW))
    disk.size_bytes = MIB
    assert reason(imports.convert(imports.request(disk, mode=COPY))) == "SOURCE_LARGER"
