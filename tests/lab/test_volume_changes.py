"""Volumes get other keys, other files and other pools under a real guest, which counts on and finds its data."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from ostler.control.v1 import event_pb2, vm_pb2, volume_pb2
from ostler.types.v1.volume_pb2 import ENCRYPT_FORMAT_LUKS, ENCRYPT_FORMAT_NONE

from tests.lab.fleet import MIB, PLAIN, Fleet, fresh, refused
from tests.lab.host import wait_for

pytestmark = pytest.mark.lab
MARKER = "a-marker-from-before-the-change"


def rekey(fleet: Fleet, volume: str, deep: bool) -> None:
    fleet.do(fleet.api.volumes.RekeyVolume(volume_pb2.RekeyVolumeRequest(request_id=fresh(), volume=volume, deep=deep)))


def opens(path: Path, passphrase: bytes) -> bool:
    """Whether a passphrase opens an encrypted qcow2 file, also one that a VM uses."""
    key = os.memfd_create("key")
    try:
        os.write(key, passphrase)
        os.lseek(key, 0, os.SEEK_SET)
        options = f"driver=qcow2,encrypt.key-secret=s,file.driver=file,file.filename={path}"
        command = ["qemu-io", "-U", "-r", "--object", f"secret,id=s,file=/proc/self/fd/{key}", "--image-opts", options]
        done = subprocess.run([*command, "-c", "read 0 512"], pass_fds=[key], capture_output=True, check=False)
        return done.returncode == 0
    finally:
        os.close(key)


def keys_destroyed(fleet: Fleet, volume_id: str) -> int:
    request = event_pb2.ListEventsRequest(resource_id=volume_id, type="volume.key.destroy")
    return len(fleet.api.events.ListEvents(request).events)


def boot(fleet: Fleet, name: str) -> None:
    fleet.do(fleet.start(name))
    with fleet.console(name) as console:
        console.wait("tick 1", 90)


def test_a_deep_rekey_under_a_guest_that_counts_on(fleet: Fleet, guest: str) -> None:
    root = fleet.root_volume(guest)
    old = fleet.file(root)
    old_key = fleet.watch.key_of(old.name)
    destroyed = keys_destroyed(fleet, root)
    with fleet.console(guest) as console:
        console.run(f"mark {MARKER}", "MARKED")
        before = console.tick()
        rekey(fleet, root, deep=True)
        assert console.tick() > before
        console.run("cat /marker", MARKER)
    new = fleet.file(root)
    new_key = fleet.watch.key_of(new.name)
    assert (new != old, new.exists(), old.exists()) == (True, True, False)
    assert (opens(new, new_key), opens(new, old_key)) == (True, False)
    assert MARKER.encode() not in new.read_bytes()
    assert keys_destroyed(fleet, root) == destroyed + 1
    assert fleet.volume(root, read_file=True).file.encrypt_format == ENCRYPT_FORMAT_LUKS
    source = fleet.assert_runs_once(guest)
    fleet.do(fleet.migrate(guest, fleet.other_host(guest).name))  # the new file goes the way of the old one
    assert fleet.assert_runs_once(guest) != source


def test_a_shallow_rekey_of_a_stopped_one(fleet: Fleet, guest: str) -> None:
    root = fleet.root_volume(guest)
    path = fleet.file(root)
    old_key = fleet.watch.key_of(path.name)
    request = volume_pb2.RekeyVolumeRequest(request_id=fresh(), volume=root)
    assert refused(fleet.api.volumes.RekeyVolume, request).reason == "VOLUME_IN_USE"
    fleet.do(fleet.stop(guest, force=True))
    rekey(fleet, root, deep=False)
    assert fleet.file(root) == path
    new_key = fleet.watch.key_of(path.name)
    assert (opens(path, new_key), opens(path, old_key)) == (True, False)
    boot(fleet, guest)
    with fleet.console(guest) as console:
        console.run("cat /marker", MARKER)


def test_an_encrypted_disk_moves_between_pools_while_the_guest_uses_it(fleet: Fleet, guest: str) -> None:
    fleet.do(fleet.create_volume("mover", "secret-data", 64))
    fleet.do(fleet.attach("mover", guest))
    old, pool = fleet.file("mover"), f"local-{fleet.assert_runs_once(guest)}"
    request = volume_pb2.MigrateVolumeRequest(request_id=fresh(), volume="mover", pool=pool)
    with fleet.console(guest) as console:
        console.run(f"mark {MARKER} /dev/vdb", "MARKED")
        before = console.tick()
        fleet.do(fleet.api.volumes.MigrateVolume(request))
        assert console.tick() > before
        console.run("head -n 1 /dev/vdb", MARKER)
        fleet.do(fleet.grow("mover", 96))
        console.run("disks", rf"DISK=vdb BYTES={96 * MIB}")
    new = fleet.file("mover")
    assert (fleet.volume("mover").pool_name, new.exists(), old.exists()) == (pool, True, False)
    assert opens(new, fleet.watch.key_of(new.name))
    elsewhere = f"local-{fleet.other_host(guest).name}"
    back = volume_pb2.MigrateVolumeRequest(request_id=fresh(), volume="mover", pool=elsewhere)
    assert refused(fleet.api.volumes.MigrateVolume, back).reason == "LACKS_POOL"
    fleet.do(fleet.detach("mover"))
    assert refused(fleet.api.volumes.MigrateVolume, back).reason == "NO_COMMON_HOST"
    home = volume_pb2.MigrateVolumeRequest(request_id=fresh(), volume="mover", pool="shared", keep_key=True)
    key = fleet.watch.key_of(new.name)
    fleet.do(fleet.api.volumes.MigrateVolume(home))
    assert opens(fleet.file("mover"), key)
    fleet.do(fleet.attach("mover", guest))
    with fleet.console(guest) as console:
        console.run("head -n 1 /dev/vdb", MARKER)
    fleet.do(fleet.detach("mover"))
    fleet.do(fleet.delete_volume("mover"))
    assert not new.exists()


def test_a_plain_root_disk_is_encrypted_under_its_guest_and_then_reinstalled(fleet: Fleet) -> None:
    fleet.create_vm("open", PLAIN)
    root = fleet.root_volume("open")
    old = fleet.file(root)
    with fleet.console("open") as console:
        console.wait("tick 1", 90)
        console.run(f"mark {MARKER}", "MARKED")
        wait_for(lambda: MARKER.encode() in old.read_bytes(), "the marker in the plain file")
        before = console.tick()
        fleet.do(
            fleet.api.volumes.EncryptVolume(volume_pb2.EncryptVolumeRequest(request_id=fresh(), volume=root)),
        )
        assert console.tick() > before
        console.run("cat /marker", MARKER)
    volume = fleet.volume(root, read_file=True)
    assert volume.encrypt_format == volume.file.encrypt_format == ENCRYPT_FORMAT_LUKS != ENCRYPT_FORMAT_NONE
    encrypted = fleet.file(root)
    assert not old.exists()
    assert MARKER.encode() not in encrypted.read_bytes()
    assert fleet.has_key(fleet.lab.host(fleet.assert_runs_once("open")), "open")
    fleet.do(fleet.stop("open", force=True))
    fleet.do(fleet.api.vms.ReinstallVm(vm_pb2.ReinstallVmRequest(request_id=fresh(), vm="open")))
    new = fleet.file(root)
    assert (new.exists(), encrypted.exists(), new != encrypted) == (True, False, True)
    assert opens(new, fleet.watch.key_of(new.name))
    boot(fleet, "open")
    with fleet.console("open") as console:
        console.run("cat /marker || echo GO''NE", "GONE")
    fleet.delete_vm("open")
    assert not new.exists()
