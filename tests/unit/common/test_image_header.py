"""Headers of disk images that users bring."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from ostler_common.errors import InvalidArgumentError
from ostler_common.image_header import HEAD_BYTES, check_image

MIB = 1 << 20


def qcow2(
    *,
    version: int = 3,
    backing: tuple[int, int] = (0, 0),
    cluster_bits: int = 16,
    size: int = 10 * MIB,
    crypt: int = 0,
    l1: tuple[int, int] = (1, 0x30000),
    incompatible: int = 0,
    extensions: bytes = b"",
) -> bytes:
    """A header as qemu-img writes it, with one thing or another changed."""
    head = struct.pack(
        ">4sIQIIQIIQQIIQ",
        *(b"QFI\xfb", version, *backing, cluster_bits, size, crypt, *l1, 0x10000, 1, 0, 0),
    )
    return head + struct.pack(">QQQII", incompatible, 0, 0, 4, 104) + extensions + bytes(8)


def refusal(head: bytes, size: int = 1 * MIB, format: str = "qcow2") -> str:
    with pytest.raises(InvalidArgumentError) as caught:
        check_image(head, size, format)
    return caught.value.reason


def test_a_plain_qcow2_is_accepted() -> None:
    assert check_image(qcow2(), MIB, "qcow2").virtual_size_bytes == 10 * MIB
    assert check_image(qcow2(version=2), MIB, "qcow2").virtual_size_bytes == 10 * MIB


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (qcow2(backing=(0x200, 11)), "BACKING_FILE"),
        (qcow2(crypt=2), "ENCRYPTED_IMAGE"),
        (qcow2(incompatible=4), "EXTERNAL_DATA_FILE"),
        (qcow2(extensions=struct.pack(">II8s", 0x44415441, 5, b"/etc/")), "EXTERNAL_DATA_FILE"),
        (qcow2(extensions=struct.pack(">II16s", 0x0537BE77, 16, b"")), "ENCRYPTED_IMAGE"),
        (qcow2(incompatible=2), "CORRUPT_IMAGE"),
        (qcow2(incompatible=1 << 40), "UNSUPPORTED_IMAGE"),
        (qcow2(version=4), "UNSUPPORTED_IMAGE"),
        (qcow2(cluster_bits=40), "CORRUPT_IMAGE"),
        (qcow2(size=0), "CORRUPT_IMAGE"),
        (qcow2(size=1 << 62), "CORRUPT_IMAGE"),
        (qcow2(l1=(1, 1 << 50)), "CORRUPT_IMAGE"),
        (qcow2()[:60], "FORMAT_MISMATCH"),
        (qcow2()[:80], "CORRUPT_IMAGE"),
        (qcow2()[:104], "CORRUPT_IMAGE"),
        (b"\0" * 512, "FORMAT_MISMATCH"),
    ],
)
def test_what_a_qcow2_must_not_be(head: bytes, reason: str) -> None:
    assert refusal(head) == reason


@pytest.mark.parametrize(
    ("head", "size", "reason"),
    [
        (qcow2(), MIB, "FORMAT_MISMATCH"),
        (b"KDMV\1", MIB, "FORMAT_MISMATCH"),
        (b"LUKS\xba\xbe\0\1", MIB, "FORMAT_MISMATCH"),
        (b"\x1f\x8b\x08", MIB, "FORMAT_MISMATCH"),
        (bytes(512), MIB + 1, "NOT_AN_IMAGE"),
        (b"", 0, "NOT_AN_IMAGE"),
    ],
)
def test_what_a_raw_image_must_not_be(head: bytes, size: int, reason: str) -> None:
    assert refusal(head, size, "raw") == reason


def test_a_raw_image_is_as_large_as_its_file() -> None:
    assert check_image(bytes(512), 4 * MIB, "raw").virtual_size_bytes == 4 * MIB


def test_what_qemu_img_makes(tmp_path: Path) -> None:
    if shutil.which("qemu-img") is None:
        pytest.skip("qemu-img is not installed")

    def made(name: str, *arguments: str) -> Path:
        path = tmp_path / name
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *arguments, path, "12M"], check=True)
        return path

    for path in (made("small", "-o", "cluster_size=512"), made("old", "-o", "compat=0.10"), made("plain")):
        assert check_image(path.read_bytes()[:HEAD_BYTES], path.stat().st_size, "qcow2").virtual_size_bytes == 12 * MIB
    data = tmp_path / "data"
    for path, reason in (
        (made("child", "-b", str(tmp_path / "plain"), "-F", "qcow2"), "BACKING_FILE"),
        (made("outside", "-o", f"data_file={data}"), "EXTERNAL_DATA_FILE"),
    ):
        assert refusal(path.read_bytes()[:HEAD_BYTES], path.stat().st_size) == reason
