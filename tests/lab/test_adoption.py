"""A running VM goes back to plain libvirt and comes under Ostler again, and so does one that virsh has defined."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from pathlib import Path

import pytest

from tests.lab.fleet import PLAIN, SHARED_POOL, Fleet
from tests.lab.guest import guest_image
from tests.lab.host import SHARED, wait_for

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

DOMAIN = """<domain type="qemu"><name>{name}</name><uuid>{id}</uuid><memory unit="MiB">128</memory><vcpu>1</vcpu>
<os><type arch="x86_64" machine="q35">hvm</type></os><features><acpi/></features>
<devices>
  <disk type="file" device="disk"><driver name="qemu" type="qcow2"/><source file="{path}"/>
    <target dev="vda" bus="virtio"/></disk>
  <interface type="bridge"><mac address="52:54:00:aa:00:01"/><source bridge="br0"/><model type="virtio"/></interface>
  <serial type="pty"/><console type="pty"/>
</devices></domain>"""


def process(vm_id: str) -> str:
    """The process ids of a VM's QEMU."""
    return subprocess.run(["pgrep", "-f", f"uuid {vm_id}"], capture_output=True, text=True, check=False).stdout


def test_a_running_vm_is_unmanaged_and_adopted_while_its_guest_counts_on(fleet: Fleet) -> None:
    ostler = fleet.lab.control.ostler
    fleet.create_vm("web", PLAIN, pool=SHARED_POOL)
    vm = fleet.vm("web")
    with fleet.console("web") as console:
        before = console.tick()
    qemu = process(vm.id)
    ostler("vm", "unmanage", "web", "--yes")
    assert "web" not in ostler("vm", "list")
    host = next(host for host in fleet.lab.hosts if host.name == vm.host_name)
    assert "running" in host.virsh("domstate", vm.id)
    assert "<ostler:vm" not in host.virsh("dumpxml", vm.id)
    wait_for(lambda: vm.id in ostler("host", "show", host.name, "-o", "json"), "the VM among unmanaged ones", 30, 0.5)
    ostler("vm", "adopt", host.name, vm.id, "--name", "web-again", "--offering", PLAIN)
    back = fleet.vm("web-again")
    assert (back.id, [v.slot for v in back.volumes]) == (vm.id, [0])
    assert [nic.mac for nic in back.nics] == [nic.mac for nic in vm.nics]
    with fleet.console("web-again") as console:
        assert console.tick() > before
    assert process(vm.id) == qemu, "it was never restarted"
    fleet.delete_vm("web-again")


def test_a_vm_that_virsh_has_started_is_adopted_migrated_and_started_anew(fleet: Fleet, tmp_path: Path) -> None:
    ostler = fleet.lab.control.ostler
    host, vm_id = fleet.lab.hosts[0], str(uuid.uuid4())
    shared = host.outside(SHARED)
    shutil.copy(guest_image(), shared / "foreign.qcow2")
    definition = tmp_path / "foreign.xml"
    definition.write_text(DOMAIN.format(name="foreign", id=vm_id, path=f"{SHARED}/foreign.qcow2"))
    host.virsh("define", str(definition))
    host.virsh("start", "foreign")
    refused = subprocess.CalledProcessError
    with pytest.raises(refused):
        ostler("vm", "adopt", host.name, "no-such-vm")
    ostler("vm", "adopt", host.name, "foreign", "--offering", PLAIN)
    qemu = process(vm_id)
    with fleet.console("foreign") as console:
        before = console.tick()
        volume = fleet.volume(fleet.root_volume("foreign"))
        assert {path.name for path in shared.iterdir()} >= {"foreign.qcow2"}
        fleet.do(fleet.grow(volume.name, 256))
        fleet.do(fleet.migrate("foreign", fleet.lab.hosts[1].name))
        assert console.tick() > before
    assert fleet.assert_runs_once("foreign") == fleet.lab.hosts[1].name
    assert process(vm_id) != qemu
    fleet.do(fleet.stop("foreign", force=True))
    fleet.do(fleet.start("foreign"))
    assert "foreign.qcow2" not in {path.name for path in shared.iterdir()}, "it has the volume's name only"
    with fleet.console("foreign") as console:
        console.wait("tick", 60)
    fleet.do(fleet.stop("foreign", force=True))
    place = next(host for host in fleet.lab.hosts if host.name == fleet.vm("foreign").host_name)
    ostler("vm", "unmanage", "foreign", "--yes")
    assert "shut off" in place.virsh("domstate", vm_id)
    ostler("vm", "adopt", place.name, vm_id, "--name", "foreign")
    fleet.do(fleet.start("foreign"))
    fleet.delete_vm("foreign")
