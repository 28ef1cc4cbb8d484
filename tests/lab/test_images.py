"""Disks that come as files and leave as files, compared bit for bit; opened by qemu-img, without Ostler."""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ostler.control.v1 import event_pb2, snapshot_pb2, template_pb2, volume_pb2
from ostler.types.v1 import volume_pb2 as volume_types

from tests.lab.fleet import MIB, PLAIN, SECRET, SHARED_POOL, Fleet, refused
from tests.lab.host import LOCAL, SHARED, wait_for

pytestmark = pytest.mark.lab
MINE = base64.b64encode(b"a passphrase that only I know")
CONTENT = os.urandom(3 * MIB) + bytes(4 * MIB) + os.urandom(MIB)
# What was in the hosts' caches before: they keep a deleted template until its space is needed.
_earlier: set[Path] = set()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, fleet: Fleet) -> Iterator[Path]:
    """The caller's own files: the passphrase, and a disk image that has become volume "brought"."""
    directory = tmp_path_factory.mktemp("desk")
    (directory / "passphrase").write_bytes(MINE + b"\n")
    (directory / "wrong").write_text("not this one\n")
    (directory / "disk.img").write_bytes(CONTENT)
    _earlier.update(path for cache in caches(fleet) for path in cache.iterdir())
    fleet.watch.passphrases["mine"] = MINE  # the search at the end finds it where it should not be
    ostler(fleet, "volume", "upload", directory / "disk.img", "brought", "--offering", "secret-data")
    with fleet.setting("luks.chosen.iter.time", "50"):
        yield directory
    fleet.do(fleet.delete_volume("brought"))


def ostler(fleet: Fleet, *words: str | Path, check: bool = True) -> str:
    fleet.watch.remember()
    pool = ["--pool", SHARED_POOL] if words[1] == "upload" and words[0] == "volume" else []
    return fleet.lab.control.ostler(*map(str, words), *pool, check=check)


def opened(file: Path, layout: str = "qcow2") -> bytes:
    """What qemu-img reads in a file that my passphrase opens."""
    raw = file.with_name("opened.raw")
    descriptor = os.memfd_create("key")
    os.write(descriptor, MINE)
    driver = {
        "qcow2": "driver=qcow2,encrypt.key-secret=s",
        "raw": "driver=luks,key-secret=s",
    }[layout]
    secret = f"secret,id=s,file=/proc/self/fd/{descriptor}"
    image = f"{driver},file.driver=file,file.filename={file}"
    command = ["qemu-img", "convert", "--object", secret, "--image-opts", image, "-O", "raw", str(raw)]
    os.lseek(descriptor, 0, os.SEEK_SET)
    subprocess.run(command, check=True, pass_fds=[descriptor])
    os.close(descriptor)
    content = raw.read_bytes()
    raw.unlink()
    return content


def caches(fleet: Fleet) -> list[Path]:
    """The directories of the hosts' caches of templates."""
    found = [host.outside("/var/lib/ostler/agent/templates") for host in fleet.lab.hosts]
    return [path for path in found if path.is_dir()]


def leftovers(fleet: Fleet) -> list[str]:
    """What is in the pools, in the control plane's directory and in the hosts' caches and belongs to nothing."""
    api = fleet.api
    known = {fleet.file_of(volume).name for volume in api.volumes.ListVolumes(volume_pb2.ListVolumesRequest()).volumes}
    known |= {snapshot.id for snapshot in api.snapshots.ListSnapshots(snapshot_pb2.ListSnapshotsRequest()).snapshots}
    templates = api.templates.ListTemplates(template_pb2.ListTemplatesRequest()).templates
    known |= {template.id for template in templates} | {template.sha256 for template in templates}
    places = [fleet.lab.hosts[0].outside(SHARED), fleet.lab.control.state_dir / "templates"]
    places += [host.outside(LOCAL) for host in fleet.lab.hosts]
    places += caches(fleet)
    found = {path for place in places if place.is_dir() for path in place.iterdir() if path.is_file()} - _earlier
    return [str(path) for path in sorted(found) if path.name not in known and not path.name.startswith(".")]


def wait_until_clean(fleet: Fleet) -> None:
    wait_for(lambda: not leftovers(fleet), f"nothing left behind, not {leftovers(fleet)}", 30, 0.5)


def test_a_plain_file_becomes_an_encrypted_volume(fleet: Fleet, desk: Path) -> None:
    volume = fleet.volume("brought", read_file=True)
    assert volume.file.encrypt_format == volume_types.ENCRYPT_FORMAT_LUKS
    assert volume.size_bytes == len(CONTENT)
    assert CONTENT[:4096] not in fleet.file("brought").read_bytes()
    wait_until_clean(fleet)


@pytest.mark.parametrize("layout", ["qcow2", "raw"])
def test_what_leaves_opens_with_my_passphrase_and_is_the_same(fleet: Fleet, desk: Path, layout: str) -> None:
    file = desk / f"brought.{layout}"
    ostler(fleet, "volume", "download", "brought", file, "--format", layout, "--passphrase-file", desk / "passphrase")
    assert CONTENT[:4096] not in file.read_bytes()
    assert opened(file, layout) == CONTENT
    wait_until_clean(fleet)


def test_what_is_decrypted_is_recorded(fleet: Fleet, desk: Path) -> None:
    before = len(decrypted(fleet))
    refusal = ostler(fleet, "volume", "download", "brought", desk / "clear.img", "--format", "raw", check=False)
    assert (refusal, len(decrypted(fleet))) == ("", before)
    ostler(fleet, "volume", "download", "brought", desk / "clear.img", "--format", "raw", "--decrypt")
    assert (desk / "clear.img").read_bytes() == CONTENT
    event = decrypted(fleet)[0]
    assert len(decrypted(fleet)) == before + 1
    assert (event.actor, event.resource_name) == ("admin", "brought")
    wait_until_clean(fleet)


def decrypted(fleet: Fleet) -> list[event_pb2.Event]:
    return list(fleet.api.events.ListEvents(event_pb2.ListEventsRequest(type="volume.decrypted")).events)


def test_my_encrypted_file_comes_back_and_a_wrong_passphrase_leaves_nothing(fleet: Fleet, desk: Path) -> None:
    file = desk / "brought.qcow2"
    upload = ("volume", "upload", file, "returned", "--offering", "secret-data", "--passphrase-file")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        ostler(fleet, *upload, desk / "wrong")
    assert "WRONG_KEY" in "".join(caught.value.__notes__)
    assert "returned" not in [
        volume.name for volume in fleet.api.volumes.ListVolumes(volume_pb2.ListVolumesRequest()).volumes
    ]
    wait_until_clean(fleet)
    ostler(fleet, *upload, desk / "passphrase")
    with pytest.raises(subprocess.CalledProcessError):
        opened(fleet.file("returned"))  # not with my passphrase any more
    again = desk / "again.qcow2"
    ostler(fleet, "volume", "download", "returned", again, "--passphrase-file", desk / "passphrase")
    assert opened(again) == CONTENT
    fleet.do(fleet.delete_volume("returned"))
    wait_until_clean(fleet)


def test_the_disk_of_a_running_guest_leaves_as_of_one_moment(fleet: Fleet, guest: str, desk: Path) -> None:
    fleet.do(fleet.attach("brought", guest))
    with fleet.console(guest) as console:
        console.run("mark written-by-the-guest /dev/vdb; sync", "MARKED")
        file = desk / "online.qcow2"
        ostler(fleet, "volume", "download", "brought", file, "--passphrase-file", desk / "passphrase")
        console.wait("tick")
    fleet.do(fleet.detach("brought"))
    wrote = b"written-by-the-guest\n"
    content = opened(file)
    assert content.startswith(wrote)
    assert content[len(wrote) :] == CONTENT[len(wrote) :]
    wait_until_clean(fleet)


def test_an_encrypted_disk_becomes_an_encrypted_template_that_boots(fleet: Fleet, desk: Path) -> None:
    fleet.create_vm("mold", stopped=True)
    root = fleet.root_volume("mold")
    create = ("template", "create", "golden", "--volume", root)
    ostler(fleet, *create, "--passphrase-file", desk / "passphrase")
    fleet.delete_vm("mold")
    template = fleet.api.templates.GetTemplate(template_pb2.GetTemplateRequest(template="golden"))
    assert template.encrypted
    file = fleet.lab.control.state_dir / "templates" / template.id
    assert opened(file)[510:512] == b"\x55\xaa", "a boot sector, for whoever has the passphrase"
    assert file.read_bytes()[:4] == b"QFI\xfb"
    fleet.create_vm("cast", SECRET, template="golden")
    with fleet.console("cast") as console:
        console.wait("tick 1", 90)
    fleet.delete_vm("cast")
    plain = refused(fleet.create_vm, "never", PLAIN, "golden")
    assert plain.reason == "TEMPLATE_ENCRYPTED"
    fleet.api.templates.DeleteTemplate(template_pb2.DeleteTemplateRequest(template="golden"))
    assert not file.exists()
