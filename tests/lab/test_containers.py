"""A host whose VMs are system containers, beside KVM hosts: a hypervisor that is not shaped like QEMU."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ostler.control.v1 import host_pb2, offering_pb2, pool_pb2, template_pb2, vm_pb2, volume_pb2, zone_pb2
from ostler.types.v1 import volume_pb2 as volume_types
from ostler_nspawn_driver import cgroups, machine

from tests.fakes.web import serving
from tests.lab.container_image import container_image
from tests.lab.fleet import MIB, PLAIN, SECRET, Fleet, fresh, refused
from tests.lab.host import LOCAL, Host

pytestmark = pytest.mark.lab

CLUSTER, TEMPLATE, RAW_DATA, VM = "containers", "tiny-root", "raw-extra", "box"
RAW = volume_types.DISK_FORMAT_RAW


@dataclass
class Yard:
    """The host of containers. It is not among the lab's: those have libvirt."""

    fleet: Fleet
    host: Host

    @property
    def pool(self) -> str:
        return f"local-{self.host.name}"

    def directory(self, name: str) -> Path:
        """What the driver keeps of a VM."""
        return self.host.outside("/var/lib/ostler/agent/drivers/nspawn") / self.fleet.vm(name).id


@pytest.fixture(scope="module")
def yard(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    """A VM runs on it, whose template came straight from the web."""
    image = container_image(tmp_path_factory.mktemp("container"))
    host = fleet.lab.add_host()
    fleet.lab.hosts.remove(host)
    host.driver = "nspawn"
    api, gateway = fleet.api, fleet.lab.network.gateway
    made = Yard(fleet, host)
    try:
        api.clusters.CreateCluster(zone_pb2.CreateClusterRequest(request_id=fresh(), name=CLUSTER, zone="lab"))
        token = api.hosts.CreateJoinToken(host_pb2.CreateJoinTokenRequest(cluster=CLUSTER)).token
        host.join(gateway, token)
        host.start_agent()
        fleet.wait_up(host)
        api.pools.CreatePool(
            pool_pb2.CreatePoolRequest(request_id=fresh(), name=made.pool, type="local", path=LOCAL, host=host.name)
        )
        api.offerings.CreateDiskOffering(
            offering_pb2.CreateDiskOfferingRequest(request_id=fresh(), name=RAW_DATA, format=RAW)
        )
        with (
            serving(tmp_path_factory.mktemp("web"), gateway, image.read_bytes(), listen=gateway) as web,
            fleet.setting("direct.download.allow.private", "true"),
        ):
            api.templates.RegisterTemplate(
                template_pb2.RegisterTemplateRequest(
                    request_id=fresh(),
                    name=TEMPLATE,
                    url=web.url(),
                    format=RAW,
                    sha256=hashlib.sha256(image.read_bytes()).hexdigest(),
                    ca_pem=web.ca_pem,
                    hypervisor_type="systemd-nspawn",
                )
            )
            fleet.do(api.vms.CreateVm(new_vm()))
        yield made
        fleet.delete_vm(VM)
        for volume in api.volumes.ListVolumes(volume_pb2.ListVolumesRequest()).volumes:
            if volume.pool_name == made.pool:
                fleet.do(fleet.delete_volume(volume.name))
        api.templates.DeleteTemplate(template_pb2.DeleteTemplateRequest(template=TEMPLATE))
        api.pools.DeletePool(pool_pb2.DeletePoolRequest(pool=made.pool))
        api.hosts.RemoveHost(host_pb2.RemoveHostRequest(host=host.name))
    finally:
        host.kill()
        shutil.rmtree(host.root)  # the next host gets its name, and is to find nothing


def new_vm(name: str = VM, offering: str = PLAIN) -> vm_pb2.CreateVmRequest:
    return vm_pb2.CreateVmRequest(request_id=fresh(), name=name, template=TEMPLATE, service_offering=offering)


def test_a_container_is_used_as_any_other_vm(yard: Yard) -> None:
    """On its host by its type; limits; console; the agent dies; a stop that asks; files stay."""
    fleet = yard.fleet
    vm = fleet.vm(VM)
    assert (vm.host_name, vm.hypervisor_type) == (yard.host.name, "nspawn")
    assert fleet.volume(fleet.root_volume(VM)).pool_name == yard.pool
    limit = cgroups.ROOT / "memory/ostler" / vm.id / "memory.limit_in_bytes"
    if not cgroups.is_unified():
        assert int(limit.read_text()) == fleet.vm(VM).memory_bytes
    with fleet.console(VM) as console:
        console.run("hostname; echo kept >/root/marker; sync; echo DO''NE", f"{VM}\r?\n(.*\n)*DONE")
        console.run("cat /proc/self/uid_map", r"0 +[1-9]\d+ +65536")  # root there is nobody here
        before = console.tick()
        yard.host.stop_agent("KILL")
        yard.host.start_agent()
        fleet.wait_up(yard.host)
        assert console.tick() > before
        stopping = fleet.stop(VM, timeout_s=60)
        console.wait("POWER-BUTTON")
    fleet.do(stopping)
    assert machine.find(yard.directory(VM)) is None
    fleet.do(fleet.start(VM))
    with fleet.console(VM) as console:
        console.run("cat /root/marker", "kept")


def test_what_a_container_cannot_do_is_refused_by_name(yard: Yard) -> None:
    fleet, api = yard.fleet, yard.fleet.api
    move = vm_pb2.MigrateVmRequest(request_id=fresh(), vm=VM, host="h1", validate_only=True)
    reboot = vm_pb2.RebootVmRequest(request_id=fresh(), vm=VM)
    fleet.do(fleet.create_volume("box-data", RAW_DATA, 16, yard.pool))
    attach = volume_pb2.AttachVolumeRequest(request_id=fresh(), volume="box-data", vm=VM)
    for call, request, function in (
        (api.vms.MigrateVm, move, "live-migration"),
        (api.vms.RebootVm, reboot, "reboot"),
        (api.volumes.AttachVolume, attach, "hot-plug"),
        (api.vms.CreateVm, new_vm("box-secret", SECRET), "volume-encryption"),
    ):
        error = refused(call, request)
        assert (error.reason, error.metadata["function"]) == ("FUNCTION_NOT_SUPPORTED", function)
    assert fleet.volume("box-data").size_bytes == 16 * MIB
    assert machine.find(yard.directory(VM)) is not None
