"""Sizes of disks in image files, as qemu-img makes them."""

from __future__ import annotations

import contextlib
import io
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ostler_common.disk_capacity import capacity_bytes
from ostler_common.errors import FailedPreconditionError

MIB = 1 << 20


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("qcow2", ""),
        ("raw", ""),
        ("vdi", ""),
        ("vhdx", ""),
        ("vmdk", "subformat=monolithicSparse"),
        ("vmdk", "subformat=streamOptimized"),
        ("vmdk", "subformat=twoGbMaxExtentSparse"),
    ],
)
def test_the_size_is_the_one_that_was_asked_for(tmp_path: Path, format: str, options: str) -> None:
    path = tmp_path / "disk"
    more = ["-o", options] if options else []
    subprocess.run(["qemu-img", "create", "-q", "-f", format, *more, path, "37M"], check=True)
    with path.open("rb") as file:
        assert capacity_bytes(file) == 37 * MIB


@pytest.mark.parametrize(
    "head", [b"QFI\xfb", b"KDMV", b"vhdxfile", b"", b"QFI\xfb" + b"\xff" * 100, b"# Disk DescriptorFile\nRW 0 FLAT"]
)
def test_a_header_without_a_sensible_size_is_refused(head: bytes) -> None:
    with pytest.raises(FailedPreconditionError) as error:
        capacity_bytes(io.BytesIO(head))
    assert error.value.reason == "NOT_AN_IMAGE"


@given(st.sampled_from([b"QFI\xfb", b"KDMV", b"vhdxfile", b""]), st.binary(max_size=600))
def test_no_header_raises_anything_else(magic: bytes, rest: bytes) -> None:
    with contextlib.suppress(FailedPreconditionError):
        assert 0 < capacity_bytes(io.BytesIO(magic + rest)) <= 64 << 40
