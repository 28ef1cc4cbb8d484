"""What dies in the middle of work, and what is true afterwards."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from google.longrunning import operations_pb2 as lro
from ostler.control.v1 import host_pb2, operation_pb2, vm_pb2, volume_pb2
from ostler.types.v1 import vm_pb2 as vm_types

from tests.lab.fleet import PLAIN, SECRET, Fleet, fresh, refused
from tests.lab.host import SHARED, Host, wait_for
from tests.quick_keys import MEASURE

pytestmark = pytest.mark.lab
SUCCEEDED = operation_pb2.OperationMetadata.SUCCEEDED
SLOW_MIB_PER_S = "4"


def host_at_work(fleet: Fleet) -> Host:
    """The host that runs a qemu-img now."""

    def find() -> list[Host]:
        return [host for host in fleet.lab.hosts if "qemu-img create" in host.run("ps", "ax")]

    wait_for(find, "a qemu-img at work", 30, 0.1)
    return find()[0]


@contextmanager
def slow_creations(fleet: Fleet) -> Iterator[None]:
    """A volume takes a while to be made, so that something can happen meanwhile."""
    marks = [host.outside(str(MEASURE)) for host in fleet.lab.hosts]
    for mark in marks:
        mark.touch()
    yield
    for mark in marks:
        mark.unlink(missing_ok=True)


def half_made(fleet: Fleet) -> list[str]:
    return [path.name for path in fleet.lab.hosts[0].outside(SHARED).glob(".*.part")]


@contextmanager
def slow_migration(fleet: Fleet, guest: str, target: Host) -> Iterator[lro.Operation]:
    """A migration that is under way, and takes long enough for what happens within."""
    with fleet.setting("migration.bandwidth", SLOW_MIB_PER_S):
        operation = fleet.migrate(guest, target.name)
        source = fleet.lab.host(fleet.vm(guest).host_name)
        vm_id = fleet.vm(guest).id
        wait_for(lambda: "Memory processed" in source.virsh("domjobinfo", vm_id), "memory on its way", 30, 0.2)
        yield operation


def test_an_agent_killed_while_it_makes_a_volume_tells_what_became_of_it(fleet: Fleet) -> None:
    with slow_creations(fleet):
        operation = fleet.create_volume("torn", "secret-thick", 1024)
        fleet.watch.remember()
        host = host_at_work(fleet)
    host.stop_agent("KILL")
    host.start_agent()
    fleet.wait_up(host)
    operation = fleet.wait(operation)
    volume = fleet.volume("torn")
    if operation.HasField("error"):
        assert volume.state == volume_pb2.Volume.FAILED
        assert not fleet.file("torn").exists()
    else:
        assert volume.state == volume_pb2.Volume.READY
        assert fleet.volume("torn", read_file=True).file.virtual_size_bytes == 1 << 30
    wait_for(lambda: not half_made(fleet), "the end of half-made files")
    fleet.do(fleet.delete_volume("torn"))
    assert not fleet.file_of(volume).exists()


def test_work_goes_on_after_the_control_plane_was_killed_in_its_midst(fleet: Fleet) -> None:
    with slow_creations(fleet):
        operation = fleet.create_volume("resumed", "secret-thick", 1024)
        fleet.watch.remember()
        host_at_work(fleet)
    fleet.lab.control.stop(signal.SIGKILL)
    fleet.start_control()
    fleet.do(operation)
    assert fleet.volume("resumed", read_file=True).file.virtual_size_bytes == 1 << 30
    assert not half_made(fleet)
    fleet.do(fleet.delete_volume("resumed"))


def test_a_cancelled_migration_leaves_the_vm_where_it_was(fleet: Fleet, guest: str) -> None:
    source, target = fleet.assert_runs_once(guest), fleet.other_host(guest)
    with slow_migration(fleet, guest, target) as operation, fleet.console(guest) as console:
        fleet.api.operations.CancelOperation(lro.CancelOperationRequest(name=operation.name))
        assert fleet.error(operation).code == "CANCELLED"
        assert fleet.assert_runs_once(guest) == source
        assert console.tick() < console.tick()
    vm = fleet.vm(guest)
    assert vm.state == vm_pb2.Vm.RUNNING
    wait_for(lambda: not fleet.has_key(target, guest), "the key's end on the destination")


@pytest.mark.parametrize("side", ["source", "destination"])
def test_an_agent_killed_in_mid_migration_leaves_one_vm_and_the_truth(fleet: Fleet, guest: str, side: str) -> None:
    source, target = fleet.lab.host(fleet.assert_runs_once(guest)), fleet.other_host(guest)
    with slow_migration(fleet, guest, target) as operation:
        killed = source if side == "source" else target
        killed.stop_agent("KILL")
        killed.start_agent()
        fleet.wait_up(killed)
    operation = fleet.wait(operation, 180)
    there = fleet.assert_runs_once(guest)
    assert there == (source.name if operation.HasField("error") else target.name)
    with fleet.console(guest) as console:
        assert console.tick() < console.tick()


def test_a_migration_goes_on_when_the_control_plane_was_killed(fleet: Fleet, guest: str) -> None:
    target = fleet.other_host(guest)
    with slow_migration(fleet, guest, target) as operation:
        fleet.lab.control.stop(signal.SIGKILL)
        fleet.start_control()
    fleet.do(operation, 180)
    assert fleet.assert_runs_once(guest) == target.name


def test_a_host_that_is_silent_is_disconnected_and_its_vms_start_nowhere_else(fleet: Fleet) -> None:
    vm = fleet.create_vm("marooned", SECRET, template="blank", host="h3")
    left = fleet.create_vm("left-behind", template="blank", host="h3")
    host = fleet.lab.host("h3")
    # Right before the host is cut off: it has answered that the VM is off, and may not have reported it.
    fleet.do(fleet.stop("left-behind", force=True))
    host.cut()
    try:
        fleet.wait_state(host, host_pb2.Host.DISCONNECTED, 90)
        # Asking for it in so many words does not help: nobody knows that it does not run.
        for elsewhere in ("", "h1"):
            request = vm_pb2.StartVmRequest(request_id=fresh(), vm="marooned", host=elsewhere)
            assert refused(fleet.api.vms.StartVm, request).code in ("FAILED_PRECONDITION", "UNAVAILABLE")
        assert fleet.processes(vm.id) == 1
        assert fleet.vm("marooned").host_name == "h3"
        # One that was stopped there is known not to run.
        fleet.do(fleet.start("left-behind", "h1"))
        assert left.id in host.virsh("list", "--all", "--uuid")
    finally:
        host.mend()
    fleet.wait_up(host, timeout_s=90)
    assert fleet.assert_runs_once("marooned") == "h3"
    assert fleet.vm("marooned").state == vm_pb2.Vm.RUNNING
    wait_for(lambda: left.id not in host.virsh("list", "--all", "--uuid"), "its definition to be deleted there", 60, 1)
    assert fleet.assert_runs_once("left-behind") == "h1"
    fleet.delete_vm("left-behind")
    fleet.delete_vm("marooned")


def test_what_is_done_behind_ostlers_back_is_noticed_and_not_undone(fleet: Fleet) -> None:
    vm = fleet.create_vm("handled", PLAIN, template="blank", host="h2")
    host = fleet.lab.host("h2")
    host.virsh("destroy", vm.id)
    wait_for(lambda: fleet.vm("handled").attention or fleet.vm("handled").state == vm_pb2.Vm.STOPPED, "its end noticed")
    assert fleet.vm("handled").power_state in (vm_types.POWER_STATE_STOPPED, vm_types.POWER_STATE_ABSENT)
    assert fleet.processes(vm.id) == 0
    host.virsh("start", vm.id)
    wait_for(lambda: fleet.vm("handled").power_state == vm_types.POWER_STATE_RUNNING, "its start noticed")
    stranger = "<domain type='qemu'><name>stranger</name><memory>8192</memory><os><type>hvm</type></os></domain>"
    host.outside("/run/stranger.xml").write_text(stranger)
    host.virsh("create", "/run/stranger.xml")
    wait_for(lambda: [found.name for found in fleet.host(host).unmanaged_vms] == ["stranger"], "the stranger noticed")
    host.virsh("destroy", "stranger")
    wait_for(lambda: not fleet.host(host).unmanaged_vms, "the stranger's end noticed")
    fleet.delete_vm("handled")


def test_a_host_without_encryption_gets_no_encrypted_vm_even_when_it_is_named(fleet: Fleet) -> None:
    host = fleet.lab.host("h3")
    script = host.outside("/run/broken-qemu-img")
    script.write_text(
        '#!/bin/sh\ncase "$*" in *luks*) echo "no luks here" >&2; exit 1;; esac\nexec /run/qemu-img "$@"\n'
    )
    script.chmod(0o755)
    host.run("cp", "/usr/bin/qemu-img", "/run/qemu-img")
    host.run("mount", "--bind", "/run/broken-qemu-img", "/usr/bin/qemu-img")
    try:
        probed = fleet.api.hosts.ProbeHost(host_pb2.ProbeHostRequest(host="h3"))
        assert not probed.capabilities.volume_encryption
        assert any("no luks here" in probe.reason for probe in probed.capabilities.probes if not probe.ok)
        request = vm_pb2.CreateVmRequest(
            request_id=fresh(), name="hopeless", template="blank", service_offering=SECRET, host="h3"
        )
        error = refused(fleet.api.vms.CreateVm, request)
        assert "encryption" in error.message
        assert "hopeless" not in [vm.name for vm in fleet.vms()]
        fleet.create_vm("free", SECRET, template="blank")
        assert fleet.vm("free").host_name != "h3"
        candidates = fleet.api.vms.FindHosts(vm_pb2.FindHostsRequest(vm="free")).candidates
        assert {c.host_name: c.refusal for c in candidates}["h3"] == "LACKS_VOLUME_ENCRYPTION"
        assert refused(fleet.migrate, "free", "h3").message
        fleet.create_vm("plain-enough", PLAIN, template="blank", host="h3")
        fleet.delete_vm("free")
        fleet.delete_vm("plain-enough")
    finally:
        host.run("umount", "/usr/bin/qemu-img")
    probed = fleet.api.hosts.ProbeHost(host_pb2.ProbeHostRequest(host="h3"))
    assert probed.capabilities.volume_encryption
