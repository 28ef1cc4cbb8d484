"""A VM's life, end to end, with a real guest: what a user does and what the guest sees of it."""

from __future__ import annotations

import re
import subprocess
import tarfile
from pathlib import Path

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from ostler.control.v1 import key_pb2, label_pb2, offering_pb2, vm_pb2
from ostler.types.v1 import volume_pb2 as volume_types

from tests.lab.fleet import LAN, MIB, PLAIN, SECRET, SHARED_POOL, Fleet, fresh, refused
from tests.lab.host import wait_for
from tests.lab.machines import BRIDGE

pytestmark = pytest.mark.lab
MARKER = "a-marker-that-the-guest-wrote"


def test_the_disk_of_an_encrypted_vm_gives_nothing_away_and_that_of_a_plain_one_does(fleet: Fleet, guest: str) -> None:
    fleet.create_vm("plain", PLAIN)
    for name in (guest, "plain"):
        with fleet.console(name) as console:
            console.run(f"mark {MARKER}", "MARKED")
    secret = fleet.file(fleet.root_volume(guest)).read_bytes()
    assert MARKER.encode() not in secret
    assert b"LUKS\xba\xbe" in secret
    assert MARKER.encode() in fleet.file(fleet.root_volume("plain")).read_bytes()
    volume = fleet.volume(fleet.root_volume(guest), read_file=True)
    assert volume.encrypt_format == volume.file.encrypt_format == volume_types.ENCRYPT_FORMAT_LUKS
    fleet.delete_vm("plain")


def test_a_stop_asks_the_guest_and_what_it_wrote_is_there_after_a_start(fleet: Fleet, guest: str) -> None:
    with fleet.console(guest) as console:
        console.run("mark kept-through-the-stop", "MARKED")
        stopping = fleet.stop(guest, timeout_s=90)
        console.wait("POWER-BUTTON")
    fleet.do(stopping)
    vm = fleet.vm(guest)
    assert vm.state == vm_pb2.Vm.STOPPED
    assert fleet.processes(vm.id) == 0
    # Nobody had to watch, and it has stopped: its log tells.
    request = vm_pb2.ReadConsoleLogRequest(vm=guest)
    log = b"".join(output.data for output in fleet.api.vms.ReadConsoleLog(request))
    assert b"POWER-BUTTON" in log
    kept = fleet.lab.host(vm.host_name).run("find", "/run/ostler/consoles", "-name", f"{vm.id}*", "-perm", "/077")
    assert kept == "", "only root reads it"
    fleet.do(fleet.start(guest))
    with fleet.console(guest) as console:
        console.wait("tick 1", 90)
        console.run("cat /marker", "kept-through-the-stop")
    log = b"".join(output.data for output in fleet.api.vms.ReadConsoleLog(request))
    assert log.count(b"[VM starts at ") >= 1  # a log begins anew on the host of each start and each migration
    fleet.assert_runs_once(guest)


def test_a_data_disk_comes_grows_and_goes_while_the_guest_runs(fleet: Fleet, guest: str) -> None:
    fleet.do(fleet.create_volume("data", "secret-data", 64))
    fleet.do(fleet.attach("data", guest))
    with fleet.console(guest) as console:
        console.run("disks", rf"DISK=vdb BYTES={64 * MIB}")
        console.run(f"mark {MARKER} /dev/vdb", "MARKED")
        fleet.do(fleet.grow("data", 128))
        console.run("disks", rf"DISK=vdb BYTES={128 * MIB}")
        assert MARKER.encode() not in fleet.file("data").read_bytes()
        fleet.do(fleet.detach("data"))
        console.run("disks; echo DO''NE", "DONE")
        console.run("ls /dev/vdb || echo GO''NE", "GONE")
        fleet.do(fleet.grow("data", 160))
        fleet.do(fleet.attach("data", guest))
        console.run("head -n 1 /dev/vdb", MARKER)
        console.run("disks", rf"DISK=vdb BYTES={160 * MIB}")
    fleet.do(fleet.detach("data"))
    path = fleet.file("data")
    fleet.do(fleet.delete_volume("data"))
    assert not path.exists()


def test_a_volume_does_not_shrink(fleet: Fleet) -> None:
    fleet.do(fleet.create_volume("fixed", "secret-data", 64))
    assert refused(fleet.grow, "fixed", 32).code in ("INVALID_ARGUMENT", "FAILED_PRECONDITION")
    assert fleet.volume("fixed", read_file=True).file.virtual_size_bytes == 64 * MIB
    fleet.do(fleet.delete_volume("fixed"))


def test_a_guest_counts_on_through_a_live_migration(fleet: Fleet, guest: str) -> None:
    source, target = fleet.vm(guest).host_name, fleet.other_host(guest).name
    with fleet.console(guest) as console:
        before = console.tick()
        fleet.do(fleet.migrate(guest, target))
        after = [console.tick(), console.tick()]
    assert before < after[0] < after[1]
    assert fleet.assert_runs_once(guest) == target
    # The source forgets the key when the VM has gone.
    wait_for(lambda: not fleet.has_key(fleet.lab.host(source), guest), "the key's end on the source")
    assert fleet.has_key(fleet.lab.host(target), guest)


def test_a_running_vm_is_renamed_and_found_by_its_label(fleet: Fleet, guest: str) -> None:
    client, renamed = fleet.api, FieldMask(paths=["name"])
    client.labels.UpdateLabels(label_pb2.UpdateLabelsRequest(vm=guest, set={"env": "prod"}))
    client.vms.UpdateVm(vm_pb2.UpdateVmRequest(vm=guest, values=vm_pb2.Vm(name="shop"), update_mask=renamed))
    try:
        with fleet.console("shop") as console:
            console.tick()
        fleet.assert_runs_once("shop")
        [found] = client.vms.ListVms(vm_pb2.ListVmsRequest(selector="env in (prod,test)")).vms
        assert found.name == "shop"
        assert not client.vms.ListVms(vm_pb2.ListVmsRequest(selector="env=test")).vms
    finally:
        client.vms.UpdateVm(vm_pb2.UpdateVmRequest(vm="shop", values=vm_pb2.Vm(name=guest), update_mask=renamed))


def test_a_running_vm_grows_and_keeps_its_size_through_a_migration(fleet: Fleet, guest: str) -> None:
    for name, cpus, mib in (("grows", 1, 128), ("grown", 2, 256)):
        fleet.api.offerings.CreateServiceOffering(
            offering_pb2.CreateServiceOfferingRequest(
                request_id=fresh(),
                name=name,
                cpus=cpus,
                memory_bytes=mib * MIB,
                encrypt_root=True,
                max_cpus=2,
                max_memory_bytes=256 * MIB,
            )
        )
    assert refused(fleet.resize, guest, "grown").reason == "RESIZE_NEEDS_STOP"
    fleet.do(fleet.stop(guest, force=True))
    fleet.do(fleet.resize(guest, "grows"))
    fleet.do(fleet.start(guest))
    with fleet.console(guest) as console:
        console.wait("tick 1", 90)
        console.run("size", r"CPUS=1 MIB=\d\d\r")  # of 128: the kernel has the rest
        fleet.do(fleet.resize(guest, "grown"))
        console.run("size", r"CPUS=2 MIB=1[5-9]\d")
        fleet.do(fleet.migrate(guest, fleet.other_host(guest).name))
        console.tick()
        console.run("size", r"CPUS=2 MIB=1[5-9]\d")
    vm = fleet.vm(guest)
    assert (vm.cpus, vm.memory_bytes, vm.service_offering_name) == (2, 256 * MIB, "grown")
    assert refused(fleet.resize, guest, "grows").reason == "RESIZE_NEEDS_STOP"
    fleet.do(fleet.stop(guest, force=True))
    fleet.do(fleet.resize(guest, SECRET))


def test_a_guest_agent_is_asked_through_the_control_plane(fleet: Fleet, guest: str) -> None:
    """Also after a migration: its channel moves with the VM."""
    info = vm_pb2.ReadGuestInfoRequest(vm=guest)
    assert refused(fleet.api.vms.ReadGuestInfo, info).reason == "GUEST_AGENT_MISSING"
    with fleet.console(guest) as console:
        console.run("guest-agent", "AGENT-STARTED")
        wait_for(lambda: _answers(fleet, guest), "the guest agent", 60, 0.5)
        fleet.do(fleet.migrate(guest, fleet.other_host(guest).name))
        wait_for(lambda: _answers(fleet, guest), "the guest agent after a migration", 60, 0.5)
        fleet.api.vms.SyncGuestTime(vm_pb2.SyncGuestTimeRequest(vm=guest))
        console.run("kill $(cat /tmp/qemu-ga.pid)", "# ")


def _answers(fleet: Fleet, name: str) -> bool:
    try:
        return fleet.api.vms.ReadGuestInfo(vm_pb2.ReadGuestInfoRequest(vm=name)).os_name == "Lab guest 1.0"
    except grpc.RpcError:
        return False


def test_a_running_vm_loses_its_link_and_tells_its_address(fleet: Fleet, guest: str) -> None:
    """192.0.2.0/24 is for documentation (RFC 5737): guest and host speak in it over the bridge of the lab."""
    fleet.do(fleet.api.vms.AddNic(vm_pb2.AddNicRequest(request_id=fresh(), vm=guest, nic=vm_pb2.VmNic(network=LAN))))
    [mac] = [nic.mac for nic in fleet.vm(guest).nics]

    def set_link(up: bool) -> None:
        request = vm_pb2.SetNicLinkRequest(request_id=fresh(), vm=guest, mac=mac, up=up)
        fleet.do(fleet.api.vms.SetNicLink(request))

    def claimed() -> list[str]:
        request = vm_pb2.GetVmRequest(vm=guest, read_addresses=True)
        return [seen.address for seen in fleet.api.vms.GetVm(request).seen_addresses if seen.mac == mac]

    host = fleet.lab.host(fleet.vm(guest).host_name)
    host.run("ip", "address", "add", "192.0.2.1/24", "dev", BRIDGE)
    try:
        with fleet.console(guest) as console:
            console.run("ip link set eth0 up; ip addr add 192.0.2.7/24 dev eth0", "# ")
            console.run("cat /sys/class/net/eth0/carrier", r"\n1\r")
            console.run("ping -c 1 192.0.2.1", "1 packets received")
            wait_for(lambda: claimed() == ["192.0.2.7"], "the guest's address", 60, 0.5)
            set_link(False)
            console.run("cat /sys/class/net/eth0/carrier", r"\n0\r")
            assert fleet.vm(guest).nics[0].link_down
            set_link(True)
            console.run("ping -c 1 -W 9 192.0.2.1", "1 packets received")
    finally:
        host.run("ip", "address", "delete", "192.0.2.1/24", "dev", BRIDGE)
    fleet.do(fleet.api.vms.RemoveNic(vm_pb2.RemoveNicRequest(request_id=fresh(), vm=guest, mac=mac)))
    assert not claimed()


def test_a_disk_is_limited_while_the_guest_runs_and_gives_freed_space_back(fleet: Fleet, guest: str) -> None:
    for name, no_discard in (("bronze", False), ("vault", True)):
        limits = volume_types.IoLimits(iops=300, burst_iops=600, burst_s=9)
        fleet.api.offerings.CreateDiskOffering(
            offering_pb2.CreateDiskOfferingRequest(
                request_id=fresh(), name=name, encrypt=True, limits=limits, ignore_discard=no_discard
            )
        )
        fleet.do(fleet.create_volume(name, name, 64))
        fleet.do(fleet.attach(name, guest))

    def iops(device: str) -> str:
        tuned = fleet.lab.host(fleet.vm(guest).host_name).virsh("blkdeviotune", fleet.vm(guest).id, device)
        return str(re.findall(r"total_iops_sec *: (\d+)", tuned)[0])

    assert (iops("vda"), iops("vdb"), iops("vdc")) == ("0", "300", "300")
    for name, count in (("bronze", 200), (fleet.root_volume(guest), 100)):
        fleet.do(fleet.limit(name, volume_types.IoLimits(iops=count)))
    assert (iops("vda"), iops("vdb")) == ("100", "200")
    with fleet.console(guest) as console:
        for device in ("/dev/vdb", "/dev/vdc"):
            console.run(f"dd if=/dev/zero of={device} bs=1M count=32 conv=fsync; blkdiscard {device}; echo O''K", "OK")
    freed, kept = (fleet.file(name).stat().st_blocks * 512 for name in ("bronze", "vault"))
    assert freed < 16 * MIB < 32 * MIB <= kept
    fleet.do(fleet.migrate(guest, fleet.other_host(guest).name))
    assert (iops("vda"), iops("vdb"), iops("vdc")) == ("100", "200", "300")
    for name in ("bronze", "vault"):
        fleet.do(fleet.detach(name))
        fleet.do(fleet.delete_volume(name))
    fleet.do(fleet.limit(fleet.root_volume(guest), None))
    assert iops("vda") == "0"


def test_a_clone_of_a_running_vm_boots_with_a_key_of_its_own(fleet: Fleet, guest: str) -> None:
    with fleet.console(guest) as console:
        console.run("mark written-before-the-clone", "MARKED")
        request = vm_pb2.CloneVmRequest(request_id=fresh(), vm=guest, name="twin")
        fleet.do(fleet.api.vms.CloneVm(request))
        console.tick()
    assert fleet.vm("twin").state == vm_pb2.Vm.STOPPED
    fleet.do(fleet.start("twin"))
    with fleet.console("twin") as console:
        console.wait("tick 1", 90)
        console.run("cat /marker", "written-before-the-clone")
    first, second = (fleet.file(fleet.root_volume(name)).read_bytes() for name in (guest, "twin"))
    assert b"written-before-the-clone" not in second
    headers = [content[content.index(b"LUKS\xba\xbe") :][:592] for content in (first, second)]
    assert headers[0] != headers[1]
    fleet.assert_runs_once(guest)
    fleet.delete_vm("twin")


def test_a_vm_leaves_as_an_archive(fleet: Fleet, guest: str, tmp_path: Path) -> None:
    with fleet.console(guest) as console:
        console.run("mark written-before-the-export", "MARKED")
        fleet.lab.control.ostler("vm", "export", guest, str(tmp_path / "guest.ova"), "--decrypt")
        console.tick()
    with tarfile.open(tmp_path / "guest.ova") as tar:
        assert tar.getnames() == ["guest.ovf", "guest.mf", "guest-disk1.vmdk"]
        tar.extractall(tmp_path, filter="data")
    raw = tmp_path / "raw"
    subprocess.run(["qemu-img", "convert", "-f", "vmdk", "-O", "raw", tmp_path / "guest-disk1.vmdk", raw], check=True)
    assert b"written-before-the-export" in raw.read_bytes()


def test_an_encrypted_vm_moves_with_its_disk_between_hosts_that_share_nothing(fleet: Fleet) -> None:
    vm = fleet.create_vm("mover", SECRET, host="h1", pool="local-h1")
    with fleet.console("mover") as console:
        console.wait("tick 1", 90)
        console.run(f"mark {MARKER}", "MARKED")
        old = fleet.file(fleet.root_volume("mover"))
        before = console.tick()
        fleet.do(fleet.migrate("mover", "h2", with_storage=True, pool="local-h2"))
        assert console.tick() > before
        console.run("cat /marker", MARKER)
    assert fleet.assert_runs_once("mover") == "h2"
    new = fleet.file(fleet.root_volume("mover"))
    assert new.exists()
    assert new != old
    assert not old.exists()
    assert MARKER.encode() not in new.read_bytes()
    assert vm.id == fleet.vm("mover").id
    fleet.do(fleet.stop("mover", force=True))
    fleet.do(fleet.start("mover"))  # the new file opens with the key that is kept for it
    with fleet.console("mover") as console:
        console.wait("tick 1", 90)
    fleet.delete_vm("mover")
    assert not new.exists()


def test_a_vm_on_local_storage_does_not_move_without_it(fleet: Fleet) -> None:
    fleet.create_vm("stayer", SECRET, template="blank", host="h1", pool="local-h1")
    fleet.api.vms.SendKey(vm_pb2.SendKeyRequest(vm="stayer", keys="ctrl-alt-del"))
    request = vm_pb2.MigrateVmRequest(request_id=fresh(), vm="stayer", host="h2", validate_only=True)
    assert refused(fleet.api.vms.MigrateVm, request).code == "FAILED_PRECONDITION"
    fleet.delete_vm("stayer")


def test_the_key_is_rotated_while_a_guest_runs(fleet: Fleet, guest: str) -> None:
    keys = fleet.api.keys
    with fleet.console(guest) as console:
        before = console.tick()
        fleet.do(keys.RotateKey(key_pb2.RotateKeyRequest(request_id=fresh())))
        assert console.tick() > before
    new, old = keys.ListKeys(key_pb2.ListKeysRequest()).keys
    assert (new.state, old.state, old.passphrases) == (key_pb2.Key.CURRENT, key_pb2.Key.OLD, 0)
    assert new.passphrases > 0
    fleet.do(keys.DeleteKey(key_pb2.DeleteKeyRequest(request_id=fresh(), key=old.name)))
    found = keys.VerifyKeys(key_pb2.VerifyKeysRequest())
    assert found.opened == found.passphrases > 0
    fleet.do(fleet.stop(guest, force=True))
    fleet.do(fleet.start(guest))  # its disk opens with a passphrase that was re-sealed
    with fleet.console(guest) as console:
        console.wait("tick 1", 90)


def test_a_repeated_request_is_one_vm(fleet: Fleet) -> None:
    request = vm_pb2.CreateVmRequest(
        request_id=fresh(), name="once", template="blank", service_offering=SECRET, pool=SHARED_POOL, stopped=True
    )
    first, second = fleet.api.vms.CreateVm(request), fleet.api.vms.CreateVm(request)
    assert first.name == second.name
    fleet.do(first)
    assert [vm.name for vm in fleet.vms()].count("once") == 1
    fleet.delete_vm("once")
