"""The image below another one is found by its header, and only plain names are followed."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ostler_agent.spec import DiskFormat
from ostler_agent.tools.backing_chain import Backing, backing_of
from ostler_common.errors import OstlerError


def head(tmp_path: Path, backing: str, format: str | None = "qcow2") -> bytes:
    image = tmp_path / "image"
    command = ["qemu-img", "create", "-q", "-f", "qcow2", str(image), "1M"]
    subprocess.run(command, check=True)
    if backing:
        told = ["-F", format] if format else []
        subprocess.run(["qemu-img", "rebase", "-q", "-u", "-b", backing, *told, str(image)], check=True)
    return image.read_bytes()[: 64 << 10]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("base.qcow2", "/images/base.qcow2"),
        ("old/base.qcow2", "/images/old/base.qcow2"),
        ("/elsewhere/base", "/elsewhere/base"),
    ],
)
def test_a_name_is_read_from_the_directory_of_its_image(tmp_path: Path, name: str, expected: str) -> None:
    assert backing_of("/images/top", head(tmp_path, name)) == Backing(expected, DiskFormat.QCOW2)


def test_a_raw_base_is_told_as_such(tmp_path: Path) -> None:
    assert backing_of("/images/top", head(tmp_path, "base", "raw")) == Backing("/images/base", DiskFormat.RAW)


def test_an_image_may_have_nothing_below_it(tmp_path: Path) -> None:
    assert backing_of("/images/top", head(tmp_path, "")) is None


@pytest.mark.parametrize(
    "name",
    ["../secret", "/images/../../etc/shadow", "nbd://host/disk", "json:{}", "file:base", "base\nother", ".", "./."],
)
def test_other_names_are_refused(tmp_path: Path, name: str) -> None:
    whole = bytearray(head(tmp_path, "x" * len(name)))
    place = whole.rindex(b"x" * len(name))
    whole[place : place + len(name)] = name.encode()
    with pytest.raises(OstlerError) as caught:
        backing_of("/images/top", bytes(whole))
    assert caught.value.reason == "BACKING_FILE_REFUSED"


def test_a_format_that_would_have_to_be_guessed_is_refused(tmp_path: Path) -> None:
    whole = head(tmp_path, "base").replace(b"\xe2\x79\x2a\xca", b"\x12\x34\x56\x78")
    with pytest.raises(OstlerError, match="its format is not told"):
        backing_of("/images/top", whole)


@given(st.binary(max_size=400))
def test_any_header_is_read_or_refused(tail: bytes) -> None:
    assert outcome(b"QFI\xfb\0\0\0\3" + tail) in ("read", "NOT_AN_IMAGE", "BACKING_FILE_REFUSED")


def outcome(image: bytes) -> str:
    try:
        backing_of("/images/top", image)
    except OstlerError as error:
        return error.reason
    return "read"
