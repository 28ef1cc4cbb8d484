"""What is done with VMs, step by step, on a hypervisor in memory."""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from ostler_agent import preconditions
from ostler_agent.jobs import JobContext
from ostler_agent.spec import (
    DiskFormat,
    DiskSpec,
    FirmwareCopy,
    FirmwareState,
    Key,
    KeyUse,
    NicSpec,
    PowerState,
    VmSpec,
    VolumeRef,
)
from ostler_agent.vms import disks, firmware, power
from ostler_common.errors import CancelledError, FailedPreconditionError
from ostler_common.hypervisors import Function

from tests.fakes.hypervisor import FakeHypervisor
from tests.images import qcow2

VM = str(uuid.uuid4())
VOLUME = VolumeRef(str(uuid.uuid4()), str(uuid.uuid4()), DiskFormat.QCOW2)


@pytest.fixture
def driver() -> FakeHypervisor:
    return FakeHypervisor()


@pytest.fixture
def bridges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host whose only bridge is br0; eth0 is no bridge."""
    (tmp_path / "net" / "br0" / "bridge").mkdir(parents=True)
    (tmp_path / "net" / "eth0").mkdir()
    monkeypatch.setattr(preconditions, "SYS_CLASS_NET", tmp_path / "net")
    return tmp_path / "net"


def job() -> JobContext:
    return JobContext("test")


def spec(*nics: NicSpec) -> VmSpec:
    return VmSpec(VM, "guest", 1, 128 << 20, disks=(DiskSpec(VOLUME, 0),), nics=nics)


def test_start(driver: FakeHypervisor, tmp_path: Path, bridges: Path) -> None:
    (tmp_path / VOLUME.volume_id).write_bytes(qcow2())
    machine = spec(NicSpec("52:54:00:00:00:01", "br0"))
    for _ in range(2):
        info = power.start(driver, lambda ref: tmp_path / ref.volume_id, machine, job())
        assert info.power_state is PowerState.RUNNING
    assert driver.done == ["start"]


def test_what_firmware_kept_is_in_place_before_the_vm_starts(
    driver: FakeHypervisor, tmp_path: Path, bridges: Path
) -> None:
    (tmp_path / VOLUME.volume_id).write_bytes(qcow2())
    copy = FirmwareCopy(VM, FirmwareState(b"variables", b"tpm"))
    for _ in range(2):
        power.start(driver, lambda ref: tmp_path / ref.volume_id, replace(spec(), firmware_copy=copy), job())
    assert driver.done == ["place_firmware_state", "start"], "and not in place of what a running VM has"
    assert firmware.read_state(driver, VM) == copy.state


@pytest.mark.parametrize("lacks", [Function.TPM, Function.FIRMWARE_STATE])
def test_a_driver_refuses_what_it_has_no_function_for(lacks: Function, tmp_path: Path) -> None:
    driver = FakeHypervisor()
    driver.info = replace(driver.info, functions=driver.info.functions - {lacks})
    key = Key(VM, None, use=KeyUse.TPM)
    machine = replace(spec(), tpm_key=key, firmware_copy=FirmwareCopy(VM, FirmwareState()))
    with pytest.raises(FailedPreconditionError) as error:
        power.start(driver, lambda ref: tmp_path / ref.volume_id, machine, job())
    assert (error.value.reason, error.value.metadata["function"]) == ("FUNCTION_NOT_SUPPORTED", lacks)
    assert driver.done == []


def test_a_filter_that_the_driver_lacks_is_refused(tmp_path: Path, bridges: Path) -> None:
    driver = FakeHypervisor()
    driver.info = replace(driver.info, functions=driver.info.functions - {Function.NIC_FILTER})
    (tmp_path / VOLUME.volume_id).write_bytes(qcow2())
    nic = NicSpec("52:54:00:00:00:01", "br0", filter=True)
    with pytest.raises(FailedPreconditionError) as error:
        power.start(driver, lambda ref: tmp_path / ref.volume_id, spec(nic), job())
    assert error.value.reason == "FUNCTION_NOT_SUPPORTED"


def test_a_bridge_with_a_smaller_mtu_than_the_networks_is_refused(
    driver: FakeHypervisor, tmp_path: Path, bridges: Path
) -> None:
    (tmp_path / VOLUME.volume_id).write_bytes(qcow2())
    (bridges / "br0" / "mtu").write_text("1500\n")
    for mtu in (1500, 9000):
        nic = NicSpec("52:54:00:00:00:01", "br0", mtu=mtu)
        if mtu == 9000:
            driver.power_off(VM)
            with pytest.raises(FailedPreconditionError) as error:
                power.start(driver, lambda ref: tmp_path / ref.volume_id, spec(nic), job())
            assert error.value.reason == "MTU_TOO_LARGE"
        else:
            power.start(driver, lambda ref: tmp_path / ref.volume_id, spec(nic), job())


@pytest.mark.parametrize(
    ("bridge", "reason"), [("br1", "BRIDGE_MISSING"), ("eth0", "BRIDGE_MISSING"), ("../net/br0", "BRIDGE_MISSING")]
)
def test_nothing_starts_without_its_bridge(
    driver: FakeHypervisor, tmp_path: Path, bridges: Path, bridge: str, reason: str
) -> None:
    (tmp_path / VOLUME.volume_id).write_bytes(qcow2())
    with pytest.raises(FailedPreconditionError) as error:
        power.start(driver, lambda ref: tmp_path / ref.volume_id, spec(NicSpec("52:54:00:00:00:01", bridge)), job())
    assert error.value.reason == reason
    assert driver.done == []


def test_nothing_starts_or_is_attached_without_its_file(driver: FakeHypervisor, tmp_path: Path) -> None:
    with pytest.raises(FailedPreconditionError) as error:
        power.start(driver, lambda ref: tmp_path / ref.volume_id, spec(), job())
    assert error.value.reason == "VOLUME_MISSING"
    (tmp_path / VOLUME.volume_id).mkdir()  # a directory is no volume
    with pytest.raises(FailedPreconditionError) as error:
        power.start(driver, lambda ref: tmp_path / ref.volume_id, spec(), job())
    assert error.value.reason == "NOT_AN_IMAGE"
    with pytest.raises(FailedPreconditionError):
        disks.attach(driver, lambda ref: tmp_path / ref.volume_id, VM, DiskSpec(VOLUME, 1), job())
    assert driver.done == []


def test_a_guest_that_obeys_keeps_its_plug(driver: FakeHypervisor) -> None:
    driver.add(VM)
    assert power.stop(driver, VM, 10, job()).power_state is PowerState.STOPPED
    assert driver.done == ["shut_down"]


def test_a_guest_that_does_not_obey_loses_it(driver: FakeHypervisor) -> None:
    driver.add(VM)
    driver.obeys = False
    assert power.stop(driver, VM, 0.01, job()).power_state is PowerState.STOPPED
    assert driver.done == ["shut_down", "power_off"]


def test_no_time_means_no_asking(driver: FakeHypervisor) -> None:
    driver.add(VM)
    power.stop(driver, VM, 0, job())
    assert driver.done == ["power_off"]


def test_a_cancelled_stop_does_not_force(driver: FakeHypervisor) -> None:
    driver.add(VM)
    driver.obeys = False
    stopping = job()
    stopping.cancel()
    with pytest.raises(CancelledError):
        power.stop(driver, VM, 10, stopping)
    assert driver.running(VM)


def test_only_managed_vms_are_deleted(driver: FakeHypervisor) -> None:
    driver.add(VM, PowerState.STOPPED, managed=False)
    with pytest.raises(FailedPreconditionError) as error:
        power.delete(driver, VM)
    assert error.value.reason == "VM_NOT_MANAGED"
    driver.add(VM, PowerState.STOPPED)
    for _ in range(2):
        assert power.delete(driver, VM).power_state is PowerState.ABSENT
