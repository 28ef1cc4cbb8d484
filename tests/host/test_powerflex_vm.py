"""VMs whose disks are on a PowerFlex pool: a real libvirtd and QEMU on the stand-in's loop devices."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt_qemu
import pytest
from ostler_agent.hypervisors.libvirt.driver import LibvirtDriver
from ostler_agent.pools.unmapper import Unmapper
from ostler_agent.spec import DiskFormat, DiskSpec, VmSpec
from ostler_agent.volumes import Volumes

from tests.fakes.powerflex import GIB, FakeGateway, Sdc, gateway
from tests.host.conftest import job, need, new_key
from tests.host.powerflex_host import MIB, NOISE, Host, reason
from tests.lab.host import wait_for
from tests.lab.lab import Lab
from tests.lab.machines import new_id


@pytest.fixture(scope="module")
def driver() -> Iterator[LibvirtDriver]:
    need("losetup", "qemu-img", "cryptsetup", "libvirtd")
    with Lab.start(hosts=1) as lab:
        lab.trust_each_other()
        opened = LibvirtDriver(lab.hosts[0].libvirt_uri, "qemu")
        opened.open()
        yield opened
        opened.close()


@pytest.fixture
def array(tmp_path: Path) -> Iterator[FakeGateway]:
    with gateway(tmp_path / "array", [Sdc(tmp_path / "by-id")]) as running:
        yield running


@pytest.fixture
def host(array: FakeGateway, tmp_path: Path, driver: LibvirtDriver) -> Host:
    made = Host(tmp_path / "host", array, array.sdcs[0])
    made.volumes = Volumes(made.pools, made.templates, driver)
    return made


def test_a_vm_lives_on_an_array(host: Host, array: FakeGateway, driver: LibvirtDriver) -> None:
    """Every layout attached, grown while it runs, copied from under it; nothing is mapped when it has stopped."""
    refs = [host.made(layout, encrypted) for layout in DiskFormat for encrypted in (False, True)]
    machine = VmSpec(
        new_id(), "on-an-array", 1, 128 * MIB, disks=tuple(DiskSpec(ref, slot) for slot, ref in enumerate(refs[:3]))
    )
    unmapper = Unmapper(host.pools, driver, interval_s=1)
    end = driver.subscribe(unmapper)
    unmapper.start()
    try:
        driver.start(machine, host.pools.volume_path)
        assert len(array.mapped()) == 3
        driver.attach(machine.vm_id, DiskSpec(refs[3], 3), host.pools.volume_path(refs[3]))
        assert driver.vm(machine.vm_id).volume_ids == tuple(ref.volume_id for ref in refs)
        assert all(driver.using(ref.volume_id) == machine.vm_id for ref in refs)

        for ref in refs:
            assert reason(lambda ref=ref: host.volumes.delete(job(), ref)) == "VOLUME_IN_USE"  # type: ignore[misc]
            before = size_in_qemu(driver, machine.vm_id, ref.volume_id)
            grown = host.volumes.grow(job(), ref, 9 * GIB)
            after = size_in_qemu(driver, machine.vm_id, ref.volume_id)
            assert before < after
            assert after == grown.virtual_size_bytes >= 9 * GIB
            assert host.volumes.grow(job(), ref, grown.virtual_size_bytes) == grown
        assert len(array.mapped()) == 4, "nobody has unmapped what the VM uses"

        copied = host.ref(DiskFormat.QCOW2, new_key())
        host.volumes.copies.copy(job(), refs[1], copied, vm_id=machine.vm_id)
        assert host.head(copied) == NOISE

        mirror = host.ref(DiskFormat.QCOW2, new_key())
        host.volumes.mirrors.begin(job(), machine.vm_id, refs[0], mirror)
        assert driver.vm(machine.vm_id).mirror_ids == (mirror.volume_id,)
        host.volumes.mirrors.pivot(job(), machine.vm_id, refs[0], mirror)
        assert driver.using(mirror.volume_id) == machine.vm_id
        refs.append(mirror)
        count = len(array.volumes)
        raw = host.ref(DiskFormat.RAW, new_key())
        assert reason(lambda: host.volumes.mirrors.begin(job(), machine.vm_id, refs[1], raw)) == "SIZE_DIFFERS"
        assert reason(lambda: host.volumes.copies.copy(job(), refs[1], raw, vm_id=machine.vm_id)) == "SIZE_DIFFERS"
        assert len(array.volumes) == count

        driver.power_off(machine.vm_id)
        wait_for(lambda: not array.mapped(), "the stopped VM's volumes to be unmapped", 20)
    finally:
        driver.power_off(machine.vm_id)
        driver.delete(machine.vm_id)
        end()
        unmapper.stop()
    for ref in refs:
        assert host.head(ref) == NOISE
        host.volumes.delete(job(), ref)


def size_in_qemu(driver: LibvirtDriver, vm_id: str, volume_id: str) -> int:
    """How large the guest sees a disk."""
    answer = libvirt_qemu.qemuMonitorCommand(
        driver.connection.lookupByUUIDString(vm_id), json.dumps({"execute": "query-block"}), 0
    )
    for device in json.loads(answer)["return"]:
        image: dict[str, Any] = device.get("inserted", {}).get("image", {})
        if volume_id in json.dumps(image):
            return int(image["virtual-size"])
    raise AssertionError(f"{volume_id} is not in {answer}")
