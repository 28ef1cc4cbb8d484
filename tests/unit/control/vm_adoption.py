"""A host with another tool's VM on it, for tests of adoption."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ostler.agent.v1 import adoption_pb2
from ostler.types.v1 import vm_pb2 as types_pb2
from ostler.types.v1 import volume_pb2 as volume_types
from ostler_control import vms
from ostler_control.models import (
    Host,
    Nic,
    Pool,
    Vm,
    VmOrigin,
    Volume,
    new_id,
)
from ostler_control.operations import Engine
from ostler_control.scheduling import capacity

from tests.fakes.working_agent import File
from tests.sites import GIB, MIB, Site

Response = adoption_pb2.InspectVmResponse


@dataclass
class Place:
    """A host with a running VM of another tool's."""

    site: Site
    engine: Engine

    @property
    def host(self) -> Any:
        return Host.get(Host.name == "h1")

    @property
    def files(self) -> dict[str, File]:
        return self.site.fleet.pools.setdefault(Pool.get(Pool.name == "shared").id, {})

    def put(self, name: str = "web", **changes: Any) -> Response:
        file = f"{name}.qcow2"
        self.files[file] = File(4 * MIB, volume_types.DISK_FORMAT_QCOW2, b"")
        pool_id = Pool.get(Pool.name == "shared").id
        disk = Response.Disk(
            slot=0, pool_id=pool_id, file_name=file, format=volume_types.DISK_FORMAT_QCOW2, size_bytes=4 * MIB
        )
        fields: dict[str, Any] = {
            "vm_id": new_id(),
            "name": name,
            "power_state": types_pb2.POWER_STATE_RUNNING,
            "cpus": 1,
            "memory_bytes": GIB // 2,
            "firmware": types_pb2.FIRMWARE_BIOS,
            "disks": [disk],
            "nics": [Response.Nic(mac=f"52:54:00:00:00:{len(self.files):02x}", bridge="br0", model="virtio")],
        }
        found = Response(**(fields | changes))
        self.site.hosts["h1"].foreign[name] = found
        return found

    def adopt(self, vm: str = "web", **changes: Any) -> Any:
        wanted = vms.NewVmAdoption(self.host, vm, self.site.account, **changes)
        found = vms.inspect_vm(wanted, self.engine.agents)
        return self.site.record(lambda: vms.adopt(wanted, found, "root"))

    def unmanage(self, name: str = "web") -> Any:
        return self.site.record(lambda: vms.unmanage(Vm.get(Vm.name == name), "root"))

    def check_untouched(self) -> None:
        assert set(self.files) == {"web.qcow2"}
        assert self.site.hosts["h1"].marked == set()
        for model in (Vm, Volume, Nic, VmOrigin):
            assert model.select().count() == 0, model
        assert capacity.audit() == []
