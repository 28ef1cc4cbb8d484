"""Taking VMs over and handing them back, on a fake hypervisor and real files."""

from __future__ import annotations

import subprocess
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from ostler_agent.adoption import AdoptedDisk, VmAdoption
from ostler_agent.hypervisors.foreign import ForeignDisk, ForeignVm
from ostler_agent.hypervisors.info import DriverInfo
from ostler_agent.jobs import JobContext
from ostler_agent.pools import POOL_TYPES, Pools, PoolSpec
from ostler_agent.spec import DiskFormat, PowerState, VmInfo, VolumeRef
from ostler_agent.volumes.adoption import Adoption
from ostler_agent.volumes.locks import VolumeLocks
from ostler_common.errors import FailedPreconditionError

from tests.fakes.hypervisor import FakeHypervisor

VM = "22222222-0000-4000-8000-000000000001"


@dataclass
class Place:
    """A host with a pool, and a running VM of another tool's with a file in it."""

    driver: FakeHypervisor
    adoption: VmAdoption
    pool_id: str
    directory: Path

    def names(self) -> set[str]:
        return {path.name for path in self.directory.iterdir() if not path.name.startswith(".")}

    def disk(self, name: str = "web.qcow2", volume_id: str = "") -> AdoptedDisk:
        ref = VolumeRef(self.pool_id, volume_id or str(uuid.uuid4()), DiskFormat.QCOW2)
        return AdoptedDisk(ref, name)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    pools = Pools(tmp_path / "state", POOL_TYPES)
    pool_id, directory = str(uuid.uuid4()), tmp_path / "pool"
    pools.ensure(PoolSpec(pool_id, "local", str(directory)))
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", directory / "web.qcow2", "4M"], check=True)
    driver = FakeHypervisor()
    driver.known[VM] = VmInfo(VM, "web", PowerState.RUNNING, 1, 128 << 20, (), managed=False)
    disk = ForeignDisk(0, directory / "web.qcow2", "qcow2")
    driver.foreign = ForeignVm(VM, "web", PowerState.RUNNING, 1, 128 << 20, uefi=False, managed=False, disks=(disk,))
    return Place(driver, VmAdoption(driver, pools, Adoption(pools, VolumeLocks())), pool_id, directory)


def test_disks_are_found_in_their_pools(place: Place) -> None:
    [disk] = place.adoption.inspect("web").disks
    assert (disk.pool_id, disk.file_name, disk.size_bytes) == (place.pool_id, "web.qcow2", 4 << 20)


def test_disks_elsewhere_or_on_other_files_are_problems(place: Place, tmp_path: Path) -> None:
    outside = tmp_path / "outside.qcow2"
    overlay = place.directory / "overlay.qcow2"
    base = str(place.directory / "web.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", outside, "4M"], check=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", overlay], check=True)
    assert place.driver.foreign is not None
    disks = tuple(ForeignDisk(slot, path, "qcow2") for slot, path in enumerate((outside, overlay)))
    place.driver.foreign = replace(place.driver.foreign, disks=disks)
    found = place.adoption.inspect(VM)
    assert found.disks == ()
    assert [problem.code for problem in found.problems] == ["DISK_OUTSIDE_POOLS", "BACKING_FILE"]


def test_an_adopted_vm_has_its_files_under_both_names(place: Place) -> None:
    disk = place.disk()
    for _ in range(2):
        job = JobContext("adopt", facts={})
        job.facts.update(place.adoption._pools.identity_fact(disk.volume, place.directory / "web.qcow2"))
        assert place.adoption.adopt(job, VM, "web-1", [disk]).managed
    assert place.names() == {"web.qcow2", disk.volume.volume_id}
    assert place.driver.old_names == {place.directory / "web.qcow2": disk.volume.volume_id}
    place.adoption.release(JobContext("release"), VM, [disk])
    assert place.names() == {"web.qcow2"}
    assert not place.driver.vm(VM).managed


def test_a_file_named_like_a_volume_has_one_name(place: Place) -> None:
    name = str(uuid.uuid4())
    (place.directory / "web.qcow2").rename(place.directory / name)
    place.adoption.adopt(JobContext("adopt"), VM, "web", [place.disk(name, name)])
    assert (place.names(), place.driver.old_names) == ({name}, {})
    place.adoption.release(JobContext("release"), VM, [place.disk(name, name)])
    assert place.names() == {name}


def test_a_vm_that_runs_with_old_names_is_not_handed_back(place: Place) -> None:
    place.driver.known[VM] = replace(place.driver.known[VM], managed=True)
    with pytest.raises(FailedPreconditionError) as refused:
        place.adoption.release(JobContext("release"), VM)
    assert refused.value.reason == "OLD_FILE_NAMES"
    assert place.driver.vm(VM).managed


def test_a_driver_that_does_not_state_it_is_refused(place: Place) -> None:
    place.driver.info = DriverInfo(interface_version=1)
    for call in (
        lambda: place.adoption.inspect(VM),
        lambda: place.adoption.adopt(JobContext("x"), VM, "web", [place.disk()]),
        lambda: place.adoption.release(JobContext("x"), VM),
    ):
        with pytest.raises(FailedPreconditionError) as refused:
            call()
        assert refused.value.reason == "FUNCTION_NOT_SUPPORTED"
    assert place.names() == {"web.qcow2"}
