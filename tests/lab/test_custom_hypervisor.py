"""A host with a hypervisor of its own kind beside KVM hosts: a package installed, a driver named, nothing else."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ostler.control.v1 import (
    drs_pb2,
    host_pb2,
    hypervisor_pb2,
    offering_pb2,
    pool_pb2,
    template_pb2,
    vm_pb2,
    volume_pb2,
    zone_pb2,
)
from ostler.types.v1 import vm_pb2 as vm_types
from ostler.types.v1 import volume_pb2 as volume_types
from ostler_common.errors import OstlerError

from tests.fakes.web import serving
from tests.lab.console import Console
from tests.lab.fleet import CLUSTER, MIB, PLAIN, SECRET, SHARED_POOL, Fleet, fresh, refused
from tests.lab.guest import guest_image
from tests.lab.host import LOCAL, Host, wait_for

pytestmark = pytest.mark.lab

EDGE, TEMPLATE, FETCHED, RAW_DATA, VM = "edge", "tiny-raw", "tiny-fetched", "raw-data", "edge-1"
NAME = "hypervisor.custom.display.name"
RAW = volume_types.DISK_FORMAT_RAW


@dataclass
class Edge:
    """The custom host, its image, and where it is on the web. The host is not among the lab's: those have libvirt."""

    fleet: Fleet
    host: Host
    image: Path

    @property
    def pool(self) -> str:
        return f"local-{self.host.name}"

    def file(self, volume: str) -> Path:
        return self.host.outside(self.fleet.volume(volume).path)


@pytest.fixture(scope="module")
def edge(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    image = tmp_path_factory.mktemp("raw") / "guest.raw"
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", guest_image(), image], check=True)
    host = fleet.lab.add_host()
    fleet.lab.hosts.remove(host)
    host.driver = "qemu"
    api = fleet.api
    try:
        api.clusters.CreateCluster(
            zone_pb2.CreateClusterRequest(request_id=fresh(), name=EDGE, zone="lab", cpu_overcommit=16)
        )
        token = api.hosts.CreateJoinToken(host_pb2.CreateJoinTokenRequest(cluster=EDGE)).token
        host.join(fleet.lab.network.gateway, token)
        host.start_agent()
        fleet.wait_up(host)
        made = Edge(fleet, host, image)
        api.pools.CreatePool(
            pool_pb2.CreatePoolRequest(request_id=fresh(), name=made.pool, type="local", path=LOCAL, host=host.name)
        )
        api.offerings.CreateDiskOffering(
            offering_pb2.CreateDiskOfferingRequest(request_id=fresh(), name=RAW_DATA, format=RAW)
        )
        upload(fleet, image)
        yield made
        for vm in fleet.vms():
            if vm.hypervisor_type == "custom":
                fleet.delete_vm(vm.name)
        for volume in api.volumes.ListVolumes(volume_pb2.ListVolumesRequest()).volumes:
            if volume.pool_name == made.pool:
                fleet.do(fleet.delete_volume(volume.name))
        api.templates.DeleteTemplate(template_pb2.DeleteTemplateRequest(template=TEMPLATE))
        api.pools.DeletePool(pool_pb2.DeletePoolRequest(pool=made.pool))
        api.hosts.RemoveHost(host_pb2.RemoveHostRequest(host=host.name))
    finally:
        host.kill()
        shutil.rmtree(host.root)  # the next host gets its name, and is to find nothing


def upload(fleet: Fleet, image: Path) -> None:
    header = template_pb2.UploadTemplateRequest.Header(
        request_id=fresh(),
        name=TEMPLATE,
        format=RAW,
        firmware=vm_types.FIRMWARE_BIOS,
        file_size_bytes=image.stat().st_size,
        hypervisor_type="Custom",
    )
    parts = [template_pb2.UploadTemplateRequest(header=header)]
    data = image.read_bytes()
    parts += [template_pb2.UploadTemplateRequest(data=data[i : i + MIB]) for i in range(0, len(data), MIB)]
    fleet.api.templates.UploadTemplate(iter(parts))


def new_vm(name: str, template: str, **more: object) -> vm_pb2.CreateVmRequest:
    request = vm_pb2.CreateVmRequest(request_id=fresh(), name=name, template=template, service_offering=PLAIN)
    for key, value in more.items():
        setattr(request, key, value)
    return request


def sees(console: Console, disk: str, size_bytes: int) -> None:
    """Waits until the guest has noticed what was done to a disk."""
    line = f"DISK={disk} BYTES={size_bytes}"
    console.run(f"until disks | grep -x '{line}'; do sleep 1; done", rf"\n{line}")


def function_refused(error: OstlerError) -> str:
    """The function that an error names as not supported."""
    assert error.reason == "FUNCTION_NOT_SUPPORTED"
    assert error.metadata["function"] in error.message
    return error.metadata["function"]


def test_what_the_driver_states_is_what_the_fleet_knows(edge: Edge) -> None:
    fleet = edge.fleet
    reported = fleet.host(edge.host).capabilities
    assert (reported.hypervisor_type, reported.hypervisor_display_name) == ("custom", "Custom")
    assert not [probe.reason for probe in reported.probes if probe.name == "accelerator" and not probe.ok]

    def types() -> dict[str, hypervisor_pb2.HypervisorType]:
        request = hypervisor_pb2.ListHypervisorTypesRequest()
        return {row.type: row for row in fleet.api.hypervisors.ListHypervisorTypes(request).hypervisor_types}

    custom, kvm = types()["custom"], types()["kvm"]
    assert list(custom.template_formats) == [RAW]
    assert list(custom.pool_types) == ["local"]
    assert {"direct-download", "hot-plug", "online-grow", "reboot"} < set(custom.functions) < set(kvm.functions)
    assert (custom.host_count, custom.cluster_count) == (1, 1)
    cluster = fleet.api.clusters.GetCluster(zone_pb2.GetClusterRequest(cluster=EDGE))
    assert cluster.hypervisor_type == "custom", "the cluster is of its first host's type"
    with fleet.setting(NAME, "Plain QEMU"):
        assert types()["custom"].display_name == "Plain QEMU"
        found = fleet.api.hypervisors.GetHypervisorType(
            hypervisor_pb2.GetHypervisorTypeRequest(hypervisor_type="plain qemu")
        )
        assert found.type == "custom"
    assert types()["custom"].display_name == "Custom"


def test_a_vm_is_used_as_on_any_other_host(edge: Edge) -> None:
    """Deployed without a word on where; console, disks that come, grow and go, stop, start, reset; the agent dies."""
    fleet = edge.fleet
    fleet.do(fleet.api.vms.CreateVm(new_vm(VM, TEMPLATE)))
    vm = fleet.vm(VM)
    assert (vm.host_name, vm.hypervisor_type) == (edge.host.name, "custom")
    root = fleet.root_volume(VM)
    assert fleet.volume(root).pool_name == edge.pool
    fleet.do(fleet.create_volume("edge-data", RAW_DATA, 16, edge.pool))
    with fleet.console(VM) as console:
        console.wait("tick", 90)  # its first may have gone by
        console.run("mark on-a-custom-host", "MARKED")
        fleet.do(fleet.attach("edge-data", VM))
        sees(console, "vdb", 16 * MIB)
        fleet.do(fleet.grow("edge-data", 32))
        sees(console, "vdb", 32 * MIB)
        fleet.do(fleet.grow(root, 96))
        sees(console, "vda", 96 * MIB)
        assert edge.file(root).stat().st_size == 96 * MIB
        fleet.do(fleet.detach("edge-data"))
        console.run("while test -e /dev/vdb; do sleep 1; done; echo GO''NE", "GONE")

        # The agent dies; its VM does not, and the next agent knows it.
        before = console.tick()
        edge.host.stop_agent("KILL")
        edge.host.start_agent()
        fleet.wait_up(edge.host)
        assert console.tick() > before
    assert fleet.processes(vm.id) == 1
    picture = fleet.api.vms.Screenshot(vm_pb2.ScreenshotRequest(vm=VM)).png
    assert picture.startswith(b"\x89PNG")
    load = fleet.host(edge.host)
    assert load.capabilities.hypervisor_type == "custom"

    with fleet.console(VM) as console:
        console.tick()
        stopping = fleet.stop(VM, timeout_s=90)
        console.wait("POWER-BUTTON")
    fleet.do(stopping)
    assert fleet.processes(vm.id) == 0
    fleet.do(fleet.start(VM))
    with fleet.console(VM) as console:
        # Not at once: a guest whose BIOS is reset in its first instructions can hang in QEMU.
        console.wait("tick", 90)
        fleet.do(fleet.api.vms.RebootVm(vm_pb2.RebootVmRequest(request_id=fresh(), vm=VM, hard=True)))
        console.wait("GUEST-UP", 90)
        console.run("cat /marker", "on-a-custom-host")
    wait_for(lambda: fleet.vm(VM).state == vm_pb2.Vm.RUNNING, "the state RUNNING")
    file = edge.file("edge-data")
    fleet.do(fleet.delete_volume("edge-data"))
    assert not file.exists()


def test_what_kvm_alone_can_do_is_refused_by_name(edge: Edge) -> None:
    api = edge.fleet.api
    move = vm_pb2.MigrateVmRequest(request_id=fresh(), vm=VM, host="h1", validate_only=True)
    assert function_refused(refused(api.vms.MigrateVm, move)) == "live-migration"
    secret = new_vm("edge-secret", TEMPLATE, service_offering=SECRET)
    assert function_refused(refused(api.vms.CreateVm, secret)) == "volume-encryption"
    plan = drs_pb2.GeneratePlanRequest(request_id=fresh(), cluster=EDGE)
    assert function_refused(refused(api.drs.GeneratePlan, plan)) == "live-migration"
    assert edge.fleet.processes(edge.fleet.vm(VM).id) == 1


def test_vms_keep_to_their_own_kind(edge: Edge) -> None:
    fleet = edge.fleet
    found = fleet.api.vms.FindHosts(vm_pb2.FindHostsRequest(vm=VM)).candidates
    refusals = {candidate.host_name: candidate.refusal for candidate in found if candidate.host_name != edge.host.name}
    assert refusals == {host.name: "OTHER_HYPERVISOR_TYPE" for host in fleet.lab.hosts}
    error = refused(fleet.api.vms.CreateVm, new_vm("stray", TEMPLATE, host="h1"))
    assert error.reason == "OTHER_HYPERVISOR_TYPE"
    error = refused(fleet.api.vms.CreateVm, new_vm("stray", TEMPLATE, cluster=CLUSTER))
    assert error.reason == "OTHER_HYPERVISOR_TYPE"
    error = refused(fleet.api.vms.CreateVm, new_vm("stray", "tiny", host=edge.host.name))
    assert error.reason == "FORMAT_NOT_SUPPORTED"
    error = refused(fleet.api.volumes.CreateVolume, qcow2_on(edge.pool))
    assert error.reason == "FORMAT_NOT_SUPPORTED"
    # The emptiest host of all does not tempt a VM from elsewhere, nor is it weighed by theirs.
    fleet.do(fleet.api.vms.CreateVm(new_vm("stays-away", "blank", pool=SHARED_POOL)))
    assert fleet.vm("stays-away").host_name in [host.name for host in fleet.lab.hosts]
    status = fleet.api.drs.GetClusterStatus(drs_pb2.GetClusterStatusRequest(cluster=CLUSTER))
    assert {share.host_name for share in status.hosts} == {host.name for host in fleet.lab.hosts}
    fleet.delete_vm("stays-away")


def qcow2_on(pool: str) -> volume_pb2.CreateVolumeRequest:
    return volume_pb2.CreateVolumeRequest(
        request_id=fresh(), name="qcow2", disk_offering=f"{PLAIN}-data", size_bytes=16 * MIB, pool=pool
    )


def test_a_template_is_fetched_straight_to_the_host(edge: Edge, tmp_path: Path) -> None:
    fleet, gateway = edge.fleet, edge.fleet.lab.network.gateway
    image = edge.image.read_bytes()
    with (
        serving(tmp_path, gateway, image, listen=gateway) as web,
        fleet.setting("direct.download.allow.private", "true"),
    ):
        fleet.api.templates.RegisterTemplate(
            template_pb2.RegisterTemplateRequest(
                request_id=fresh(),
                name=FETCHED,
                url=web.url(),
                format=RAW,
                sha256=hashlib.sha256(image).hexdigest(),
                ca_pem=web.ca_pem,
                hypervisor_type="custom",
            )
        )
        fleet.do(fleet.api.vms.CreateVm(new_vm("edge-2", FETCHED)))
    assert fleet.vm("edge-2").host_name == edge.host.name
    with fleet.console("edge-2") as console:
        console.wait("tick 1", 90)
    fleet.delete_vm("edge-2")
    fleet.api.templates.DeleteTemplate(template_pb2.DeleteTemplateRequest(template=FETCHED))


def test_a_deleted_vm_leaves_nothing(edge: Edge) -> None:
    vm = edge.fleet.vm(VM)
    file = edge.file(edge.fleet.root_volume(VM))
    assert file.exists()
    edge.fleet.delete_vm(VM)
    assert not file.exists()
    assert edge.fleet.processes(vm.id) == 0
    assert list(edge.host.outside("/var/lib/ostler/agent/drivers/qemu").iterdir()) == []
