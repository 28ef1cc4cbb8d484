"""A disk image cannot keep a host busy for hours."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest
from ostler_agent.image_header import check_stretching
from ostler_common.errors import FailedPreconditionError, InvalidArgumentError
from ostler_common.image_header import HEAD_BYTES, check_image, luks1_iterations, luks_offset

SLOT = 208
ITERATIONS = slice(SLOT + 4, SLOT + 8)
BILLIONS = struct.pack(">I", 0xFFFFFFFF)


def encrypted(path: Path, image_format: str) -> bytearray:
    """A real image, encrypted by qemu-img with few iterations."""
    prefix = "encrypt." if image_format == "qcow2" else ""
    options = [f"{prefix}format=luks"] if image_format == "qcow2" else []
    options += [f"{prefix}key-secret=s", f"{prefix}iter-time=10"]
    name = "qcow2" if image_format == "qcow2" else "luks"
    secret = ["--object", "secret,id=s,data=twelve bytes"]
    command = ["qemu-img", "create", "-q", *secret, "-f", name, "-o", ",".join(options), str(path), "1M"]
    for _ in range(20):
        done = subprocess.run(command, capture_output=True, text=True)
        if "accurate CPU usage" not in done.stderr:  # see `ostler_agent.tools.qemu_img`
            done.check_returncode()
            break
    return bytearray(path.read_bytes())


@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
def test_a_header_with_billions_of_iterations_is_named(tmp_path: Path, image_format: str) -> None:
    path = tmp_path / "image"
    data = encrypted(path, image_format)
    check_stretching(path)
    offset = luks_offset(bytes(data))
    assert offset is not None
    iterations = luks1_iterations(bytes(data[offset:]))
    assert iterations is not None
    assert 1000 <= iterations < 10_000_000
    data[offset + ITERATIONS.start : offset + ITERATIONS.stop] = BILLIONS
    path.write_bytes(data)
    with pytest.raises(FailedPreconditionError, match="PBKDF2 iterations") as caught:
        check_stretching(path)
    assert caught.value.reason == "STRETCHED_TOO_LONG"
    if offset + 592 <= HEAD_BYTES:
        with pytest.raises(InvalidArgumentError) as refused:
            check_image(bytes(data[:HEAD_BYTES]), len(data), image_format, encrypted=True)
        assert refused.value.reason == "STRETCHED_TOO_LONG"


def test_a_header_that_points_nowhere_is_harmless(tmp_path: Path) -> None:
    path = tmp_path / "image"
    data = encrypted(path, "qcow2")
    offset = luks_offset(bytes(data))
    assert offset is not None
    place = bytes(data).index(offset.to_bytes(8, "big"))
    data[place : place + 8] = b"\xff" * 8
    path.write_bytes(data)
    check_stretching(path)
