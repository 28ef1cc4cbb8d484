"""The images that guests read at boot: written for a start or a move, removed with the VM."""

from __future__ import annotations

import os
import uuid
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pycdlib
import pytest
from ostler.types.v1 import vm_pb2
from ostler_agent.hypervisors.info import DriverInfo
from ostler_agent.isos import Isos
from ostler_agent.jobs import JobContext
from ostler_agent.migration.admissions import Admissions, Source
from ostler_agent.migration.destination import IncomingMigrations
from ostler_agent.seeds import Seeds
from ostler_agent.services import convert
from ostler_agent.spec import PowerState, Provisioning, VmSpec, VolumeRef
from ostler_agent.vms import power
from ostler_common.errors import FailedPreconditionError, InvalidArgumentError

from tests.fakes.hypervisor import FakeHypervisor

VM = str(uuid.uuid4())
SEED = {"meta-data": b"instance-id: a\n", "user-data": b"#!/bin/sh\necho hunter22\n"}
SPEC = VmSpec(VM, "guest", 1, 128 << 20, seed=SEED)


class NoVolumes:
    def create(self, job: JobContext, ref: VolumeRef, size_bytes: int, provisioning: Provisioning) -> object:
        raise AssertionError

    def delete(self, job: JobContext, ref: VolumeRef) -> None:
        raise AssertionError


@pytest.fixture
def seeds(tmp_path: Path) -> Seeds:
    return Seeds(tmp_path / "seeds")


@pytest.fixture
def driver() -> FakeHypervisor:
    return FakeHypervisor()


def start(driver: FakeHypervisor, seeds: Seeds, spec: VmSpec = SPEC) -> None:
    power.start(driver, lambda ref: Path("/nowhere"), spec, JobContext("test"), seeds)


def user_data_in(image: Path) -> bytes:
    out, disc = BytesIO(), pycdlib.PyCdlib()
    disc.open(str(image))
    disc.get_file_from_iso_fp(out, joliet_path="/user-data")
    disc.close()
    return out.getvalue()


def test_a_start_writes_the_image_and_gives_it_to_the_vm(driver: FakeHypervisor, seeds: Seeds) -> None:
    start(driver, seeds)
    image = driver.specs[VM].cdrom
    assert image == seeds.directory / f"{VM}.iso"
    assert user_data_in(image) == SEED["user-data"]


def test_only_root_reads_an_image_and_qemu_may_pass(driver: FakeHypervisor, seeds: Seeds) -> None:
    old = os.umask(0o077)
    try:
        start(driver, seeds)
    finally:
        os.umask(old)
    assert seeds.directory.stat().st_mode & 0o777 == 0o711
    assert (seeds.directory / f"{VM}.iso").stat().st_mode & 0o777 == 0o600


def test_each_start_writes_it_anew_and_none_touches_a_running_vms(driver: FakeHypervisor, seeds: Seeds) -> None:
    start(driver, seeds)
    image = seeds.directory / f"{VM}.iso"
    other = replace(SPEC, seed={"user-data": b"#cloud-config\n"})
    start(driver, seeds, other)
    assert user_data_in(image) == SEED["user-data"], "it runs"
    power.stop(driver, VM, 0, JobContext("test"))
    start(driver, seeds, other)
    assert user_data_in(image) == b"#cloud-config\n"
    power.stop(driver, VM, 0, JobContext("test"))
    start(driver, seeds, replace(SPEC, seed=None))
    assert not image.exists()
    assert driver.specs[VM].cdrom is None


def test_the_image_goes_with_its_vm(driver: FakeHypervisor, seeds: Seeds) -> None:
    start(driver, seeds)
    power.stop(driver, VM, 0, JobContext("test"))
    for _ in range(2):
        power.delete(driver, VM, seeds)
    assert list(seeds.directory.iterdir()) == []


def test_a_driver_that_takes_no_user_data_is_not_asked(driver: FakeHypervisor, seeds: Seeds) -> None:
    driver.info = DriverInfo(interface_version=1)
    with pytest.raises(FailedPreconditionError, match="user-data") as caught:
        start(driver, seeds)
    assert caught.value.reason == "FUNCTION_NOT_SUPPORTED"
    assert not seeds.directory.exists()
    start(driver, seeds, replace(SPEC, seed=None))


def test_a_destination_has_the_image_before_the_vm_comes(driver: FakeHypervisor, seeds: Seeds) -> None:
    admissions = Admissions(seeds.directory.parent / "admissions")
    isos = Isos(lambda source, offset: iter([]))
    incoming = IncomingMigrations(
        driver, NoVolumes(), lambda ref: Path("/nowhere"), "10.0.0.2", "h2", admissions, isos, seeds
    )
    job, image = JobContext("test"), seeds.directory / f"{VM}.iso"
    incoming.prepare(SPEC, [], Source(VM, 60), job)
    assert user_data_in(image) == SEED["user-data"]
    incoming.finish(VM, False, [], [], job)
    assert not image.exists(), "the VM has not come"
    incoming.prepare(SPEC, [], Source(VM, 60), job)
    driver.add(VM)
    incoming.finish(VM, True, [], [], job)
    assert image.exists()
    incoming.undo_interrupted_prepare(SPEC, [])
    assert image.exists(), "the VM has come"
    driver.add(VM, PowerState.ABSENT)
    incoming.undo_interrupted_prepare(SPEC, [])
    assert not image.exists()


def test_old_images_of_unknown_vms_are_swept(seeds: Seeds) -> None:
    for vm_id in ("known", "unknown"):
        seeds.place(replace(SPEC, vm_id=vm_id))
    now = (seeds.directory / "known.iso").stat().st_mtime
    assert seeds.sweep({"known"}, lambda: now + 3600) == [], "it may be about to come"
    assert seeds.sweep({"known"}, lambda: now + 90_000) == ["unknown"]
    assert [path.name for path in seeds.directory.iterdir()] == ["known.iso"]


def test_a_specification_does_not_show_its_seed() -> None:
    assert "hunter22" not in repr(SPEC)


@pytest.mark.parametrize(
    "names", [["user-data", "user-data"], ["../user-data"], ["user-data", "other"]], ids=["twice", "path", "unknown"]
)
def test_the_wire_brings_only_the_files_of_a_seed(names: list[str]) -> None:
    with pytest.raises(InvalidArgumentError):
        convert.seed(vm_pb2.Seed(files=[vm_pb2.Seed.File(name=name) for name in names]), "spec.seed")
    large = vm_pb2.Seed(files=[vm_pb2.Seed.File(name="user-data", content=bytes(convert.MAX_SEED_BYTES + 1))])
    with pytest.raises(InvalidArgumentError):
        convert.seed(large, "spec.seed")
