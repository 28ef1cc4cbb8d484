"""Emulated TPMs with a real guest, which stores a value in its TPM and finds it again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from google.longrunning import operations_pb2 as lro
from ostler.control.v1 import backup_pb2, vm_pb2, vm_snapshot_pb2

from tests.lab import tpm_commands
from tests.lab.console import Console
from tests.lab.fleet import Fleet, fresh
from tests.lab.host import Host, wait_for

pytestmark = pytest.mark.lab

VALUE = b"sea-salt"


def send(console: Console, command: bytes) -> bytes:
    """What the guest's TPM answers."""
    return bytes.fromhex(console.run(tpm_commands.shell(command), r"TPM=([0-9a-f]+)\s")[1])


def stored(console: Console) -> bytes:
    """The value that the guest's TPM has stored; b"" for none."""
    answer = send(console, tpm_commands.read())
    return answer[16:24] if answer[6:10] == bytes(4) else b""


def define(console: Console) -> None:
    """Makes room for a value."""
    assert send(console, tpm_commands.define())[6:10] == bytes(4)


def store_value(console: Console, value: bytes) -> None:
    assert send(console, tpm_commands.write(value))[6:10] == bytes(4)


@contextmanager
def booted(fleet: Fleet, vm: str) -> Iterator[Console]:
    """The console of a VM that was just started, once its guest is up."""
    with fleet.console(vm) as console:
        console.wait("GUEST-UP", 120)
        yield console


def has_stored(fleet: Fleet, vm: str) -> bytes:
    """The value that the TPM of a VM that was just started has stored."""
    with booted(fleet, vm) as console:
        return stored(console)


def copies_of_ended(fleet: Fleet, vm_id: str) -> list[str]:
    """How the copies that were taken because the VM had stopped by itself ended."""
    listed = fleet.api.operations.ListOperations(lro.ListOperationsRequest(filter=f"resource={vm_id}")).operations
    found = [fleet.metadata(operation) for operation in listed]
    return [row.State.Name(row.state) for row in found if row.verb == "vm.keep-firmware-state"]


def state(host: Host, vm_id: str) -> list[Path]:
    """The files of a TPM on a host."""
    return [file for file in host.outside(f"/var/lib/libvirt/swtpm/{vm_id}").rglob("*") if file.is_file()]


def test_a_guest_keeps_what_it_stores_in_its_tpm(fleet: Fleet) -> None:
    vm = fleet.create_vm("sealed", tpm=True)
    assert vm.tpm
    with booted(fleet, "sealed") as console:
        define(console)
        store_value(console, VALUE)
        assert stored(console) == VALUE
        source = fleet.lab.host(fleet.vm("sealed").host_name)
        assert state(source, vm.id)
        assert not any(VALUE in file.read_bytes() for file in state(source, vm.id)), "it is encrypted"
        fleet.do(fleet.migrate("sealed", fleet.other_host("sealed").name))
        assert stored(console) == VALUE, "it has moved with the guest"
    there = fleet.lab.host(fleet.vm("sealed").host_name)
    assert there is not source
    assert not state(source, vm.id), "nothing of it stays where it was"
    assert vm.id not in source.virsh("secret-list")
    fleet.assert_runs_once("sealed")
    fleet.do(fleet.stop("sealed", force=True))
    assert vm.id not in there.virsh("secret-list")
    fleet.do(fleet.start("sealed", there.name))
    assert has_stored(fleet, "sealed") == VALUE, "it is there after a stop and a start"
    fleet.do(fleet.stop("sealed", force=True))
    fleet.do(fleet.start("sealed", source.name))
    with booted(fleet, "sealed") as console:
        assert stored(console) == VALUE, "it has followed the stopped VM to another host"
        assert not state(there, vm.id)
        snapshot = vm_snapshot_pb2.CreateVmSnapshotRequest(request_id=fresh(), vm="sealed", name="then")
        fleet.do(fleet.api.vm_snapshots.CreateVmSnapshot(snapshot))
        store_value(console, b"changed!")
        assert stored(console) == b"changed!"
    fleet.do(fleet.stop("sealed", force=True))
    revert = vm_snapshot_pb2.RevertVmRequest(request_id=fresh(), vm_snapshot="then")
    fleet.do(fleet.api.vm_snapshots.RevertVm(revert))
    fleet.do(fleet.start("sealed", source.name))
    assert has_stored(fleet, "sealed") == VALUE, "it is that of the snapshot"
    lively = vm_snapshot_pb2.CreateVmSnapshotRequest(request_id=fresh(), vm="sealed", name="lively", memory=True)
    with fleet.console("sealed") as console:
        counted = console.tick()
        fleet.do(fleet.api.vm_snapshots.CreateVmSnapshot(lively))
        store_value(console, b"changed!")
    fleet.do(fleet.stop("sealed", force=True))
    revert = vm_snapshot_pb2.RevertVmRequest(request_id=fresh(), vm_snapshot="lively")
    fleet.do(fleet.api.vm_snapshots.RevertVm(revert))
    with fleet.console("sealed") as console:
        assert console.tick() >= counted, "the guest has booted"
        assert stored(console) == VALUE, "it is that of the memory"
    twin = vm_pb2.CloneVmRequest(request_id=fresh(), vm="sealed", name="twin", copy_firmware_state=True)
    fleet.do(fleet.api.vms.CloneVm(twin))
    fleet.do(fleet.start("twin"))
    assert has_stored(fleet, "twin") == VALUE, "a clone with a copy of the TPM opens it"
    fleet.delete_vm("twin")
    for name in ("then", "lively"):
        delete = vm_snapshot_pb2.DeleteVmSnapshotRequest(request_id=fresh(), vm_snapshot=name)
        fleet.do(fleet.api.vm_snapshots.DeleteVmSnapshot(delete))
    fleet.delete_vm("sealed")
    assert not state(source, vm.id)


def test_a_backup_brings_the_tpm_back_when_the_vm_is_gone(fleet: Fleet, store: Path) -> None:
    vm = fleet.create_vm("lost", tpm=True)
    with booted(fleet, "lost") as console:
        define(console)
        store_value(console, VALUE)
        request = backup_pb2.CreateBackupRequest(request_id=fresh(), vm="lost", name="with-tpm")
        fleet.do(fleet.api.backups.CreateBackup(request))
        store_value(console, b"changed!")
    made = fleet.api.backups.GetBackup(backup_pb2.GetBackupRequest(backup="with-tpm"))
    assert (made.HasField("firmware_state_time"), made.firmware_state_problem) == (True, "")
    assert not any(VALUE in path.read_bytes() for path in store.iterdir() if path.is_file())
    fleet.do(fleet.stop("lost", force=True))
    over = backup_pb2.RestoreVmOverRequest(request_id=fresh(), backup="with-tpm")
    fleet.do(fleet.api.backups.RestoreVmOver(over))
    fleet.do(fleet.start("lost"))
    assert has_stored(fleet, "lost") == VALUE, "the old VM has it back"
    fleet.delete_vm("lost")
    assert not any(state(host, vm.id) for host in fleet.lab.hosts)
    boot = backup_pb2.VerifyBackupRequest(request_id=fresh(), backup="with-tpm", boot=True, console_text="GUEST-UP")
    fleet.do(fleet.api.backups.VerifyBackup(boot), 240)
    restore = backup_pb2.RestoreVmRequest(request_id=fresh(), backup="with-tpm", name="found", without_nics=True)
    fleet.do(fleet.api.backups.RestoreVm(restore))
    fleet.do(fleet.start("found"))
    assert has_stored(fleet, "found") == VALUE, "a new VM opens what the lost one sealed"
    fleet.delete_vm("found")
    delete = backup_pb2.DeleteBackupRequest(request_id=fresh(), backup="with-tpm")
    fleet.do(fleet.api.backups.DeleteBackup(delete))


def test_a_tpm_is_added_to_a_vm_and_destroyed(fleet: Fleet) -> None:
    vm = fleet.create_vm("plain")
    fleet.do(fleet.stop("plain", force=True))
    fleet.do(change(fleet, tpm=True))
    fleet.do(fleet.start("plain"))
    with booted(fleet, "plain") as console:
        define(console)
        store_value(console, VALUE)
        host = fleet.lab.host(fleet.vm("plain").host_name)
        console.run("poweroff", "going down")
    wait_for(lambda: copies_of_ended(fleet, vm.id) == ["SUCCEEDED"], "a copy of the TPM of a guest that shut down", 60)
    for file in state(host, vm.id):
        file.unlink()
    fleet.do(fleet.start("plain"))
    assert has_stored(fleet, "plain") == VALUE, "what it stored last, although its host has lost it"
    fleet.do(fleet.stop("plain", force=True))
    fleet.do(change(fleet, tpm=False))
    assert not any(state(host, vm.id) for host in fleet.lab.hosts)
    fleet.do(change(fleet, tpm=True))
    fleet.do(fleet.start("plain"))
    assert has_stored(fleet, "plain") == b"", "it is new"
    fleet.delete_vm("plain")


def change(fleet: Fleet, tpm: bool) -> lro.Operation:
    return fleet.api.vms.SetFirmware(vm_pb2.SetFirmwareRequest(request_id=fresh(), vm="plain", tpm=tpm))
