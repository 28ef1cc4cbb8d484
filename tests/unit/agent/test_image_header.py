import os
from pathlib import Path

import pytest
from ostler_agent.image_header import read_header
from ostler_agent.spec import DiskFormat
from ostler_common.errors import FailedPreconditionError, NotFoundError

from tests.images import luks, qcow2


def written(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "image"
    path.write_bytes(data)
    return path


def test_qcow2(tmp_path: Path) -> None:
    header = read_header(written(tmp_path, qcow2()), DiskFormat.QCOW2)
    assert (header.encrypted, header.virtual_size_bytes) == (False, 1 << 30)
    assert read_header(written(tmp_path, qcow2(encryption=2)), DiskFormat.QCOW2).encrypted
    assert read_header(written(tmp_path, qcow2(version=2)), DiskFormat.QCOW2).virtual_size_bytes == 1 << 30


def test_luks_is_as_large_as_its_payload(tmp_path: Path) -> None:
    path = written(tmp_path, luks())
    assert read_header(path, DiskFormat.RAW, encrypted=True).virtual_size_bytes == 1024
    assert read_header(path, DiskFormat.RAW).encrypted


def test_a_guest_that_writes_a_luks_header_into_its_plain_disk_changes_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, luks())
    header = read_header(path, DiskFormat.RAW, encrypted=False)
    assert (header.encrypted, header.virtual_size_bytes) == (False, path.stat().st_size)


def test_raw_is_raw_whatever_it_looks_like(tmp_path: Path) -> None:
    assert read_header(written(tmp_path, qcow2(backing=4096)), DiskFormat.RAW).virtual_size_bytes == 104


@pytest.mark.parametrize("data", [qcow2(backing=4096), qcow2(version=2, backing=104), qcow2(incompatible=4)])
def test_a_header_that_names_another_file_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(FailedPreconditionError) as caught:
        read_header(written(tmp_path, data), DiskFormat.QCOW2)
    assert caught.value.reason == "BACKING_FILE_REFUSED"


@pytest.mark.parametrize(
    ("data", "disk_format", "encrypted"),
    [
        (b"", DiskFormat.QCOW2, None),
        (b"QFI\xfb", DiskFormat.QCOW2, None),
        (bytes(4096), DiskFormat.QCOW2, None),
        (qcow2(version=4), DiskFormat.QCOW2, None),
        (qcow2(size=1000), DiskFormat.QCOW2, None),
        (qcow2(encryption=1), DiskFormat.QCOW2, None),
        (b"", DiskFormat.RAW, True),
        (bytes(4096), DiskFormat.RAW, True),
        (luks(version=2), DiskFormat.RAW, True),
        (luks(payload_sectors=100)[:2048], DiskFormat.RAW, True),
    ],
)
def test_no_image(tmp_path: Path, data: bytes, disk_format: DiskFormat, encrypted: bool | None) -> None:
    with pytest.raises(FailedPreconditionError) as caught:
        read_header(written(tmp_path, data), disk_format, encrypted)
    assert caught.value.reason == "NOT_AN_IMAGE"


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        read_header(tmp_path / "image", DiskFormat.RAW)
    assert caught.value.reason == "VOLUME_NOT_FOUND"


def test_only_regular_files(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "fifo", "."):
        with pytest.raises(FailedPreconditionError) as caught:
            read_header(tmp_path / name, DiskFormat.RAW)
        assert caught.value.reason == "NOT_AN_IMAGE"
