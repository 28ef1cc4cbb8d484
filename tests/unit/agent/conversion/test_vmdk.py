"""What a VMDK refers to: only files beside it, never another disk."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from ostler_agent.conversion import vmdk
from ostler_common.errors import FailedPreconditionError

DESCRIPTOR = """# Disk DescriptorFile
version=1
CID=12345678
parentCID=ffffffff
createType="twoGbMaxExtentFlat"

# Extent description
RW 4192256 FLAT "disk-f001.vmdk" 0
RW 100 FLAT "disk-f002.vmdk" 0
RW 100 ZERO

# The Disk Data Base
#DDB

ddb.virtualHWVersion = "4"
ddb.geometry.cylinders = "16383"
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in ("disk-f001.vmdk", "disk-f002.vmdk"):
        (tmp_path / name).write_bytes(bytes(1024))
    return tmp_path


def extents(directory: Path, content: bytes | str) -> tuple[str, ...]:
    path = directory / "disk.vmdk"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return vmdk.extents_of(path)


def reason(directory: Path, content: bytes | str) -> str:
    with pytest.raises(FailedPreconditionError) as caught:
        extents(directory, content)
    return caught.value.reason


def sparse(capacity: int = 2048, descriptor: str = DESCRIPTOR) -> bytes:
    head = struct.pack("<4sIIQQQQ", b"KDMV", 1, 3, capacity, 128, 1, 20)
    return head.ljust(512, b"\0") + descriptor.encode().ljust(10240, b"\0") + bytes(60000)


def test_extents_beside_the_descriptor(directory: Path) -> None:
    assert extents(directory, DESCRIPTOR) == ("disk-f001.vmdk", "disk-f002.vmdk")
    assert extents(directory, DESCRIPTOR.replace("\n", "\r\n")) == ("disk-f001.vmdk", "disk-f002.vmdk")


def test_a_sparse_file_holds_its_data_itself(directory: Path) -> None:
    assert extents(directory, sparse()) == ()


@pytest.mark.parametrize(
    "name",
    [
        "/etc/shadow",
        "../disk-f001.vmdk",
        "sub/disk-f001.vmdk",
        "absent.vmdk",
        "disk.vmdk",
        "nbd://host/disk.vmdk",
        "json:{}.vmdk",
        "",
        "passwd",
    ],
)
def test_extents_elsewhere_are_refused(directory: Path, name: str) -> None:
    assert reason(directory, DESCRIPTOR.replace("disk-f001.vmdk", name)) == "BACKING_FILE_REFUSED"


def test_an_extent_that_is_a_link_is_refused(directory: Path) -> None:
    (directory / "disk-f001.vmdk").unlink()
    (directory / "disk-f001.vmdk").symlink_to("/etc/shadow")
    assert reason(directory, DESCRIPTOR) == "BACKING_FILE_REFUSED"


@pytest.mark.parametrize(
    "line",
    [
        ' RW 100 FLAT "/etc/shadow" 0',
        '\tRW 100 FLAT "/etc/shadow" 0',
        'RW\t100 FLAT "/etc/shadow" 0',
        'RW  100 FLAT "/etc/shadow" 0',
        'RW 100 FLAT "/etc/shadow" 0 x',
        'RW 100 VMFSRDM "/dev/sda" 0',
        'RW 100 SESPARSE "disk-f001.vmdk"',
        "RW",
        "100",
        '"/etc/shadow"',
        "RW = 1",
    ],
)
def test_lines_that_qemu_might_read_otherwise_are_refused(directory: Path, line: str) -> None:
    assert reason(directory, DESCRIPTOR + line + "\n") == "NOT_AN_IMAGE"


def test_parents_are_refused(directory: Path) -> None:
    hint = 'parentFileNameHint="base.vmdk"\n'
    assert reason(directory, DESCRIPTOR + hint) == "BACKING_FILE_REFUSED"
    assert reason(directory, DESCRIPTOR.replace("ffffffff", "12345678")) == "BACKING_FILE_REFUSED"
    assert reason(directory, sparse(descriptor=DESCRIPTOR + hint)) == "BACKING_FILE_REFUSED"


def test_a_sparse_file_with_a_descriptor_for_data_is_refused(directory: Path) -> None:
    assert reason(directory, sparse(capacity=0)) == "BACKING_FILE_REFUSED"
    (directory / "disk-f001.vmdk").write_bytes(sparse(capacity=0))
    text = DESCRIPTOR.replace('FLAT "disk-f001.vmdk" 0', 'SPARSE "disk-f001.vmdk"')
    assert reason(directory, text) == "BACKING_FILE_REFUSED"


def test_what_is_no_vmdk(directory: Path) -> None:
    for content in (b"", b"KDMV", b"COWD" + bytes(600), bytes(600)):
        assert reason(directory, content) in ("NOT_AN_IMAGE", "BACKING_FILE_REFUSED")
    assert reason(directory, DESCRIPTOR + "# " + "x" * (64 << 10)) == "NOT_AN_IMAGE"
    assert reason(directory, DESCRIPTOR.split("RW")[0]) == "NOT_AN_IMAGE"
    assert reason(directory, DESCRIPTOR + 'RW 1 FLAT "disk-f001.vmdk" 0\n' * 200) == "NOT_AN_IMAGE"
