"""`ostler import ova`, `ostler import image`."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest
from ostler.control.v1 import import_pb2 as pb
from ostler.control.v1 import vm_pb2
from ostler_control.cli.commands import _import_files
from ostler_control.cli.exits import Exit

from tests.fakes.control import Control
from tests.unit.cli.conftest import Ostler
from tests.unit.cli.import_calls import asked
from tests.unit.common.ova_archives import archive

OPTIONS = ("--offering", "medium", "--network", "lan=br0")
XML = b"<Envelope/>"
DISK = os.urandom(3_000_000)


def manifest(disk: bytes = DISK) -> bytes:
    return (
        f"SHA1(web.ovf)= {hashlib.sha1(XML).hexdigest()}\nSHA256(disk 1.vmdk)= {hashlib.sha256(disk).hexdigest()}\n"
    ).encode()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """An archive, and a folder with the same files."""
    files = {"web.ovf": XML, "web.mf": manifest(), "disk 1.vmdk": DISK, "notes.txt": b"x"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "web.ova").write_bytes(archive(files))
    return tmp_path


@pytest.mark.parametrize("name", ["web.ova", "web.ovf", "."])
def test_a_package_is_sent_as_its_descriptor_and_the_files_that_are_missing(
    control: Control, ostler: Ostler, package: Path, name: str
) -> None:
    done = ostler("import", "ova", str(package / name), *OPTIONS, "--new-macs", "--stopped")
    assert done.exit_code == 0, done.output
    request = asked(control, pb.ImportFilesRequest)
    assert (request.ovf, request.new_macs, request.spec.stopped) == (XML, True, True)
    assert (request.spec.service_offering, dict(request.spec.networks)) == ("medium", {"lan": "br0"})
    announced = {file.name: file for file in request.files}
    assert announced["disk 1.vmdk"].sha256 == hashlib.sha256(DISK).hexdigest()
    assert control.received == {"disk 1.vmdk": DISK[5:]}, "what the host has already is not sent again"
    header = asked(control, pb.UploadImportFileRequest.Header)
    assert (header.name, header.offset) == ("disk 1.vmdk", 5)


def test_a_file_that_the_manifest_contradicts_cancels_the_import(
    control: Control, ostler: Ostler, package: Path
) -> None:
    control.forever = True
    (package / "disk 1.vmdk").write_bytes(b"\0" + DISK[1:])
    refused = ostler("import", "ova", str(package / "web.ovf"), *OPTIONS)
    assert refused.exit_code == Exit.CONFLICT
    assert "not what the manifest says" in refused.output
    assert control.cancelled


def test_an_upload_that_breaks_goes_on_and_says_how_when_it_cannot(
    control: Control, ostler: Ostler, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_import_files, "_POLL_S", 0.01)
    control.breaks = 2
    done = ostler("import", "ova", str(package / "web.ova"), *OPTIONS)
    assert done.exit_code == 0, done.output
    assert control.received == {"disk 1.vmdk": DISK[5:]}
    control.breaks = 100
    failed = ostler("import", "ova", str(package / "web.ova"), *OPTIONS)
    assert failed.exit_code != 0
    assert f"--request-id {asked(control, pb.ImportFilesRequest).request_id}" in failed.output
    assert not control.cancelled


def test_a_descriptor_that_the_manifest_contradicts_is_not_sent(
    control: Control, ostler: Ostler, package: Path
) -> None:
    (package / "web.ovf").write_bytes(b"<Envelope />")
    assert "not what the manifest says" in ostler("import", "ova", str(package / "web.ovf"), *OPTIONS).output
    assert not control.asked


def test_a_dry_run_sends_no_file(control: Control, ostler: Ostler, package: Path) -> None:
    assert ostler("import", "ova", str(package / "web.ova"), *OPTIONS, "--dry-run").exit_code == 0
    assert asked(control, pb.ImportFilesRequest).validate_only
    assert control.received == {}


def test_what_is_no_package_is_told(ostler: Ostler, package: Path, control: Control) -> None:
    assert "not one" in ostler("import", "ova", str(package.parent), *OPTIONS).output
    assert "no tar archive" in ostler("import", "ova", str(package / "disk 1.vmdk"), *OPTIONS).output
    assert "there is no file" in ostler("import", "ova", str(package / "x.ova"), *OPTIONS).output
    assert not control.asked


def test_a_url_is_left_to_a_host(control: Control, ostler: Ostler, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("PEM")
    done = ostler("import", "ova", "https://example.org/web.ova", *OPTIONS, "--ca-file", str(ca))
    assert done.exit_code == 0, done.output
    request = asked(control, pb.ImportFilesRequest)
    assert (request.url, request.ca_pem, list(request.files)) == ("https://example.org/web.ova", "PEM", [])
    assert ostler("import", "ova", str(tmp_path), *OPTIONS, "--ca-file", str(ca)).exit_code == 2


def test_images_are_announced_with_the_sizes_of_their_disks(control: Control, ostler: Ostler, tmp_path: Path) -> None:
    paths = []
    for name, size in (("root.qcow2", "20M"), ("data.vhdx", "8M")):
        paths.append(tmp_path / name)
        format = name.rpartition(".")[2]
        subprocess.run(["qemu-img", "create", "-q", "-f", format, paths[-1], size], check=True)
    words = ("--offering", "medium", "--disk-offering", "plain", "--network", "br0", "--firmware", "uefi", "--windows")
    done = ostler("import", "image", *map(str, paths), *words, "--no-conversion")
    assert done.exit_code == 0, done.output
    request = asked(control, pb.ImportFilesRequest)
    assert [(file.name, file.capacity_bytes >> 20) for file in request.files] == [("root.qcow2", 20), ("data.vhdx", 8)]
    machine = request.images
    assert (machine.name, machine.firmware, machine.guest_id, list(machine.networks)) == (
        "root",
        "uefi",
        "windows",
        ["br0"],
    )
    assert request.no_conversion


def test_an_image_in_a_pool_becomes_a_volume(control: Control, ostler: Ostler, tmp_path: Path) -> None:
    words = ("import", "volume", "nfs1", "old.img", "data-1", "--format", "raw", "--offering", "secret")
    done = ostler(*words, "--passphrase-file", "-", input="open sesame\n")
    assert done.exit_code == 0, done.output
    request = asked(control, pb.ImportVolumeRequest)
    assert (request.pool, request.file_name, request.name, request.format) == ("nfs1", "old.img", "data-1", "raw")
    assert (request.disk_offering, request.passphrase) == ("secret", b"open sesame")
    assert "sesame" not in done.output


def test_a_vm_of_libvirts_is_adopted_and_handed_back(control: Control, ostler: Ostler) -> None:
    done = ostler("vm", "adopt", "h1", "web", "--name", "web-1", "--offering", "small", "--accept-losses")
    assert done.exit_code == 0, done.output
    request = asked(control, vm_pb2.AdoptVmRequest)
    assert (request.host, request.vm, request.name, request.service_offering) == ("h1", "web", "web-1", "small")
    assert request.accept_losses
    assert ostler("vm", "unmanage", "web-1", input="n\n").exit_code != 0
    assert not [call for call in control.asked if isinstance(call, vm_pb2.UnmanageVmRequest)]
    assert ostler("vm", "unmanage", "web-1", "--yes").exit_code == 0
    assert asked(control, vm_pb2.UnmanageVmRequest).vm == "web-1"
