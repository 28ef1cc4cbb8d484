"""What virt-v2v is told, what a caller may add, and what is heard of it."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from ostler_agent.conversion.guest import MAX_ARGUMENTS, check_arguments, domain_xml
from ostler_agent.spec import Firmware
from ostler_agent.tools import virt_v2v
from ostler_common.disk_names import disk_name
from ostler_common.errors import InvalidArgumentError


def test_the_domain() -> None:
    domain = ElementTree.fromstring(domain_xml([Path("/tmp/disks/0"), Path("/tmp/disks/1")], Firmware.UEFI))
    assert [source.get("file") for source in domain.iter("source")] == ["/tmp/disks/0", "/tmp/disks/1"]
    assert [target.get("dev") for target in domain.iter("target")] == ["sda", "sdb"]
    boot = domain.find("os")
    assert boot is not None
    assert boot.get("firmware") == "efi"
    assert 'firmware="bios"' in domain_xml([Path("/d")], Firmware.BIOS)


def test_disk_names() -> None:
    assert [disk_name("sd", number) for number in (0, 25, 26, 701, 702)] == ["sda", "sdz", "sdaa", "sdzz", "sdaaa"]


@pytest.mark.parametrize(
    "argument",
    [
        "--root=first",
        "--root=/dev/sda2",
        "--mac=00:50:56:01:02:03:ip:10.0.0.5,10.0.0.1,24,10.0.0.2",
        "--mac=00:50:56:01:02:03:ip:fd00::5",
        "--block-driver=virtio-scsi",
    ],
)
def test_arguments_that_are_allowed(argument: str) -> None:
    check_arguments([argument])


@pytest.mark.parametrize(
    "argument",
    [
        "--root",
        "--root=ask",
        "--root=/dev/../etc",
        "-ip=/etc/shadow",
        "--key=ALL:file:/etc/shadow",
        "--mac=00:50:56:01:02:03:network:x",
        "--mac=00:50:56:01:02:03:ip:10.0.0.5\n",
        "--run-command=reboot",
        "--root=first --run-command=x",
        "",
    ],
)
def test_arguments_that_are_refused(argument: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        check_arguments(["--root=first", argument])
    assert caught.value.reason == "ARGUMENT_REFUSED"
    assert caught.value.metadata["field"] == "extra_arguments[1]"


def test_too_many_arguments() -> None:
    with pytest.raises(InvalidArgumentError):
        check_arguments(["--root=first"] * (MAX_ARGUMENTS + 1))


def test_lines_that_are_no_messages() -> None:
    line = b'{ "message": "Opening the source", "timestamp": "t", "type": "message" }'
    assert virt_v2v.Message.from_line(line) == virt_v2v.Message("message", "Opening the source")
    for other in (b"", b"text", b"[]", b"3", b'{"message": "x"}', b"\xff"):
        assert virt_v2v.Message.from_line(other) is None


@pytest.mark.parametrize(
    ("errors", "stderr", "reason"),
    [
        (["inspection could not detect the source guest (or physical machine)."], "", "NO_OPERATING_SYSTEM"),
        (["not enough free space for conversion on filesystem /"], "", "GUEST_DISK_FULL"),
        (["nbdkit failed"], "write: No space left on device", "POOL_FULL"),
        (["insufficient free space in the conversion server temporary directory"], "", "HOST_DISK_FULL"),
        (["libguestfs error: launch"], "", "CONVERSION_FAILED"),
        ([], "virt-v2v-in-place: error: oops", "CONVERSION_FAILED"),
        ([], "", "CONVERSION_FAILED"),
    ],
)
def test_failures(errors: list[str], stderr: str, reason: str) -> None:
    assert virt_v2v.failure(errors, stderr).reason == reason
