"""A hypervisor that knows what the test says."""

from ostler_agent.hypervisors.libvirt.info import INFO
from ostler_agent.spec import VmInfo


class FakeRuntime:
    """volumes: volume id -> id of the VM that executes with it; grown: what grow_disk was called with."""

    info = INFO

    def __init__(self) -> None:
        self.volumes: dict[str, str] = {}
        self.grown: list[tuple[str, str, int]] = []
        self.infos: list[VmInfo] = []

    def vm(self, vm_id: str) -> VmInfo:
        return next(info for info in self.infos if info.vm_id == vm_id)

    def running(self, vm_id: str) -> bool:
        return vm_id in self.volumes.values()

    def using(self, volume_id: str) -> str | None:
        return self.volumes.get(volume_id)

    def grow_disk(self, vm_id: str, volume_id: str, size_bytes: int) -> None:
        self.grown.append((vm_id, volume_id, size_bytes))

    def vms(self) -> list[VmInfo]:
        return self.infos
