"""A vCenter with VMs whose disks are real VMDK files."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from ostler_control.vmware.connection import Connection, connected

from tests.fakes.vcenter import FakeVcenter, Json, vcenter

MIB = 1 << 20
NETWORK = "DC0_DVPG0"


def make_vmdk(path: Path, size_bytes: int, seed: int) -> Path:
    """A stream-optimized VMDK as an export serves it, with some data in it."""
    raw = path.with_suffix(".raw")
    random = Random(seed)
    with raw.open("wb") as file:
        file.truncate(size_bytes)
        for offset in range(0, size_bytes, MIB):
            file.seek(offset)
            # Data that does not compress, so that the VMDK is of some size.
            file.write(random.randbytes(64 << 10))
    convert: list[str | Path] = [
        "qemu-img",
        "convert",
        "-f",
        "raw",
        "-O",
        "vmdk",
        "-o",
        "subformat=streamOptimized",
        raw,
        path,
    ]
    subprocess.run(convert, check=True, timeout=60)
    raw.unlink()
    return path


def vm_spec(
    name: str, files: list[Path], *, on: bool = False, guest: str = "ubuntu64Guest", firmware: str = "bios"
) -> Json:
    """A VM with these disks, as tests/fakevc reads it."""
    return {
        "name": name,
        "cpus": 2,
        "memory_mb": 512,
        "guest": guest,
        "firmware": firmware,
        "on": on,
        "nics": [NETWORK],
        "disks": [{"kb": 8 * MIB >> 10, "file": str(file)} for file in files],
    }


@pytest.fixture(scope="session")
def vmdks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two disks of 8 MiB with different content."""
    directory = tmp_path_factory.mktemp("vmdks")
    return [make_vmdk(directory / f"disk{number}.vmdk", 8 * MIB, number) for number in range(2)]


@pytest.fixture
def site(tmp_path: Path, vmdks: list[Path]) -> Iterator[FakeVcenter]:
    """A vCenter with a VM that is off, one that runs, and a Windows VM that runs."""
    vms = [
        vm_spec("off", vmdks),
        vm_spec("on", vmdks, on=True, firmware="efi"),
        vm_spec("windows", vmdks[:1], on=True, guest="windows9Server64Guest") | {"tools": True},
    ]
    with vcenter(tmp_path, vms) as running:
        yield running


@pytest.fixture
def connection(site: FakeVcenter) -> Iterator[Connection]:
    with connected(site.server(), site.password) as session:
        yield session
