"""A lab host with the part of an agent that copies and mirrors disks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import libvirt_qemu
from ostler_agent.hypervisors.libvirt.driver import LibvirtDriver
from ostler_agent.jobs import Jobs
from ostler_agent.pools import POOL_TYPES, Pools, PoolSpec
from ostler_agent.services.volumes import VolumeService
from ostler_agent.spec import DiskFormat, Key, VmSpec, VolumeRef
from ostler_agent.templates import Templates
from ostler_agent.volumes import Volumes
from ostler_common.errors import NotFoundError

from tests.lab.machines import new_id, new_key

Kind = tuple[DiskFormat, bool]
CRAWL_BYTES_PER_S = 1 << 20


class Station:
    """A lab host and the part of an agent that deals with its volumes, in one of that agent's lives."""

    def __init__(self, uri: str, root: Path) -> None:
        self.root = root
        self.driver = LibvirtDriver(uri, "qemu")
        self.driver.open()
        self.driver.vms()
        self.pools = Pools(root / "state", POOL_TYPES)
        self.pool, self.small = (
            self.pools.ensure(PoolSpec(f"{number}0000000-0000-4000-8000-000000000000", "local", str(root / name)))
            for number, name in ((1, "pool"), (2, "small"))
        )
        self.volumes = Volumes(self.pools, Templates(root / "templates", _no_templates), self.driver)
        self.jobs = Jobs(root / "jobs")
        self.service = VolumeService(self.jobs, self.volumes)
        self.jobs.recover()

    def close(self) -> None:
        self.jobs.stop(10)
        self.driver.close()

    def ref(self, kind: Kind, *, small: bool = False, key: Key | None = None) -> VolumeRef:
        pool = self.small if small else self.pool
        return VolumeRef(pool.spec.pool_id, new_id(), kind[0], (key or new_key()) if kind[1] else None)

    def path(self, ref: VolumeRef) -> Path:
        return self.pools.volume_path(ref)

    def files(self) -> set[str]:
        return {path.name for name in ("pool", "small") for path in (self.root / name).iterdir()} - {".ostler-pool"}

    def io(self, vm: VmSpec, command: str, disk: int = 0) -> None:
        """What a guest would do with a disk, in qemu-io's words."""
        domain = self.driver.connection.lookupByUUIDString(vm.vm_id)
        line = f'qemu-io -d /machine/peripheral/virtio-disk{disk}/virtio-backend "{command}"'
        said = libvirt_qemu.qemuMonitorCommand(domain, line, libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP)
        assert "rror" not in said, said

    def slow_down(self, vm: VmSpec) -> bool:
        """Has the copies and mirrors of a VM's disks go on at a crawl, however fast the host is. False if none is under
        way."""
        domain = self.driver.connection.lookupByUUIDString(vm.vm_id)
        jobs = json.loads(libvirt_qemu.qemuMonitorCommand(domain, '{"execute": "query-block-jobs"}', 0))["return"]
        for job in jobs:
            arguments = {"device": job["device"], "speed": CRAWL_BYTES_PER_S}
            said = libvirt_qemu.qemuMonitorCommand(
                domain, json.dumps({"execute": "block-job-set-speed", "arguments": arguments}), 0
            )
            assert "return" in json.loads(said), said
        return bool(jobs)


def _no_templates(*arguments: object) -> Iterator[bytes]:
    raise NotFoundError("there are none", "TEMPLATE_NOT_FOUND")
