"""What libvirt is told of a VM's memory, and of the VM that continues from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from ostler_agent import memory_files
from ostler_agent.hypervisors.libvirt.info import INFO
from ostler_agent.hypervisors.libvirt.xml.saved_memory import for_definition, snapshot_xml, vm_of
from ostler_agent.jobs import JobContext
from ostler_agent.memory_files import MemoryFiles, size_for
from ostler_agent.spec import DiskFormat, Key, PowerState, VmInfo, VmSpec, VolumeRef
from ostler_agent.vms import continuing
from ostler_common.errors import FailedPreconditionError, InvalidArgumentError
from ostler_common.secret import Secret

MIB = 1 << 20
SAVED = """
<domain><name>web</name><uuid>web-id</uuid><devices>
  <disk type="file" device="disk"><driver name="qemu" cache="none"/>
    <source file="/pool/old"><encryption format="luks"><secret type="passphrase" uuid="old-key"/></encryption></source>
    <target dev="vda" bus="virtio"/><serial>serial</serial></disk>
  <disk type="file" device="cdrom"><source file="/isos/then.iso"/><target dev="sda" bus="sata"/><readonly/></disk>
  <interface type="bridge"><mac address="52:54:00:00:00:01"/><source bridge="br0"/></interface>
</devices></domain>
"""
DEFINED = """
<domain><name>web</name><devices>
  <disk type="block" device="disk"><driver name="qemu" cache="writeback"/>
    <source dev="/dev/new"><encryption format="luks"><secret type="passphrase" uuid="new-key"/></encryption></source>
    <target dev="vda" bus="virtio"/><serial>serial</serial></disk>
  <disk type="file" device="cdrom"><target dev="sda" bus="sata"/><readonly/></disk>
  <interface type="bridge"><mac address="52:54:00:00:00:01"/><source bridge="br1"/></interface>
  <interface type="bridge"><mac address="52:54:00:00:00:02"/><source bridge="br2"/></interface>
</devices></domain>
"""


def test_the_snapshot_is_of_the_memory_and_of_no_disk() -> None:
    root = ElementTree.fromstring(snapshot_xml(SAVED, Path("/run/memory")))
    memory = root.find("memory")
    assert memory is not None
    assert memory.attrib == {"snapshot": "external", "file": "/run/memory"}
    assert [disk.attrib for disk in root.findall("disks/disk")] == [
        {"name": "vda", "snapshot": "no"},
        {"name": "sda", "snapshot": "no"},
    ]


def test_the_memory_says_whose_it_is() -> None:
    assert vm_of(SAVED) == "web-id"


def test_the_vm_keeps_its_devices_and_gets_the_files_keys_and_bridges_of_now() -> None:
    root = ElementTree.fromstring(for_definition(SAVED, DEFINED))
    disk, cdrom = root.findall("devices/disk")
    assert (disk.get("type"), disk.find("source").get("dev")) == ("block", "/dev/new")  # type: ignore[union-attr]
    assert [secret.get("uuid") for secret in root.iter("secret")] == ["new-key"]
    assert disk.find("driver").get("cache") == "none"  # type: ignore[union-attr]
    assert cdrom.find("source") is None, "the image was ejected"
    [nic] = root.findall("devices/interface")
    assert nic.find("source").get("bridge") == "br1"  # type: ignore[union-attr]


@pytest.mark.parametrize("memory_bytes", [128 * MIB, 4096 * MIB, 1 << 40])
def test_an_image_has_room_for_the_memory_and_its_devices(memory_bytes: int) -> None:
    size_bytes = size_for(memory_bytes)
    assert size_bytes % 512 == 0
    assert memory_bytes + 9 * memory_bytes // 4096 + 128 * MIB < size_bytes < memory_bytes * 1.02 + 257 * MIB


def test_what_a_killed_agent_has_left_is_removed(tmp_path: Path) -> None:
    files = MemoryFiles(tmp_path / "memory")
    files.clear()
    (files.directory / "left").mkdir(parents=True)
    (files.directory / "left" / "memory").touch()
    files.clear()
    assert list(files.directory.iterdir()) == []


@dataclass
class Driver:
    """runs: whether the VM does; stops: whether it stops as soon as it continues."""

    runs: bool = False
    stops: bool = False
    info = INFO
    restored: list[Path] = field(default_factory=list)

    def running(self, vm_id: str) -> bool:
        return self.runs

    def vm(self, vm_id: str) -> VmInfo:
        state = PowerState.RUNNING if self.runs else PowerState.STOPPED
        return VmInfo(vm_id, "web", state, cpus=1, memory_bytes=MIB, volume_ids=(), managed=True)

    def copy_with_memory(self, *arguments: object) -> None: ...

    def end_save(self, *arguments: object) -> None: ...

    def restore(self, spec: VmSpec, paths: object, memory: Path) -> None:
        self.restored.append(memory)
        self.runs = not self.stops


class Files(MemoryFiles):
    @contextmanager
    def shown(self, ref: VolumeRef, path: Path, cancel: object) -> Iterator[Path]:
        yield Path("/shown") / ref.volume_id


SPEC = VmSpec(vm_id="v", name="web", cpus=1, memory_bytes=MIB, disks=(), nics=())
MEMORY = VolumeRef("p", "m", DiskFormat.QCOW2, Key("k", Secret(b"secret")))


def go_on(driver: Driver, job: JobContext, memory: VolumeRef = MEMORY) -> VmInfo:
    untyped: Any = driver
    return continuing.start(untyped, lambda ref: Path("/pool", ref.volume_id), SPEC, memory, job, files=Files())


@pytest.fixture(autouse=True)
def _no_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuing, "check_volume", lambda ref, path: None)


def test_a_vm_continues_from_its_memory_once() -> None:
    driver, job = Driver(stops=True), JobContext("start")
    go_on(driver, job)
    assert driver.restored == [Path("/shown/m")]
    with pytest.raises(FailedPreconditionError, match="revert it again"):
        go_on(driver, JobContext("start", facts=job.facts))
    go_on(driver, JobContext("another"))
    assert len(driver.restored) == 2


def test_a_running_vm_stays_as_it_is() -> None:
    driver = Driver(runs=True)
    assert go_on(driver, JobContext("start")).power_state is PowerState.RUNNING
    assert driver.restored == []


def test_memory_without_a_key_is_refused() -> None:
    for key in (None, Key("k", None)):
        with pytest.raises(InvalidArgumentError):
            go_on(Driver(), JobContext("start"), replace(MEMORY, key=key))


def test_what_is_shown_does_not_survive_a_restart() -> None:
    assert memory_files.MEMORY_FILES.directory.is_relative_to("/run")
